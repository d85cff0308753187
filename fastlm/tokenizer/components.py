"""The parts of a tokenizer.json around its model, checked before the `tokenizers` library sees them.

The library panics, aborts or hangs on some of what a file can say. So each part must be of a known type, with the
fields that the library reads and values of their types, and must not be able to blow a text up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastlm.errors import ModelFormatError

MAX_PARTS = 64  # of a stage, in all its sequences
MAX_DEPTH = 8
MAX_GROWTH = 200.0  # characters that one character of a text can become in a stage
MAX_TEXT = 4096
MAX_LENGTH = 5_000  # characters of all patterns; of published ones, the longest has some 500
MAX_ADDED = 1024  # tokens that post-processors add to a text
MAX_STEPS = 8_000  # of all patterns with loops, for each pair of characters of a text

Part = dict[str, Any]
Field = tuple[Callable[[Any], bool], str]  # whether a value will do, and what it should be


def _count(low: int, high: int) -> Field:
    return (lambda v: type(v) is int and low <= v <= high), f"a whole number from {low} to {high:,}"


def _one_of(*names: str) -> Field:
    return (lambda v: isinstance(v, str) and v in names), "one of " + ", ".join(names)


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, dict) or [*value] not in (["String"], ["Regex"]):
        return False
    return all(isinstance(v, str) and len(v) <= MAX_LENGTH for v in value.values())


def _is_token(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _TEXT[0](value[0]) and type(value[1]) is int


_FLAG: Field = (lambda v: isinstance(v, bool)), "true or false"
_FLAG_OR_NULL: Field = (lambda v: v is None or isinstance(v, bool)), "true, false or null"
_TEXT: Field = (lambda v: isinstance(v, str) and len(v) <= MAX_TEXT), f"a text of at most {MAX_TEXT:,} characters"
_LONG_TEXT: Field = (lambda v: isinstance(v, str)), "a text"
_CHARACTER: Field = (lambda v: isinstance(v, str) and len(v) == 1), "one character"
_PATTERN: Field = _is_pattern, f'either {{"String": text}} or {{"Regex": text}}, of at most {MAX_LENGTH:,} characters'
_TOKEN: Field = _is_token, "a pair of text and token id"
_ZERO: Field = (lambda v: type(v) is int and v == 0), "0: the library fails where a text is shorter"
_LIST: Field = (lambda v: isinstance(v, list)), "a list"
_OBJECT: Field = (lambda v: isinstance(v, dict)), "an object"
_SCHEME = _one_of("always", "never", "first")
_BEHAVIOR = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")

_BYTE_LEVEL = {"add_prefix_space": _FLAG, "trim_offsets": _FLAG, "use_regex?": _FLAG}
_METASPACE = {
    "replacement": _CHARACTER,
    "add_prefix_space?": _FLAG_OR_NULL,
    "prepend_scheme?": _SCHEME,
    "split?": _FLAG_OR_NULL,
}
_REPLACE = {"pattern": _PATTERN, "content": _TEXT}
_BERT = {"sep": _TOKEN, "cls": _TOKEN}

# Stage -> type -> fields; those with ? may be missing.
TYPES: dict[str, dict[str, dict[str, Field]]] = {
    "normalizer": {
        "BertNormalizer": {
            "clean_text": _FLAG,
            "handle_chinese_chars": _FLAG,
            "strip_accents?": _FLAG_OR_NULL,
            "lowercase": _FLAG,
        },
        "Strip": {"strip_left": _FLAG, "strip_right": _FLAG},
        "Sequence": {"normalizers": _LIST},
        "Precompiled": {"precompiled_charsmap": _LONG_TEXT},
        "Replace": _REPLACE,
        "Prepend": {"prepend": _TEXT},
        **{name: {} for name in ("StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "ByteLevel")},
    },
    "pre_tokenizer": {
        "ByteLevel": _BYTE_LEVEL,
        "CharDelimiterSplit": {"delimiter": _CHARACTER},
        "Metaspace": _METASPACE,
        "Sequence": {"pretokenizers": _LIST},
        "Split": {"pattern": _PATTERN, "behavior": _BEHAVIOR, "invert": _FLAG},
        "Punctuation": {"behavior?": _BEHAVIOR},
        "Digits": {"individual_digits": _FLAG},
        "FixedLength": {"length?": _count(1, 1 << 20)},
        **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")},
    },
    "post_processor": {
        "BertProcessing": _BERT,
        "RobertaProcessing": {**_BERT, "trim_offsets": _FLAG, "add_prefix_space": _FLAG},
        "ByteLevel": _BYTE_LEVEL,
        "TemplateProcessing": {"single": _LIST, "pair": _LIST, "special_tokens": _OBJECT},
        "Sequence": {"processors": _LIST},
    },
    "decoder": {
        "BPEDecoder": {"suffix": _TEXT},
        "ByteLevel": _BYTE_LEVEL,
        "WordPiece": {"prefix": _TEXT, "cleanup": _FLAG},
        "Metaspace": _METASPACE,
        "CTC": {"pad_token": _TEXT, "word_delimiter_token": _TEXT, "cleanup": _FLAG},
        "Sequence": {"decoders": _LIST},
        "Replace": _REPLACE,
        "Strip": {"content": _CHARACTER, "start": _count(0, MAX_TEXT), "stop": _ZERO},
        "Fuse": {},
        "ByteFallback": {},
    },
}
MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def parts_of(stage: str, part: Part | None) -> list[Part]:
    """The parts of a checked stage, in order, without the sequences around them."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for member in part[MEMBERS[stage]] for inner in parts_of(stage, member)]


