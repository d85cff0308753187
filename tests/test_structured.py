"""Texts by JSON schemas, regular expressions and grammars; jsonschema and re say whether they are right."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import re
import sys
import threading
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pydantic
import pytest
from grammar_models import closing_bias, save_bytes_model, save_with_tokenizer

import fastlm
from fastlm.cli import main
from fastlm.structured.grammar import Grammar
from fastlm.structured.grammars import Grammars
from fastlm.structured.library import Matcher

pytest.importorskip("llguidance")

POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}, "required": ["x", "y"]}
SCHEMAS: dict[str, Any] = {
    "string": {"type": "string", "maxLength": 8},
    "bounded": {"type": "integer", "minimum": -5, "maximum": 130},
    "number": {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 100},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {"type": "string", "format": "ipv4"},
    "enum": {"enum": ["red", "Grün", 3, None, {"a": [1]}, True]},
    "const": {"const": {"a b": 'quote " and \\ and ü'}},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"type": "integer"}], "items": False, "minItems": 2},
    "point": {**POINT, "additionalProperties": False},
    "open": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "optional": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "null"}}, "required": ["b"]},
    "any": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 5}, {"type": "null"}]},
    "one": {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
    "all": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "types": {"type": ["integer", "null", "array"], "maxItems": 2},
    "shared": {"$defs": {"p": POINT}, "type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 1, "maxItems": 2},
    "tree": {
        "$defs": {"t": {"type": "object", "properties": {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/t"}}}},
        "$ref": "#/$defs/t",
    },
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 6},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "at": POINT,
        },
        "required": ["name", "tags", "at"],
        "additionalProperties": False,
    },
    "true": True,
}
REGEXES = [
    r"[a-z]{3,9}",
    r"\d{4}-(0[1-9]|1[0-2])-[0-3]\d",
    r"(yes|no|maybe)( sir)?",
    r" ?[^\x00-\x7f]{1,4}",
    r"#[0-9A-F]{6}",
    r"(?i:hello),? w.rld!*",
    r"x",
]
PATHS = r"(/[a-z]{1,3}){1,3}"
SUMS = 'start: sum\nsum: value | sum "+" value\nvalue: /[1-9][0-9]?/ | "(" sum ")"\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fastlm.Model]:
    with fastlm.load(save_bytes_model(tmp_path_factory.mktemp("bytes")), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def options(model: fastlm.Model) -> dict[str, Any]:
    return {"max_tokens": 150, "temperature": 1.0, "logit_bias": closing_bias(model)}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_texts_are_valid(model: fastlm.Model, options: dict[str, Any], schema: Any) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    prompts = [fastlm.Request("Once", seed=seed) for seed in range(8)]
    done = model.batch(prompts, json_schema=schema, **options)
    whole = [one for one in done if one.finish_reason == "stop"]
    assert len(whole) >= 4
    for one in whole:
        validator.validate(json.loads(one.text))


@pytest.mark.parametrize("regex", REGEXES)
def test_regexes(model: fastlm.Model, regex: str) -> None:
    done = model.batch([fastlm.Request("a", seed=i) for i in range(8)], regex=regex, temperature=1.0, max_tokens=80)
    whole = [one.text for one in done if one.finish_reason == "stop"]
    assert len(whole) >= 4 and all(re.fullmatch(regex, text) for text in whole)


def test_a_grammar(model: fastlm.Model) -> None:
    done = model.batch([fastlm.Request("1", seed=i) for i in range(8)], grammar=SUMS, temperature=0.8, max_tokens=200)
    whole = [one.text for one in done if one.finish_reason == "stop"]
    assert whole and all(eval(text) > 0 for text in whole)


class Colour(enum.Enum):
    RED, BLUE = "red", "blue"


@dataclasses.dataclass
class Place:
    x: int
    y: float | None


@dataclasses.dataclass
class Thing:
    name: Literal["cup", "pot"]
    colour: Colour
    places: list[Place]
    sizes: tuple[int, bool]
    inside: dict[str, bool]
    next: Thing | None = None


class Person(pydantic.BaseModel):
    age: int = pydantic.Field(ge=0, le=9)
    kind: Literal["a", "b"]


def test_ways_to_write_a_schema(model: fastlm.Model, options: dict[str, Any]) -> None:
    schema = Person.model_json_schema()
    texts = {
        model.generate("a", json_schema=value, seed=5, **options).text
        for value in (Person, schema, json.dumps(schema), Person.model_json_schema())
    }
    (text,) = texts
    Person.model_validate_json(text)
    thing = None
    for seed in range(6):
        done = model.generate("a", json_schema=Thing, seed=seed, **options)
        if done.finish_reason == "stop":
            thing = json.loads(done.text)
            assert thing["name"] in ("cup", "pot") and thing["colour"] in ("red", "blue")
            assert isinstance(thing["sizes"][0], int) and isinstance(thing["sizes"][1], bool)
            assert all(set(place) == {"x", "y"} for place in thing["places"])
    assert thing is not None


def test_bits(model: fastlm.Model, options: dict[str, Any], tmp_path: Path) -> None:
    """The same text alone, in a batch beside others, streamed, by tasks, and with other threads."""
    requests = [fastlm.Request("Once", seed=i, json_schema=schema) for i, schema in enumerate(SCHEMAS.values())]
    requests += [fastlm.Request("Once", seed=99), fastlm.Request("Once", seed=3, regex=PATHS)]
    alone = [model.generate(request, **options) for request in requests]
    together = model.batch(requests, **options)
    streamed = ["".join(chunk.text for chunk in model.stream(request, **options)) for request in requests]
    posted = asyncio.run(model.abatch(requests, **options))
    with fastlm.load(save_bytes_model(tmp_path), threads=2) as other:
        threads = other.batch(requests, **options)
    for i, one in enumerate(alone):
        for found in (together[i], posted[i], threads[i]):
            assert (found.text, found.token_ids, found.finish_reason) == (one.text, one.token_ids, one.finish_reason)
        assert streamed[i] == one.text


BYTES = ("gpt2", "qwen2", "llama", "llama_without_space", "gemma", "bloom")
WORDS = ("t5", "xlm_roberta", "bert", "openai_gpt")  # whose small vocabularies have no braces


@pytest.mark.parametrize("kind", [*BYTES, *WORDS])
def test_tokenizers(tmp_path: Path, kind: str) -> None:
    """Byte-level, SentencePiece's two, WordPiece, and ends of words."""
    save_with_tokenizer(tmp_path, kind)
    with fastlm.load(tmp_path, threads=1) as model:
        options: Any = {"max_tokens": 200, "temperature": 1.0, "logit_bias": closing_bias(model)}
        prompts = [fastlm.Request([5, 6], seed=seed) for seed in range(6)]
        schema = SCHEMAS["nested"]
        spaced = [] if kind == "openai_gpt" else [r"[a-z]+( [a-z]{1,5}){2}"]  # its words end with the space
        for regex in (r" ?[a-z]{2,9}", *spaced):
            done = model.batch(prompts, regex=regex, **options)
            whole = [one.text for one in done if one.finish_reason == "stop"]
            assert len(whole) >= 3 and all(re.fullmatch(regex, text) for text in whole)
            assert ["".join(c.text for c in model.stream(p, regex=regex, **options)) for p in prompts] == [
                one.text for one in done
            ]
        if kind in WORDS:
            with pytest.raises(fastlm.UnsupportedError, match="json_schema: cannot be followed"):
                model.generate([5, 6], json_schema=schema)
            return
        done = model.batch(prompts, json_schema=schema, **options)
        texts = [one.text for one in done if one.finish_reason == "stop"]
        assert len(texts) >= 3
        for text in texts:
            jsonschema.validate(json.loads(text), schema)


