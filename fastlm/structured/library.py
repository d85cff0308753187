"""The door to llguidance, which says what tokens may come next. It is imported for the first grammar."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.errors import FastlmError, ParameterError, UnsupportedError
from fastlm.structured.compiling import compiled
from fastlm.structured.grammar import JSON_SCHEMA, LARK, REGEX, Grammar
from fastlm.tokenizer.tokenizer import Tokenizer

TRIES = 200  # parts of a schema that are looked at to tell where it is wrong
# Between the parts of JSON; bounded, or a model could write spaces for ever.
SPACES = {"whitespace_pattern": r"[ \t\n\r]{1,40}"}
BEYOND = (
    "panic",
    "Unimplemented",
    "Unknown format",
    "too large",
    "too complex",
    "limit",
    "not supported",
    "not present in a",
)
INSIDE = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


MAX_TEXT = 1 << 20  # of a grammar, in characters; it may be as deep as it is long
MAX_MULTIPLE = 100_000  # of multipleOf, and of the least common multiple of all: an automaton has that many states
TEMPERATURE = re.compile(r"^[ \t]*[\w?!]+[ \t]*\[[^\[\]]{0,200}?\btemperature\s*=", re.MULTILINE)


def imported(name: str) -> Any:
    """llguidance; `name` is what needs it."""
    try:
        import llguidance
    except ImportError as error:
        text = f"{name}: texts by a grammar need llguidance: pip install 'fastlm[structured]' ({error})"
        raise UnsupportedError(text) from error
    return llguidance


class Matcher:
    """How far one text has come in its grammar."""

    def __init__(self, made: Any, name: str, n_words: int) -> None:
        self._made = made
        self._name = name
        self._bits = np.zeros(n_words, np.uint32)
        self._n = 0

    def copy(self) -> Matcher:
        """Another text in the same place; what was found out about the grammar need not be found out again."""
        return Matcher(self._made.deep_copy(), self._name, len(self._bits))

    def after(self, n_tokens: int, token: int) -> NDArray[np.uint32] | None:
        """The mask of what may follow n_tokens, the last of which is the new one; None: nothing, the text is complete.

        It stays as it is until the next call, which must be of the next token.

        Raises
        ------
        UnsupportedError
            The grammar became too complex for llguidance, or the token does not belong to the text.
        """
        if n_tokens > self._n:
            self._made.consume_token(token)
            self._n = n_tokens
        stopped = self._made.is_stopped()
        if not stopped:
            self._made.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._made.is_error():
            text = _one_line(self._made.get_error())
            why = "it is too complex, or the model has no tokens for what must come next"
            raise UnsupportedError(f"{self._name}: cannot be followed after {n_tokens} tokens ({why}): {text}")
        return None if stopped else self._bits


class _Vocabulary:
    """What llguidance's tokenizer asks of ours: above all how it would write what a grammar forces."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, tokens: Sequence[bytes], special: Sequence[int], end: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        quiet = set(special)
        self._ids = {piece: i for i, piece in reversed(list(enumerate(tokens))) if piece and i not in quiet}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        ids = self._tokenizer.encode(text.decode("utf-8", "replace"), special=False, start=False)
        spelt = all(i < len(self.tokens) for i in ids) and b"".join(self.tokens[i] for i in ids) == text
        return ids if spelt else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest token each time, where the tokenizer changes a text; none at all if there is no way."""
        found, at = [], 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest), at, -1):
                if (token := self._ids.get(text[at:end])) is not None:
                    found.append(token)
                    at = end
                    break
            else:
                return []
        return found


def tokens_of(library: Any, model: _core.Model, tokenizer: Tokenizer | None, vocab: int, name: str) -> Any:
    """llguidance's tokenizer of a model. End tokens, and others that print nothing, are special there."""
    if tokenizer is None:
        raise UnsupportedError(f"{name}: this model has no tokenizer, so that its tokens make no text")
    pieces, special, ends = model.vocabulary()
    if not pieces:
        table = tokenizer.plain(name)
        pieces, special = table.pieces, table.special
    tokens = [*pieces[:vocab], *[b""] * (vocab - len(pieces))]
    quiet = {i for i, no in enumerate(special[:vocab]) if no} | set(ends)
    for i in quiet:
        tokens[i] = tokenizer.name_of(i).encode("utf-8")
    if not ends:  # one that the model cannot write
        ends = [vocab]
        quiet.add(vocab)
        tokens.append(b"<end>")
    made = _Vocabulary(tokenizer, tokens, sorted(quiet), ends[0])
    return library.LLTokenizer(library.TokenizerWrapper(made), eos_token=list(ends))


