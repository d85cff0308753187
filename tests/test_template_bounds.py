"""Templates that nobody vouches for: what they may not do, and where their budget ends them."""

from __future__ import annotations

import contextlib
import gc
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fastlm.errors import FastlmError, ModelFormatError, ParameterError
from fastlm.tokenizer.chat import ChatTemplate
from fastlm.tokenizer.jinja import template as jinja_template
from fastlm.tokenizer.jinja.formats import format_map
from fastlm.tokenizer.jinja.meter import Exhausted, Meter, work_for

HELLO = [{"role": "user", "content": "Hello"}]
SPENT = "far more than the messages ask for"
NS = "{% set ns = namespace(x='aaaaaaaa', l=[1], n=3, d={}) %}"


def render(source: str, messages: object = HELLO, **variables: object) -> str:
    return ChatTemplate(source, "x.jinja", {"bos_token": "<s>"}).render(messages, **variables)


def work_of(source: str, **variables: Any) -> int:
    """The units that a rendering takes."""
    meters = []

    class Watched(Meter):
        def __init__(self, left: int) -> None:
            super().__init__(left)
            meters.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja_template, "Meter", Watched)
        jinja_template.Template(source).render(variables, 10**9)
    return 10**9 - meters[0].left


def repeated(statement: str, times: int = 100) -> str:
    return f"{NS}{{% for i in range({times}) %}}{statement}{{% endfor %}}"