def test_with_everything_else(model: fastlm.Model, options: dict[str, Any]) -> None:
    """n, log-probabilities, penalties, stop strings, sessions, echo: as without a grammar."""
    done = model.generate("Once", json_schema=SCHEMAS["list"], n=3, seed=2, logprobs=2, echo=True, **options)
    for one in (done, *done.alternatives):
        assert len(json.loads(one.text.removeprefix("Once"))) >= 2
        assert one.logprobs is not None and len(one.logprobs) == len(one.token_ids)
        assert all(len(entry.top) == 2 for entry in one.logprobs)
    assert model.generate("Once", regex="abc{3}d", stop="cc").text == "ab"
    penalised = model.generate("Once", regex="(a|b){6}", temperature=0, frequency_penalty=100.0, max_tokens=20)
    assert sorted(penalised.text) == ["a"] * 3 + ["b"] * 3
    assert len(model.generate("Once", regex="[a-z]+", min_tokens=20, max_tokens=25, seed=1).text) >= 20
    with model.session() as session:
        for _ in range(200):  # it is free at once, whatever the thread of the masks does
            session.generate("x", regex="[a-f]{2}")
            session.rewind(len(session))
        first = session.generate("x", regex="[a-f]{4}")
        again = session.generate("y", regex="[0-5]{4}")
        assert re.fullmatch("[a-f]{4}", first.text) and re.fullmatch("[0-5]{4}", again.text)
        assert session.tokens[-4:] == again.token_ids
    assert model.generate("Once", regex="[a-z]{9}", max_tokens=4).finish_reason == "length"
    assert model.generate("Once", regex="x", max_tokens=0).text == ""


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"json_schema": "{"}, fastlm.ParameterError, "json_schema: not JSON.*line 1 column 2"),
    ({"json_schema": [1]}, fastlm.ParameterError, "json_schema must be a schema"),
    ({"json_schema": "[1]"}, fastlm.ParameterError, "json_schema: a schema is an object"),
    ({"json_schema": {"a": {1}}}, fastlm.ParameterError, "json_schema: cannot be written as JSON"),
    ({"json_schema": int}, fastlm.ParameterError, "int is no dataclass"),
    ({"json_schema": {"type": "foo"}}, fastlm.ParameterError, "json_schema: Invalid type: foo"),
    (
        {"json_schema": {"type": "object", "properties": {"a": {"items": {"type": "foo"}}}}},
        fastlm.ParameterError,
        "json_schema: #/properties/a/items: Invalid type: foo",
    ),
    (
        {"json_schema": {"properties": {"b": {}, "a": {"type": "array", "contains": {}}}}},
        fastlm.UnsupportedError,
        r'json_schema: #/properties/a: Unimplemented keys: \["contains"\]',
    ),
    ({"json_schema": {"$ref": "#/nope"}}, fastlm.ParameterError, "'/nope' does not exist"),
    ({"json_schema": {"enum": []}}, fastlm.ParameterError, "Unsatisfiable"),
    ({"regex": "a("}, fastlm.ParameterError, "regex: .*unclosed group"),
    ({"regex": "a\\"}, fastlm.ParameterError, "regex: ends in a backslash"),
    ({"json_schema": {"multipleOf": 999_999_937}}, fastlm.UnsupportedError, "multipleOf: 999999937 is more than"),
    (
        {"json_schema": {"type": "integer", "allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}]}},
        fastlm.UnsupportedError,
        "multipleOf: the least common multiple of all, 9998000099, is more than",
    ),
    ({"json_schema": {"x-guidance": {"lenient": True}}}, fastlm.UnsupportedError, "x-guidance"),
    ({"grammar": "start: /a/ // " + "x" * 2**20}, fastlm.UnsupportedError, "grammar: is longer than"),
    ({"regex": ""}, fastlm.ParameterError, "regex must be a string that is not empty"),
    ({"regex": "\ud800"}, fastlm.ParameterError, "regex holds a lone surrogate"),
    ({"grammar": "start: a\na[lazy, temperature=1]: /b/"}, fastlm.UnsupportedError, "grammar: temperature of a rule"),
    ({"grammar": "start: foo"}, fastlm.ParameterError, r'grammar: at 1\(8\): unknown name: "foo"'),
    ({"regex": "a", "grammar": "start: /a/"}, fastlm.ParameterError, "regex and grammar both"),
    ({"regex": "a", "num_beams": 2}, fastlm.ParameterError, "regex does not go with num_beams"),
    ({"regex": "a", "ignore_eos": True}, fastlm.ParameterError, "regex does not go with ignore_eos"),
    ({"regex": "a", "forced_bos_token_id": 3}, fastlm.ParameterError, "forced_bos_token_id"),
    ({"regex": "a", "forced_eos_token_id": 3}, fastlm.ParameterError, "forced_eos_token_id"),
    ({"regex": "a", "logit_bias": {64: float("-inf")}}, fastlm.ParameterError, "logit_bias"),
]


@pytest.mark.parametrize(("params", "kind", "text"), WRONG)
def test_errors(model: fastlm.Model, params: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        model.generate("Once", **params)
    with pytest.raises(kind, match=text):
        asyncio.run(model.agenerate("Once", **params))
    with model.session() as session, pytest.raises(kind, match=text):
        session.generate("Once", **params)


def test_without_the_library(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(fastlm.UnsupportedError, match=r"json_schema: .*pip install 'fastlm\[structured\]'"):
        model.generate("Once", json_schema={})
    assert model.generate("Once", max_tokens=3).token_ids


class Held:
    """Masks of requests that come only once they are let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, from_token: int = 0) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        after = Matcher.after

        def held(matcher: Matcher, n: int, token: int) -> Any:
            if n >= from_token:
                self.reached.set()
                assert self.go_on.wait(60)
            return after(matcher, n, token)

        monkeypatch.setattr(Matcher, "after", held)


def test_a_slow_grammar_delays_itself_alone(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.generate("Once", regex="[a-z]{20}", seed=4, temperature=1.0).text
    free = model.generate("Twice", max_tokens=60, seed=1, temperature=1.0).token_ids
    held = Held(monkeypatch, 3)
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(model.generate("Once", regex="[a-z]{20}", seed=4, temperature=1.0))
    )
    thread.start()
    assert held.reached.wait(60)
    assert model.generate("Twice", max_tokens=60, seed=1, temperature=1.0).token_ids == free  # all of its steps
    before = model.engine.context.counters()["forwards"]
    thread.join(0.1)
    assert model.engine.context.counters()["forwards"] == before and not found
    held.go_on.set()
    thread.join(60)
    assert found[0].text == expected


def test_a_failing_grammar_ends_its_request_alone(model: fastlm.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    after = Matcher.after

    def fails(matcher: Matcher, n: int, token: int) -> Any:
        if n == 5 and matcher._name == "grammar":
            raise fastlm.UnsupportedError("grammar: too complex")
        if n == 5 and matcher._name == "json_schema":
            raise KeyboardInterrupt  # whatever the library throws
        return after(matcher, n, token)

    monkeypatch.setattr(Matcher, "after", fails)
    requests = [fastlm.Request("a", regex="[a-z]{12}"), fastlm.Request("b", grammar="start: /[a-z]{12}/")]
    with pytest.raises(fastlm.UnsupportedError, match=r"^prompts\[1\]: grammar: too complex"):
        model.batch(requests)
    with pytest.raises(fastlm.UnsupportedError, match="llguidance failed"):
        model.generate("a", json_schema={"type": "string", "minLength": 9})

    async def ask() -> list[Any]:
        tasks = [model.agenerate(request) for request in requests]
        return await asyncio.gather(*tasks, return_exceptions=True)

    good, bad = asyncio.run(ask())
    assert re.fullmatch("[a-z]{12}", good.text) and isinstance(bad, fastlm.UnsupportedError)


def test_a_token_that_does_not_belong(model: fastlm.Model) -> None:
    """The library's own errors in the midst of a text."""
    engine = model.engine
    matcher = Grammars().matcher(engine.core, engine.tokenizer, engine.vocab, Grammar("regex", "ab+", "regex"))
    bits = matcher.after(0, -1)
    a, b = engine.prompts.ids("ab")
    assert bits is not None and [i for i in range(257) if bits[i // 32] >> (i % 32) & 1] == [a]
    copy = matcher.copy()
    with pytest.raises(fastlm.UnsupportedError, match="regex: cannot be followed after 1 tokens"):
        matcher.after(1, b)
    bits = copy.after(1, a)  # which does not go by the other
    assert bits is not None and bits[b // 32] >> (b % 32) & 1


def test_ends_in_the_midst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled by a flag, a closed stream, a cancelled task, a closed model, while a mask is awaited."""
    model = fastlm.load(save_bytes_model(tmp_path), threads=1)
    letters: Any = {"regex": "[a-z]{20}"}
    with monkeypatch.context() as patch:
        held, flag = Held(patch, 2), threading.Event()
        threading.Thread(target=lambda: held.reached.wait(60) and flag.set()).start()
        done = model.generate("Once", cancel=flag, **letters)
        assert (done.finish_reason, len(done.token_ids)) == ("cancelled", 2)
        held.go_on.set()
    with monkeypatch.context() as patch:
        held, seen = Held(patch, 2), []
        stream: Any = model.stream("Once", **letters)
        while len(seen) < 2:
            seen += next(stream).token_ids
        stream.close()
        held.go_on.set()
    with monkeypatch.context() as patch:
        held = Held(patch, 2)

        async def leave() -> None:
            task = asyncio.create_task(model.agenerate("Once", **letters))
            while not task.done() and not held.reached.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(leave())
        held.go_on.set()
    assert re.fullmatch("[a-z]{20}", model.generate("Once", **letters).text)
    with monkeypatch.context() as patch:
        held = Held(patch, 2)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(model.generate("Once", **letters)))
        thread.start()
        assert held.reached.wait(60)
        model.close()  # the call goes on to its end
        held.go_on.set()
        thread.join(60)
    assert re.fullmatch("[a-z]{20}", found[0].text)
    with pytest.raises(fastlm.StateError):
        model.generate("Once", regex="a")


@pytest.mark.parametrize("n", [1000, 12_000])
def test_deep_grammars(model: fastlm.Model, n: int) -> None:
    """The library recurses over rules, as deep as they are."""
    rules = "".join(f"r{i}: r{i + 1}\n" for i in range(n))
    assert model.generate("Once", grammar=f"start: r0\n{rules}r{n}: /[ab]{{3}}/\n").finish_reason == "stop"
    chain = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}, "type": "object"} for i in range(n)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**chain, f"d{n}": {"type": "null"}}}
    try:
        model.generate("Once", json_schema=schema, max_tokens=5)
    except fastlm.UnsupportedError:
        assert n > 1000


@dataclasses.dataclass
class Bare:
    what: typing.List  # type: ignore[type-arg]  # noqa: UP006


def test_types_that_do_not_say_of_what(model: fastlm.Model) -> None:
    with pytest.raises(fastlm.ParameterError, match=r"json_schema: what: .*does not say of what"):
        model.generate("Once", json_schema=Bare)


def test_no_thread_to_make_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request tries again."""
    start, failed = threading.Thread.start, []

    def fail(thread: threading.Thread) -> None:
        if not failed and getattr(thread, "_target", None).__name__ == "_run":  # type: ignore[union-attr]
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    with fastlm.load(save_bytes_model(tmp_path), threads=1) as model:
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(fastlm.StateError, match="nothing can make masks"):
            model.generate("x", regex="[a-z]{3}")
        assert failed and len(model.generate("x", regex="[a-z]{3}").text) == 3


def test_a_thousand(model: fastlm.Model) -> None:
    """One thread makes the masks of all, one runs the steps, and those of the loop's executor are few."""

    async def ask() -> tuple[int, list[fastlm.Completion]]:
        asked = (model.agenerate("Once", regex=PATHS, seed=i, temperature=1.0) for i in range(1000))
        tasks = [asyncio.create_task(each) for each in asked]
        await asyncio.sleep(0)  # all of them have begun
        return threading.active_count(), await asyncio.gather(*tasks)

    before = threading.active_count()
    threads, found = asyncio.run(ask())
    assert threads < before + 20
    assert all(re.fullmatch(PATHS, one.text) for one in found)
    for i in range(0, 1000, 100):
        assert found[i].text == model.generate("Once", regex=PATHS, seed=i, temperature=1.0).text


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(save_bytes_model(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}"))
    schema, grammar = tmp_path / "schema.json", tmp_path / "sums.lark"
    schema.write_text('{"enum": ["yes", "no"]}')
    grammar.write_text(SUMS)
    begin = ["generate", "--model", folder, "--threads", "1"]
    assert main([*begin, "--json-schema", str(schema), "Once"]) == 0
    assert json.loads(capsys.readouterr().out.removeprefix("Once")) in ("yes", "no")
    assert (
        main([*begin, "--grammar", str(grammar), "--temperature", "0.5", "--seed", "3", "--max-tokens", "300", "1"])
        == 0
    )
    assert eval(capsys.readouterr().out[1:]) > 0
    assert main([*begin, "--regex", "[a-f]{4}", "--json", "Once"]) == 0
    assert re.fullmatch("[a-f]{4}", json.loads(capsys.readouterr().out)["text"])
    for more, told in (
        (["--regex", "a("], "regex: "),
        (["--json-schema", str(tmp_path / "none")], "none: cannot be read"),
        (["--regex", "a", "--grammar", str(grammar)], "not allowed with"),
    ):
        assert main([*begin, *more, "Once"]) != 0
        assert told in capsys.readouterr().err