def _check(grammar: Grammar) -> Any:
    """Refuse what would take too long to compile, undo what is promised, or count for nothing; gives the schema."""
    if len(grammar.text) > MAX_TEXT:
        raise UnsupportedError(f"{grammar.name}: is longer than {MAX_TEXT:,} characters")
    if grammar.kind == REGEX and (len(grammar.text) - len(grammar.text.rstrip("\\"))) % 2:
        raise ParameterError(f"{grammar.name}: ends in a backslash, which escapes nothing")
    if grammar.kind == LARK and TEMPERATURE.search(grammar.text):
        raise UnsupportedError(f"{grammar.name}: temperature of a rule counts for nothing here: it is the request's")
    schema = json.loads(grammar.text) if grammar.kind == JSON_SCHEMA else None
    if isinstance(schema, dict) and "x-guidance" in schema:
        raise UnsupportedError(f"{grammar.name}: x-guidance: options of llguidance are not the schema's to set")
    _check_multiples(grammar.name, schema)
    return schema


def _check_multiples(name: str, schema: Any) -> None:
    parts: list[Any] = [schema]
    common = 1
    while parts:
        part = parts.pop()
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        multiple = part.get("multipleOf") if isinstance(part, dict) else None
        if not isinstance(multiple, (int, float)) or not 0 < multiple < float("inf"):
            continue
        common = math.lcm(common, Fraction(str(multiple)).numerator)
        if max(common, multiple) > MAX_MULTIPLE:
            found = multiple if multiple > MAX_MULTIPLE else f"the least common multiple of all, {common},"
            raise UnsupportedError(f"{name}: multipleOf: {found} is more than {MAX_MULTIPLE:,}")


def matcher_of(library: Any, tokens: Any, grammar: Grammar) -> Matcher:
    """The beginning of texts by a grammar; raises as `Grammars.matcher`."""
    return compiled(partial(_made, library, tokens, grammar), grammar.name)


def _made(library: Any, tokens: Any, grammar: Grammar) -> Matcher:
    """The beginning of texts by a grammar."""
    schema = _check(grammar)
    try:
        text = _as_llguidance(library, grammar, schema)
    except ValueError as error:
        raise ParameterError(f"{grammar.name}: {_one_line(str(error))}") from error
    made = library.LLMatcher(tokens, text, log_level=0)
    if made.is_error():
        raise _refusal(library, tokens, grammar, schema, _one_line(made.get_error()))
    return Matcher(made, grammar.name, (tokens.vocab_size + 31) // 32)


def _as_llguidance(library: Any, grammar: Grammar, schema: Any) -> str:
    """The grammar as llguidance writes them."""
    answer: dict[str, Any]
    if grammar.kind == JSON_SCHEMA:
        answer = {"json_schema": {**schema, "x-guidance": SPACES}}
    elif grammar.kind == REGEX:
        answer = {"lark_grammar": f"start: /{library.regex_to_lark(grammar.text, 'dws')}/"}
    else:
        answer = {"lark_grammar": grammar.text}
    if not grammar.before and not grammar.instead:
        return json.dumps({"grammars": [answer]})
    start = f"{'before ' if grammar.before else ''}{'(@answer | @instead)' if grammar.instead else '@answer'}"
    parts = [{"name": "whole", "lark_grammar": f"start: {start}\n{grammar.before}"}, {**answer, "name": "answer"}]
    if grammar.instead:
        parts.append({"name": "instead", "lark_grammar": grammar.instead})
    return json.dumps({"grammars": parts})


def _one_line(text: str) -> str:
    """What of an error text is for callers."""
    return " ".join(text.partition("\n<state>")[0].split())[:400]


def _refusal(library: Any, tokens: Any, grammar: Grammar, schema: Any, text: str) -> FastlmError:
    where = "" if schema is None else _place(library, tokens, schema, text)
    kind = UnsupportedError if any(word in text for word in BEYOND) else ParameterError
    return kind(f"{grammar.name}: {where}{text}")


def _place(library: Any, tokens: Any, schema: Any, text: str) -> str:
    """Where in a schema an error is: its smallest part that has the same."""
    place, tries = "#", iter(range(TRIES))
    shared = {name: schema[name] for name in ("$defs", "definitions") if isinstance(schema, dict) and name in schema}

    def fails(part: Any) -> bool:
        if not isinstance(part, dict) or next(tries, None) is None:
            return False
        made = library.LLMatcher.grammar_from_json_schema(json.dumps({**shared, **part}), defaults=SPACES)
        return _one_line(library.LLMatcher(tokens, made, log_level=0).get_error()) == text

    found: tuple[str, Any] | None = ("", schema)
    while found is not None:
        place, schema = place + found[0], found[1]
        found = next((inner for inner in _parts(schema) if fails(inner[1])), None)
    return f"{place}: " if place != "#" else ""


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """The schemas in a schema, and where they stand."""
    if not isinstance(schema, Mapping):
        return
    for name in INSIDE:
        if isinstance(schema.get(name), Mapping):
            yield from ((f"/{name}/{key}", part) for key, part in schema[name].items())
    for name in LISTED:
        if isinstance(schema.get(name), list):
            yield from ((f"/{name}/{i}", part) for i, part in enumerate(schema[name]))
    yield from ((f"/{name}", schema[name]) for name in SINGLE if isinstance(schema.get(name), Mapping))
