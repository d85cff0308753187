"""The language of templates: what Jinja's own sandbox makes of the same text."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import fuzz_templates
from jinja2.exceptions import TemplateError
from random_templates import Writer

from fastlm.tokenizer.jinja.template import Template

SOURCES = [
    *(Path(__file__).parent / "template_language.txt").read_text(encoding="utf-8").splitlines(),
    "a\n  {% if true %}  \n b\n  {%- endif %}\n c {#- x -#}  d\n{% raw %}{{ x }}{% endraw %}\n  {{- x -}}  e\n\n",
    "{%- for m in messages %}\n  {{ m.role }}\n{%- endfor %}\n\n{%+ if x %} y {% endif +%}\n z",
]


@pytest.mark.parametrize("source", SOURCES)
def test_text_is_that_of_jinja(source: str) -> None:
    try:
        wanted = fuzz_templates.jinja().from_string(source).render(fuzz_templates.VARIABLES)
    except Exception:
        with pytest.raises((TemplateError, ArithmeticError, LookupError, TypeError, ValueError)):
            Template(source).render(fuzz_templates.VARIABLES, 10**6)
    else:
        assert Template(source).render(fuzz_templates.VARIABLES, 10**6) == wanted


def test_random_texts_are_those_of_jinja() -> None:
    found = []
    for seed in range(250):
        source = Writer(random.Random(seed), wild=False).template()
        found.append(fuzz_templates.same(source))
        assert found[-1] is not False, source
    assert found.count(True) > 50


def test_fuzz_target() -> None:
    for seed in range(40):
        fuzz_templates.one_input(b"!%d" % seed)