GROWING = {
    "text by +": repeated("{% set ns.x = ns.x + ns.x %}"),
    "text by ~": repeated("{% set ns.x = ns.x ~ ns.x %}"),
    "text by *": repeated("{% set ns.x = ns.x * 9 %}"),
    "list": repeated("{% set ns.l = ns.l + ns.l %}"),
    "list by *": repeated("{% set ns.l = ns.l * 9 %}"),
    "list of texts": repeated("{% set ns.l = ns.l + ['a' * 99999 ~ i] %}", 9999),
    "number": repeated("{% set ns.n = ns.n * ns.n %}{{ ns.n }}"),
    "written": repeated("{{ 'a' * 99999 }}", 9999),
    "caught": repeated("{% set x %}{{ x }}{{ x }}a{% endset %}{% set ns.x = ns.x ~ x %}{% set ns.x = ns.x ~ ns.x %}"),
    "macro": "{% macro m() %}{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}{% endmacro %}{{ m() | length }}",
    "filter block": "{% filter upper %}{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}{% endfilter %}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 9999) | length }}",
    "replace nothing": "{{ ('a' * 99999) | replace('', 'b' * 9999) | length }}",
    "join": "{{ ('x' * 9999).join('y' * 9999) | length }}",
    "join filter": "{{ ('y' * 9999) | join('x' * 9999) | length }}",
    "indent": "{{ ('a\\n' * 9999) | indent(99999) | length }}",
    "tabs": "{{ ('\\t' * 99999).expandtabs(99999) | length }}",
    "tojson": "{{ [[[1] * 9999] * 9] | tojson(indent=99999) | length }}",
    "tojson separators": "{{ ([1] * 99999) | tojson(separators=('x' * 9999, '')) | length }}",
    "fields of a format": "{{ ('{0:99999}' * 999).format('') | length }}",
    "fields of %": "{{ ('%99999d' * 999) % ((1,) * 999) | length }}",
    "words": "{{ ('a ' * 999999).split() | length }}",
    "lines": "{{ ('\\n' * 3999999).splitlines() | length }}",
    "slices": "{{ [1] | slice(10 ** 9) | list | length }}",
    "batches": "{{ [1] | batch(10 ** 9, 'x') | list | length }}",
    "padding": "{{ 'x'.ljust(10 ** 10) }}{{ 'x' | center(10 ** 10) }}",
    "table": "{{ dict.fromkeys(range(100000) | list, 'x' * 99) | length }}" * 9,
    "clock": "{{ strftime_now('%Y' * 99999) | length }}",
}
LONG = {
    "loops": "".join(f"{{% for a{i} in range(90000) %}}" for i in range(3)) + "{% endfor %}" * 3,
    "condition of a loop": "{% for a in range(90000) %}{% for b in range(90000) if b < 0 %}{% endfor %}{% endfor %}",
    "loop of nothing": repeated("{% for j in ns.x if false %}{% endfor %}", 99999),
    "sum of lists": "{{ ([[1]] * 99999) | sum(start=[]) | length }}",
    "rfind": "{{ ('a' * 400000).rfind('ab' + 'a' * 200000) }}",
    "rsplit": "{{ ('a' * 400000).rsplit('ab' + 'a' * 200000) | length }}",
    "rpartition": "{{ ('a' * 400000).rpartition('ab' + 'a' * 200000) | length }}",
    "count": repeated("{{ ('a' * 99999).count('ab') }}", 99999),
    "in a text": repeated("{{ 'ab' in 'a' * 9999 }}", 99999),
    "in a list": "{% set l = range(90000) | list %}{{ l | select('in', l) | list | length }}",
    "index": "{{ ([[1] * 9999] * 9999).index([1] * 9999 + [2]) }}",
    "equal lists": repeated("{% if ns.l * 9999 == ns.l * 9999 %}{% endif %}", 9999),
    "sorting": "{{ (['a' * 99999, 'a' * 99999 ~ 'b'] * 9999) | sort | length }}",
    "digits": "{% set n = 7 ** 1300 %}{% for i in range(90000) %}{% if n | string | int %}{% endif %}{% endfor %}",
    "keys that meet": "{% for i in range(90) %}{{ dict.fromkeys(range(0, 90000)) | length }}{% endfor %}",
    "stripping": "{{ ('a' * 999999).strip('b' * 9999 ~ 'a') | length }}",
}
HELD = {
    "text": "'ab' * 40000",
    "path": "'a.' * 40000",
    "paths": "'a,' * 40000",
    "table": "dict.fromkeys(range(200) | map('string'))",
    "meeting": "dict.fromkeys([" + ",".join(str(i * (2**61 - 1)) for i in range(500)) + "])",
    "also_meeting": "dict.fromkeys([" + ",".join(str(i * (2**61 - 1)) for i in range(500)) + "])",
}
# What an expression must cost at least, by what it does to the values above: it makes hardly anything.
UNPAID = {
    "''.strip(text)": 5_000,
    "''.lstrip(text) | trim(text)": 10_000,
    "[] | join(attribute=path)": 80_000,
    "[] | sum(attribute=path)": 80_000,
    "[] | sort(attribute=path)": 80_000,
    "[] | sort(attribute=paths)": 2_000_000,
    "[] | max(attribute=path)": 80_000,
    "[] | groupby(path)": 160_000,
    "[] | unique(attribute=path) | list": 80_000,
    "1.1e300 | round(300)": 400,
    "1.1e300 | round": 400,
    "(2 ** 4000) | round(-400)": 400,
    "3 ** 2000": 200,
    "1 | tojson(indent=1000000)": 1_000_000,
    "strftime_now('')": 100,
    "meeting == also_meeting": 30_000,
    "meeting.keys() == also_meeting.keys()": 30_000,
    "many()": 15_000,
    "default()": 5_000,
}
SHARED = {"list": "[ns.x, ns.x]", "tuple": "(ns.x, ns.x)", "table": "{'a': ns.x, 'b': ns.x}"}
VISITS = {
    "==": "{{ ns.x == [ns.x] }}",
    "in": "{{ ns.x in [ns.x, 1] }}",
    "text": "{{ ns.x }}",
    "tojson": "{{ ns.x | tojson }}",
    "%": "{{ '%s' % [ns.x] }}",
    "format": "{{ '{!r}'.format(ns.x) }}",
    "sort": "{{ [ns.x, ns.x] | sort }}",
    "join": "{{ [ns.x] | join }}",
    "count": "{{ [ns.x, 1].count(ns.x) }}",
    "namespace": "{{ ns }}",
    "changed": "{% for i in [1, 2] %}{{ loop.changed(ns.x) }}{% endfor %}",
}


@pytest.mark.parametrize("name", GROWING)
def test_memory_does_not_run_away(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FastlmError, match=r"x\.jinja: "):
            render(GROWING[name])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LONG)
def test_time_does_not_run_away(name: str) -> None:
    with pytest.raises(ModelFormatError, match=SPENT):
        render(LONG[name])


def test_what_is_looked_at_is_paid_for() -> None:
    """A loop around an expression of this table took minutes, within the budget."""
    before = "".join(f"{{% set {name} = {value} %}}" for name, value in HELD.items())
    before += "{% macro many(" + ",".join(f"a{i}" for i in range(500)) + ") %}{% endmacro %}"
    before += "{% macro default(a=[" + "1," * 500 + "]) %}{% endmacro %}"
    least = work_of(before)
    for expression, work in UNPAID.items():
        assert work_of(f"{before}{{% if {expression} %}}{{% endif %}}") - least >= work, expression


def test_format_map_reads_only_the_fields_that_it_writes() -> None:
    class Watched(dict[str, int]):
        def keys(self) -> Any:
            raise AssertionError("the whole table is copied")

    assert format_map(Meter(10_000), "{a}{b:2}", Watched(a=1, b=2)) == "1 2"


