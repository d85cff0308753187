"""What a tokenizer is, as data: read from a tokenizer.json and checked, or put together from older files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import MAX_TEXT, Part, check_stages, check_token_ids, parts_of
from fastlm.tokenizer.large_json import parse_large
from fastlm.tokenizer.library import STAGES, Token
from fastlm.tokenizer.subwords import Subwords, read_subwords

if TYPE_CHECKING:
    from fastlm.tokenizer.languages import Languages

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class Description:
    """A tokenizer before the library makes it.

    Attributes
    ----------
    subwords
        The model.
    stages
        "normalizer", "pre_tokenizer", "post_processor" and "decoder", as a tokenizer.json has them; None: it has none.
    tokens
        Added tokens, in the order in which they get their ids.
    replacements
        Of the decoded text: each first text becomes the second one, one pair after another.
    strips
        Whether spaces around the decoded text are dropped.
    splits_special
        Whether special tokens in a text are taken as text.
    pad
        The token that fills rows of unequal length, which is a special one where no other file says so.
    languages
        Those that a text may be in, and be translated to.
    skips_invalid
        Whether bytes that are no UTF-8 print nothing; else U+FFFD.
    """

    subwords: Subwords
    stages: Mapping[str, Part | None]
    tokens: tuple[Token, ...] = ()
    replacements: tuple[tuple[str, str], ...] = ()
    strips: bool = False
    splits_special: bool = False
    pad: str | None = None
    languages: Languages | None = None
    skips_invalid: bool = False

    def id_of(self, content: str) -> int | None:
        """The id that the library gives to a token: that of the model, or one after all of them, in order."""
        if (found := self.subwords.ids.get(content)) is not None:
            return found
        new = dict.fromkeys(token.content for token in self.tokens if token.content not in self.subwords.ids)
        return self.subwords.size + [*new].index(content) if content in new else None


def is_byte_level(stages: Mapping[str, Any]) -> bool:
    """Whether checked stages turn a text into characters that stand for bytes."""
    return any(p["type"] == "ByteLevel" for s in ("normalizer", "pre_tokenizer") for p in parts_of(s, stages.get(s)))


def without_first_space(part: Part | None) -> Part | None:
    """A stage with all that puts a space before a text switched off."""
    if part is None:
        return None
    kind = part["type"]
    if kind == "Sequence":
        return {k: [without_first_space(p) for p in v] if isinstance(v, list) else v for k, v in part.items()}
    if kind == "Prepend":
        return {"type": "Sequence", "normalizers": []}
    if kind == "Metaspace":
        return {k: v for k, v in part.items() if k != "add_prefix_space"} | {"prepend_scheme": "never"}
    if kind == "ByteLevel" and part.get("add_prefix_space"):
        return {**part, "add_prefix_space": False}
    return part


def read_token(value: object, where: str) -> Token:
    """An added token, as files describe it.

    Raises
    ------
    ModelFormatError
        A field is missing or has a wrong value.
    """
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(content, str) or len(content) > MAX_TEXT:
        raise ModelFormatError(f"{where}: an added token must be an object with a content")
    single_word, lstrip, rstrip, normalized, special = (value.get(name) for name in _FLAGS)
    if {type(single_word), type(lstrip), type(rstrip), type(normalized), type(special)} - {bool, type(None)}:
        raise ModelFormatError(f"{where}: the added token {content!r:.60}: its properties must be true or false")
    usual = not special if normalized is None else normalized
    return Token(content, bool(single_word), bool(lstrip), bool(rstrip), usual, bool(special))


def read_description(data: bytes, where: str) -> tuple[Description, dict[int, Token]]:
    """What a tokenizer.json says, checked, and the ids that it names for its added tokens.

    Raises
    ------
    ModelFormatError
        The text names the part.
    """
    whole = parse_large(data, where)
    if whole.get("version", "1.0") != "1.0":
        raise ModelFormatError(f"{where}: version {whole['version']!r:.40} is not known")
    stages = {stage: whole.get(stage) for stage in STAGES}
    check_stages(stages, where)
    subwords = read_subwords(whole.get("model"), where, is_byte_level(stages))
    listed = whole.get("added_tokens") or []
    if not isinstance(listed, list):
        raise ModelFormatError(f"{where}: added_tokens must be a list")
    tokens: list[Token] = []
    numbered: dict[int, Token] = {}
    for i, value in enumerate(listed):
        token = read_token(value, f"{where}: added_tokens[{i}]")
        if type(value.get("id")) is not int or not 0 <= value["id"] < 1 << 32:
            raise ModelFormatError(f"{where}: added_tokens[{i}]: the id of {token.content!r:.60} must be a token id")
        if token.content:  # the library adds no empty one
            tokens.append(token)
            numbered[value["id"]] = token
    check_token_ids(stages["post_processor"], subwords.end() + len(tokens), where)
    return Description(subwords, stages, tuple(tokens), pad=_pad(whole.get("padding"), where)), numbered


def _pad(padding: object, where: str) -> str | None:
    if padding is None:
        return None
    token = padding.get("pad_token") if isinstance(padding, dict) else None
    if not isinstance(token, str) or len(token) > MAX_TEXT:
        raise ModelFormatError(f"{where}: padding must be null or an object with a pad_token, a text")
    return token or None
