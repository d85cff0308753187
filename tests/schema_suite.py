"""Texts of a model of random weights by the schemas of JSON-Schema-Test-Suite, each validated; no part of the tests.

    python tests/schema_suite.py path/to/JSON-Schema-Test-Suite

Prints how many schemas llguidance takes, and how many of these had whole texts, all of which must be valid.
"""

from __future__ import annotations

import collections
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jsonschema
import referencing.exceptions
from grammar_models import closing_bias, save_bytes_model

import fastlm

DRAFTS = {
    "draft7": jsonschema.Draft7Validator,
    "draft2019-09": jsonschema.Draft201909Validator,
    "draft2020-12": jsonschema.Draft202012Validator,
}
SEEDS = 6


def schemas(suite: Path, draft: str) -> list[tuple[str, Any]]:
    """Those of a draft, with their names."""
    found = []
    for path in sorted((suite / "tests" / draft).rglob("*.json")):
        found += [
            (f"{draft}/{path.stem}: {case['description']}", case["schema"]) for case in json.loads(path.read_text())
        ]
    return found


def check(model: fastlm.Model, validator: Any, schema: Any, options: dict[str, Any]) -> tuple[int, list[str]]:
    """How many whole texts there are by a schema, and which are not valid."""
    requests = [fastlm.Request("Once", seed=seed) for seed in range(SEEDS)]
    done = model.batch(requests, json_schema=schema, **options)
    whole = [one.text for one in done if one.finish_reason == "stop"]
    return len(whole), [text for text in whole if not validator.is_valid(json.loads(text))]


def main(suite: Path) -> int:
    refused: collections.Counter[str] = collections.Counter()
    taken, written, texts, unjudged, wrong, started = 0, 0, 0, 0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, fastlm.load(save_bytes_model(Path(folder))) as model:
        options: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "logit_bias": closing_bias(model, 5.0)}
        for draft, kind in DRAFTS.items():
            for name, given in schemas(suite, draft):
                schema = {"$schema": kind.META_SCHEMA["$id"], **given} if isinstance(given, dict) else given
                validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
                try:
                    n, bad = check(model, validator, schema, options)
                except (fastlm.ParameterError, fastlm.UnsupportedError) as error:
                    refused[" ".join(str(error).split(": ")[-1].split()[:3])] += 1
                    continue
                except (re.error, referencing.exceptions.Unresolvable, jsonschema.exceptions._WrappedReferencingError):
                    unjudged += 1  # patterns and references that jsonschema does not read
                    continue
                taken, written, texts = taken + 1, written + (n > 0), texts + n
                wrong += [f"{name}: {json.dumps(schema)[:200]} -> {text[:200]}" for text in bad]
    print(f"{taken} schemas taken, {sum(refused.values())} refused: {refused.most_common(12)}")
    print(f"{unjudged} that jsonschema cannot read")
    print(f"{written} with whole texts, {texts} texts, {len(wrong)} not valid; {time.monotonic() - started:.0f} s")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