def test_names_of_macros_are_short_in_texts() -> None:
    """They are as long as a template, and a list holds one many times."""
    name = "m" * 30_000
    source = f"{{% macro {name}() %}}{{% endmacro %}}{{{{ ([{name}] * 10000) | string | length }}}}"
    assert int(render(source)) < 2_000_000


HOLDING_ITSELF = [
    "{% set ns = namespace() %}{% set ns.me = [ns] %}",
    "{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{{ loop.changed(ns) }}{% endfor %}",
    "{% for i in [1] %}{% macro m() %}{% endmacro %}{% endfor %}",
    "{% macro m() %}{% macro n() %}{% endmacro %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(m, x=m) }}",
    "{% macro m() %}{% set c = caller %}{% macro n() %}{% endmacro %}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for i in [1, [2]] recursive %}{% macro m() %}{% endmacro %}{{ loop(i) if i is sequence }}{% endfor %}",
    "{% for i in [1, 2] if i %}{{ loop.changed(loop) }}{% endfor %}",
    "{% for i in [1] %}{% set a = loop %}{% for j in [1] %}{{ a.changed(loop) }}{% endfor %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.me = ns %}{{ 1 / 0 }}",
    "{% with a = 1 %}{% macro m() %}{{ 1 / 0 }}{% endmacro %}{{ m() }}{% endwith %}",
]


@pytest.mark.parametrize("source", HOLDING_ITSELF)
def test_a_rendering_leaves_nothing_to_the_garbage_collector(source: str) -> None:
    template = ChatTemplate(source, "x.jinja", {})
    gc.disable()
    try:
        for wanted in (None, 0):
            with contextlib.suppress(ModelFormatError):
                template.render(HELLO)
            found = gc.collect()  # the first time, also of what was before, and of the translation
            assert wanted in (None, found)
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", SHARED)
@pytest.mark.parametrize("visit", VISITS)
def test_shared_parts_are_visited_again_and_again(visit: str, shape: str) -> None:
    """2 ** 60 parts that are forty values: whoever goes through them pays for each."""
    source = f"{NS}{{% for i in range(60) %}}{{% set ns.x = {SHARED[shape]} %}}{{% endfor %}}"
    with pytest.raises(ModelFormatError, match=SPENT):
        render(source + VISITS[visit])


def test_keys_are_texts_and_numbers() -> None:
    """A tuple of tuples is hashed through all its parts, and parts can be shared."""
    for use in ("{{ {(1, 2): 3} }}", "{{ {'a': 1} | unique | list }}{{ [(1,)] | unique | list }}", "{{ (1,) in {} }}"):
        with pytest.raises(ModelFormatError, match="cannot be a key"):
            render(use)
    assert render("{{ {1: 2}[(1,)] is undefined }}{{ {1: 2, 1.5: 3, none: 4}[none] }}") == "True4"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).__mro__ }}",
        "{{ ([messages] | map(attribute='__class__') | first).x }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range.__self__.x }}",
        "{{ raise_exception.run.__globals__ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ self._TemplateReference__context.x }}",
        "{% set x = messages.append(1) %}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ '{a[b]}'.format_map({'a': {'b': 1}}) }}",
        "{{ ('{0.__class__}' | attr('format'))(1) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ 'a'.encode('punycode') }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{% include 'other' %}",
        "{% import 'os' as o %}",
        "{% extends 'x' %}",
        "{% autoescape true %}{% endautoescape %}",
    ],
)
def test_templates_reach_nothing_of_python(source: str) -> None:
    with pytest.raises(FastlmError, match=r"x\.jinja: "):
        render(source)


