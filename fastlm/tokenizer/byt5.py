"""ByT5's tokenizer, which has no file: a token for each byte, behind three special ones."""

from __future__ import annotations

from dataclasses import replace

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.alphabet import LETTERS
from fastlm.tokenizer.components import Part
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.segments import Segments
from fastlm.tokenizer.settings import Settings, content_of
from fastlm.tokenizer.subwords import Subwords
from fastlm.tokenizer.tokenizer import Tokenizer

NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # of ids 0, 1 and 2
EXTRA_IDS, MAX_EXTRA = 125, 10_000


def make_byt5(settings: Settings) -> Tokenizer:
    """The tokenizer that only its class says everything of."""
    settings = settings.with_defaults(dict(NAMES))
    first = [_stripping(settings, name) for name in NAMES]
    count = settings.options.get("extra_ids", EXTRA_IDS)
    if type(count) is not int or not 0 <= count <= MAX_EXTRA:
        raise ModelFormatError(f"{settings.where}: extra_ids must be a whole number up to {MAX_EXTRA:,}")
    extra = [content_of(value) for value in settings.extra] or [f"<extra_id_{i}>" for i in range(count)]
    last = [Token(content) for content in dict.fromkeys(extra) if content not in {token.content for token in first}]
    tokens = {i if i < len(first) else i + 256: token for i, token in enumerate((*first, *last))}
    pieces = [*(token.content for token in first), *LETTERS]
    if len(set(pieces)) < len(pieces):
        raise ModelFormatError(f"{settings.where}: two of its special tokens are one, or a single character")
    bytes_: Part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    made = Description(
        Subwords("BPE", {piece: i for i, piece in enumerate(pieces)}, [], [], {}),
        {"normalizer": None, "pre_tokenizer": bytes_, "post_processor": None, "decoder": bytes_},
        (*first, *last),
        skips_invalid=True,
    )
    offset = len(first)
    cutting = {} if settings.flag("split_special_tokens", False) else tokens
    segments = Segments(cutting, lambda text: [byte + offset for byte in text.encode()], (), (1,), once=True)
    return Tokenizer(made, settings, settings.where, segments)


def _stripping(settings: Settings, name: str) -> Token:
    """A special token takes the spaces around it, unless a file says otherwise."""
    value = settings.named.get(name) or NAMES[name]
    return Token(value, lstrip=True, rstrip=True) if isinstance(value, str) else replace(value, special=True)
