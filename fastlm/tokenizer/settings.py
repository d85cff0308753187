"""What the small files beside a tokenizer say: tokenizer_config.json, special_tokens_map.json, added_tokens.json.

They are read as transformers 5 reads them: its AutoTokenizer is the standard for which tokens are added, and as what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import MAX_TEXT
from fastlm.tokenizer.description import read_token
from fastlm.tokenizer.files import ADDED, CONFIG, SPECIAL
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.subwords import SPARE_IDS
from fastlm.weights.source import ModelSource

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Named = Token | str  # a string says nothing of its properties


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a tokenizer.

    Attributes
    ----------
    where
        The file tokenizer_config.json, for error texts.
    options
        tokenizer_config.json, with what special_tokens_map.json says.
    named
        Special tokens by name ("bos_token", ...; also names of the model's own); None: a file says that there is none.
    extra
        Further special tokens.
    numbered
        Tokens that a file gives ids to, in the order of these.
    """

    where: str
    options: Mapping[str, Any]
    named: Mapping[str, Named | None]
    extra: tuple[Named, ...]
    numbered: tuple[Token, ...]

    def flag(self, name: str, default: bool) -> bool:
        """An option that is true or false; null counts as the default."""
        value = self.options.get(name)
        if value is not None and not isinstance(value, bool):
            raise ModelFormatError(f"{self.where}: {name} must be true or false")
        return default if value is None else value

    def name(self, name: str) -> str | None:
        """The text of a special token."""
        value = self.named.get(name)
        return None if value is None else content_of(value)

    def special(self) -> list[Named]:
        """All special tokens: the named ones, then the others."""
        names = dict.fromkeys((*NAMES, *self.named))
        return [*(value for name in names if (value := self.named.get(name)) is not None), *self.extra]

    def with_defaults(self, defaults: Mapping[str, str | None]) -> Settings:
        """With special tokens where the files say nothing of them."""
        return replace(self, named={**defaults, **self.named})

    def tokens_to_add(self, present: tuple[Token, ...]) -> list[Token]:
        """The tokens to add to those that are there."""
        there = set(present)
        found: dict[Named, None] = {token: None for token in self.numbered if token not in there}
        contents = {content_of(value) for value in (*present, *found)}
        found |= {value: None for value in self.special() if content_of(value) not in contents}
        special = {content_of(value) for value in self.named.values() if value is not None}
        tokens = (Token(value) if isinstance(value, str) else value for value in found)
        return [replace(token, special=True) if token.content in special else token for token in tokens]


def content_of(value: Named) -> str:
    """The text of a special token."""
    return value if isinstance(value, str) else value.content


def read_settings(model: ModelSource, listed: Mapping[int, Token]) -> Settings:
    """The settings of a model's tokenizer.

    Parameters
    ----------
    listed
        The added tokens of its tokenizer.json, by id.

    Raises
    ------
    ModelFormatError
        A file is malformed; the text names it and the field.
    """
    options: dict[str, Any] = model.read_json(CONFIG) or {}
    special: dict[str, Any] = {}
    if "added_tokens_decoder" in options:
        numbered = _numbered(options["added_tokens_decoder"], f"{model.describe(CONFIG)}: added_tokens_decoder")
    else:
        special = _special(model)
        options = {**options, **special}
        numbered = {**_added(model, options), **listed}

    def where(name: str) -> str:
        return f"{model.describe(SPECIAL if name in special else CONFIG)}: {name}"

    field, others = (f"{kind}_special_tokens" for kind in ("extra", "additional"))
    extra = options.get(field) or []
    named = {name: _named(options[name], where(name)) for name in NAMES if name in options}
    own = {k: v for k, v in options.items() if k.endswith("_token") and k not in NAMES and _is_token(v)}
    if isinstance(extra, dict):
        own, extra = {**own, **extra}, []
    if not extra:
        field, extra = others, options.get(others) or []
    if not isinstance(extra, list):
        raise ModelFormatError(f"{where(field)} must be a list of tokens")
    named.update({name: _named(value, where(name)) for name, value in own.items()})
    by_content = {token.content: token for token in numbered.values()}
    return Settings(
        model.describe(CONFIG),
        options,
        {name: by_content.get(content_of(value), value) if value else None for name, value in named.items()},
        tuple(value for i, v in enumerate(extra) if (value := _named(v, f"{where(field)}[{i}]"))),
        tuple(numbered[i] for i in sorted(numbered)),
    )


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and value.get("__type") == "AddedToken")


def _named(value: object, where: str) -> Named | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if isinstance(value, dict):
        token = read_token(value, where)
        return token if token.content else None
    raise ModelFormatError(f"{where}: must be a text of at most {MAX_TEXT:,} characters or an added token")


def _numbered(value: object, where: str) -> dict[int, Token]:
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: must be an object")
    found: dict[int, Token] = {}
    for name, token in value.items():
        if not name.isascii() or not name.isdigit() or len(name) > 9:
            raise ModelFormatError(f"{where}: {name!r:.40} is no token id")
        found[int(name)] = read_token(token, f"{where}: {name}")
    return {i: token for i, token in found.items() if token.content}


def _special(model: ModelSource) -> dict[str, Any]:
    """special_tokens_map.json, whose tokens are all special."""
    found: dict[str, Any] = model.read_json(SPECIAL) or {}

    def special(value: Any) -> Any:
        return {**value, "special": True} if isinstance(value, dict) and "content" in value else value

    return {k: [special(v) for v in value] if isinstance(value, list) else special(value) for k, value in found.items()}


def _added(model: ModelSource, options: Mapping[str, Any]) -> dict[int, Token]:
    """added_tokens.json, which holds the ids of tokens and nothing else."""
    found: dict[str, Any] = model.read_json(ADDED) or {}
    where = model.describe(ADDED)
    extra = options.get("extra_special_tokens") or options.get("additional_special_tokens") or []
    values = [*(options.get(name) for name in NAMES), *(extra if isinstance(extra, list) else [])]
    special = {content for v in values if isinstance(content := v.get("content") if isinstance(v, dict) else v, str)}
    if any(type(i) is not int or not 0 <= i < 1 << 31 for i in found.values()) or len(found) > SPARE_IDS:
        raise ModelFormatError(f"{where}: must map tokens to token ids")
    if max(map(len, found), default=0) > MAX_TEXT:
        raise ModelFormatError(f"{where}: a token has over {MAX_TEXT:,} characters")
    found.pop("", None)
    return {i: Token(text, normalized=text not in special, special=text in special) for text, i in found.items()}