def test_hidden_attributes_are_nothing() -> None:
    assert render("{{ messages | attr('__class__') }}{{ messages.append }}{{ range.name }}{{ loop }}") == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
        "{% macro a() %}" * 100 + "{% endmacro %}" * 100,
        "{% filter string %}" * 300 + "{% endfilter %}" * 300,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 400 + "]" * 400 + " }}",
        "{{ " + "not " * 5000 + "1 }}",
        "{{ " + "+".join(["1"] * 20000) + " }}",
        "{{ 1" + " | string" * 3000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ " + "9" * 3000 + " }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% call f(n) %}{% endcall %}{% endmacro %}{{ f(1) }}",
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% break %}",
        "{% for a in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
        "{{ dict(a=1, a=2) }}",
        "{{ dict(a=1, **{'a': 2}) }}",
        "{{ f(**{1: 2}) }}",
        "{% set a, b = 1, 2, 3 %}",
        "{% for a, b in [1] %}{% endfor %}",
        "{% set messages.x = 1 %}",
        "{{ 1() }}{{ missing() }}",
        "{{ cycler() }}",
        "{{ 1 | nothing }}",
        "{{ 1 is nothing }}",
        "{{ 1/0 }}{{ 1 // 0 }}",
        "{{ 10 ** 10000000 }}",
        "{{ 1e308 ** 2 }}",
        "{{ (-1) ** 0.5 }}",
        "{{ 1e400 | int }}",
        "{{ 1.5 | round(2147483648) }}",
        "{{ '%*d' % (2000000000, 1) }}",
        "{{ '%.*f' | format(2000000000, 1.5) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ ('%((a))99999999d' % {'(a)': 1}) | length }}",
        "{{ '{:{w}}'.format('', w=16777215) }}",
        "{{ '{0:>{w}}'.format_map({'0': 1, 'w': 2000000000}) }}",
        "{{ range(10000000) }}",
        "{{ messages | tojson(cls=dict) }}",
        "{{ missing | tojson }}",
        "{{ strftime_now(1) }}{{ strftime_now() }}",
        "{{ strftime_now('\\ud800') }}",
        "{{ [1, 'a'] | sort }}",
        "{{ none + 1 }}{{ 'a' - 1 }}",
        "{{ raise_exception() }}",
        "{{ 'a' | map | list }}{% for",
        "{% raw %}" + "{# ",
        "{{ ",
        "a" * 70_000,
        "{{" + "~".join(["a()"] * 16_000) + "}}",
    ],
)
def test_every_error_is_typed(source: str) -> None:
    with pytest.raises(FastlmError, match=r"x\.jinja: ") as caught:
        render(source)
    assert len(str(caught.value)) < 1000


def test_long_templates_are_translated_fast() -> None:
    """Their words and signs are bounded, not only their characters; published ones are far from it."""
    with pytest.raises(ModelFormatError, match="more than 16,384 words and signs"):
        render("{{" + "~".join(["a()"] * 4_500) + "}}")
    assert render("{% if messages %}{{ messages[0].content }}{% endif %}" * 1_000) == "Hello" * 1_000


def test_refusals_are_short() -> None:
    with pytest.raises(ParameterError) as caught:
        render("{{ raise_exception('a' * 99999) }}")
    assert len(str(caught.value)) < 2000


# ---- what is not hostile ------------------------------------------------------------------------


def test_the_budget_grows_with_the_conversation() -> None:
    source = (Path(__file__).parent / "templates" / "qwen3_thinking.jinja").read_text(encoding="utf-8")
    long = "<think>\n" + "So. " * 300_000 + "</think>\n" + "é漢😀 " * 900_000
    messages = [{"role": "user", "content": long}, {"role": "assistant", "content": long}] * 2
    made = render(source, messages)
    assert len(made) > 4 * 3_600_000
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 4000]
    assert render(source, turns).count("<|im_start|>") == 8001


def test_usual_templates_take_a_small_part_of_the_budget() -> None:
    folder = Path(__file__).parent / "templates"
    sources = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))]
    turns = [{"role": role, "content": "Some words of a turn."} for role in ("user", "assistant") * 20]
    variables = {"messages": turns, "tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    assert len(sources) >= 30
    for source in sources:
        assert work_of(source, **variables, add_generation_prompt=True) < work_for(0, 0) / 30


def test_work_is_counted_and_the_same_each_time() -> None:
    source = "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"
    many = work_of(source, messages=HELLO * 200)
    assert many == work_of(source, messages=HELLO * 200) > 100 * work_of(source, messages=HELLO)
    needle = "{{ ('a' * n).rfind('b' + 'a' * n // 2) }}".replace("'a' * n // 2", "'a' * (n // 2)")
    assert work_of(needle, n=40_000) > 3.9 * work_of(needle, n=20_000)  # by the square
    forward = needle.replace("rfind", "find")
    assert work_of(forward, n=40_000) < 2.1 * work_of(forward, n=20_000)


def test_a_template_can_be_used_after_it_failed() -> None:
    template = ChatTemplate("{% for i in range(x) %}{% for j in range(x) %}{% endfor %}{% endfor %}ok", "x.jinja", {})
    with pytest.raises(ModelFormatError, match=SPENT):
        template.render(HELLO, x=90_000)
    assert template.render(HELLO, x=3) == "ok"


def test_a_template_is_translated_once_and_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    translated = []
    parse = jinja_template.Environment.parse
    monkeypatch.setattr(
        jinja_template.Environment, "parse", lambda self, source: translated.append(source) or parse(self, source)
    )
    template = ChatTemplate(repeated("{% set ns.n = ns.n + i %}", 500) + "{{ ns.n }}", "x.jinja", {})
    assert template.render(HELLO) == "124753"
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(template.render(HELLO))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["124753"] * 8 and len(translated) == 1


def test_the_budget_is_what_the_template_is_given() -> None:
    with pytest.raises(Exhausted):
        jinja_template.Template("{{ 'a' * 9999 }}").render({}, 5000)