@dataclass(slots=True)
class _Reach:
    """What the stages up to a place can do to a text."""

    growth: float = 1.0  # characters that one becomes
    pattern: int = 0  # characters of all patterns
    steps: float = 0.0  # of patterns with loops, for each pair of characters


def check_stages(stages: Mapping[str, object], where: str) -> None:
    """Check "normalizer", "pre_tokenizer", "post_processor" and "decoder".

    Raises
    ------
    ModelFormatError
        A part is of no known type, a field is missing or has a wrong value, or the stages could make far too much of a
        text, or take far too long for it; the text names the part.
    """
    reach = _Reach()
    for stage, part in stages.items():
        before = reach.growth if stage == "pre_tokenizer" else 1.0  # it gets what the normalizer makes
        reach.growth = before
        for count, (name, found) in enumerate(_walk(stage, part, f"{where}: {stage}", 0), 1):
            if count > MAX_PARTS:
                raise ModelFormatError(f"{where}: {stage}: has over {MAX_PARTS} parts")
            _check_part(found, name, reach)
        if reach.growth / before > MAX_GROWTH:
            raise ModelFormatError(f"{where}: {stage}: could make {reach.growth / before:,.0f} characters of one")


def _check_part(part: Part, name: str, reach: _Reach) -> None:
    shortest = _check_pattern(part, name, reach) if "pattern" in part else 1
    try:
        reach.growth *= _growth(part, shortest)
    except ValueError as error:
        raise ModelFormatError(f"{name}: precompiled_charsmap {error}") from None


def _check_pattern(part: Part, name: str, reach: _Reach) -> int:
    """Check a pattern; returns the characters of the shortest text that it matches."""
    text = _pattern_text(part)
    reach.pattern += len(text)
    if reach.pattern > MAX_LENGTH:
        raise ModelFormatError(f"{name}: pattern: those of the file have over {MAX_LENGTH:,} characters together")
    if "String" in part["pattern"]:
        return len(text)
    from fastlm.tokenizer.pattern_syntax import PatternError  # here: most of the small tokenizers have no patterns
    from fastlm.tokenizer.patterns import judge

    try:
        judged = judge(text)
    except PatternError as error:
        raise ModelFormatError(f"{name}: the regular expression {text!r:.80} {error}") from None
    reach.steps += judged.size * reach.growth**2 if judged.has_loop else 0
    if reach.steps > MAX_STEPS:
        raise ModelFormatError(
            f"{name}: pattern: those of the file with loops could take {reach.steps:,.0f} steps for each pair of "
            f"characters of a text; at most {MAX_STEPS:,} are allowed"
        )
    return judged.shortest


def check_token_ids(part: Part | None, end: int, where: str) -> None:
    """Check that a post-processor adds few tokens, all of them below `end`."""
    added, templates = 0, 0
    for found in parts_of("post_processor", part):
        if templates and found["type"] != "ByteLevel":
            raise ModelFormatError(f"{where}: post_processor: nothing but ByteLevel may follow a template")
        if found["type"] == "TemplateProcessing":
            templates += 1
            added += _check_template(found, end, f"{where}: post_processor")
        for name in ("sep", "cls") if "cls" in found else ():
            _check_id(found[name][1], end, f"{where}: post_processor: {name}")
    if added > MAX_ADDED:
        raise ModelFormatError(f"{where}: post_processor: adds {added:,} tokens to a text")


def _walk(stage: str, part: object, name: str, depth: int) -> Iterator[tuple[str, Part]]:
    """A part and those that it holds, with names for error texts; of no part: none."""
    if part is None and depth == 0:
        return
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ModelFormatError(f"{name}: must be an object with a type")
    kind = part["type"]
    fields = TYPES[stage].get(kind)
    if fields is None:
        raise ModelFormatError(f"{name}: unknown type {kind!r:.60}; known are {', '.join(sorted(TYPES[stage]))}")
    for field, (fits, words) in fields.items():
        value = part.get(field.rstrip("?"), words)
        if value is words and field.endswith("?"):
            continue
        if value is words or not fits(value):
            raise ModelFormatError(f"{name} ({kind}): {field.rstrip('?')} must be {words}")
    if kind != "Sequence":
        yield name, part
        return
    if depth == MAX_DEPTH:
        raise ModelFormatError(f"{name}: nested too deeply")
    for i, member in enumerate(part[MEMBERS[stage]]):
        yield from _walk(stage, member, f"{name}[{i}]", depth + 1)


def _pattern_text(part: Part) -> str:
    return str(next(iter(part["pattern"].values())))


def _growth(part: Part, shortest: int) -> float:
    """How many characters a part, whose pattern matches so few, can make of one, beyond what letters need anyway."""
    kind = part["type"]
    if kind == "Replace":
        return max(1.0, len(part["content"]) / shortest) if shortest else 1.0 + len(part["content"])
    if kind == "Precompiled":
        from fastlm.tokenizer.charsmap import longest_replacement

        return max(1.0, longest_replacement(part["precompiled_charsmap"]))
    if kind == "Prepend":
        return 1.0 + len(part["prepend"])
    if "" in (part.get("suffix"), part.get("word_delimiter_token")):
        return 2.0
    return 2.0 if kind in ("ByteLevel", "BertNormalizer", "Metaspace") else 1.0


def _check_id(value: object, end: int, name: str) -> None:
    if type(value) is not int or not 0 <= value < end:
        raise ModelFormatError(f"{name}: {value!r:.40} is no token id; the vocabulary ends at {end - 1:,}")


def _check_template(part: Part, end: int, where: str) -> int:
    """Check a TemplateProcessing; returns how many tokens it adds."""
    sizes: dict[str, int] = {}
    for name, token in part["special_tokens"].items():
        if (
            not isinstance(token, dict)
            or not _TEXT[0](token.get("id"))
            or not isinstance(token.get("ids"), list)
            or not isinstance(token.get("tokens"), list)
            or len(token["ids"]) != len(token["tokens"])
            or not all(map(_TEXT[0], token["tokens"]))
        ):
            raise ModelFormatError(f"{where}: special_tokens: {name!r:.60} needs id, ids and as many tokens")
        for value in token["ids"]:
            _check_id(value, end, f"{where}: special_tokens: {name!r:.60}")
        sizes[name] = len(token["ids"])
    return max(_check_pieces(part[field], sizes, f"{where}: {field}") for field in ("single", "pair"))


def _check_pieces(pieces: list[Any], sizes: dict[str, int], where: str) -> int:
    added = 0
    sequences: list[str] = []
    for i, piece in enumerate(pieces):
        kind, value = next(iter(piece.items())) if isinstance(piece, dict) and len(piece) == 1 else (None, None)
        good = isinstance(value, dict) and type(value.get("type_id")) is int and 0 <= value["type_id"] < 1 << 32
        name = value.get("id") if isinstance(value, dict) else None
        if good and kind == "SpecialToken" and isinstance(name, str) and name in sizes:
            added += sizes[name]
        elif good and kind == "Sequence" and name in ("A", "B") and name not in sequences:
            sequences.append(name)
        else:
            raise ModelFormatError(
                f"{where}[{i}]: must be a Sequence (A or B, each once) or a SpecialToken that special_tokens lists"
            )
    if "B" in sequences and where.endswith("single"):
        raise ModelFormatError(f"{where}: has a second sequence")
    return added
