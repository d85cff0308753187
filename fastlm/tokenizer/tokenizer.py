"""Text to token ids and back, by the `tokenizers` library, and the id -> bytes table with which C prints text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastlm.errors import ModelFormatError, ParameterError
from fastlm.weights.source import ModelSource

if TYPE_CHECKING:
    import tokenizers

METASPACE = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class PieceTable:
    """What each id prints, when the tokenizer's decoder is such a table."""

    pieces: list[bytes]
    special: list[bool]
    strip_first_space: bool


class Tokenizer:
    """A model's tokenizer.

    Attributes
    ----------
    bos, pad
        Ids of the special tokens, or None.
    eos
        The end tokens that tokenizer_config.json names.
    prints_by_table
        Whether `table` says what ids print; else text has to be decoded by the library (WordPiece and the like).
    """

    def __init__(self, library: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        self._library = library
        self.config = config
        self.bos = self._special("bos_token")
        self.pad = self._special("pad_token")
        end = self._special("eos_token")
        self.eos = [] if end is None else [end]
        self._decoder = _decoder_parts(library)
        self.prints_by_table = _is_table(self._decoder)

    @cached_property
    def table(self) -> PieceTable | None:
        """The id -> bytes table, made when it is first asked for: a .flm file has it already."""
        return _piece_table(self._library, self._decoder) if self.prints_by_table else None

    @cached_property
    def _going_on(self) -> tokenizers.Tokenizer:
        """The library, but for the space that it puts before a text."""
        stages = {"normalizer": self._library.normalizer, "pre_tokenizer": self._library.pre_tokenizer}
        changed = _without_first_space({k: json.loads(v.__getstate__()) for k, v in stages.items() if v is not None})
        if changed is None:
            return self._library
        return type(self._library).from_str(json.dumps({**json.loads(self._library.to_str()), **changed}))

    def _special(self, name: str) -> int | None:
        value = self.config.get(name)
        if isinstance(value, dict):  # an AddedToken
            value = value.get("content")
        return self._library.token_to_id(value) if isinstance(value, str) else None

    @property
    def vocab_size(self) -> int:
        return int(self._library.get_vocab_size())

    def encode(self, text: str, *, special: bool = True, start: bool = True) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        special
            Add what the tokenizer adds by itself (often the beginning of sequence).
        start
            False: the text goes on after another one, so that no space is put before it where a tokenizer would.
        """
        if not isinstance(text, str):
            raise ParameterError(f"text must be a string, not {type(text).__name__}")
        library = self._library if start else self._going_on
        try:
            return list(library.encode(text, add_special_tokens=special).ids)
        except (UnicodeEncodeError, TypeError):
            raise ParameterError("text holds a lone surrogate, which UTF-8 cannot say") from None

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids."""
        return str(self._library.decode(list(ids), skip_special_tokens=skip_special))

    def piece(self, token: int) -> str:
        """What one token prints by itself (a part of a code point shows as U+FFFD)."""
        if self.table is not None and token < len(self.table.pieces):
            return self.table.pieces[token].decode("utf-8", "replace")
        return self.decode([token], skip_special=False)

    def count(self, text: str) -> int:
        """Number of tokens of a text, special ones included."""
        return len(self.encode(text))


def load_tokenizer(model: ModelSource) -> Tokenizer | None:
    """The tokenizer of a model, from tokenizer.json, vocab.json + merges.txt or vocab.txt; None if it has none.

    Raises
    ------
    ModelFormatError
        A file is malformed.
    """
    config: dict[str, Any] = model.read_json("tokenizer_config.json") or {}
    names = ("tokenizer.json", "vocab.json", "vocab.txt")
    name = next((n for n in names if model.read(n) is not None), None)
    if name is None:
        return None
    data = model.read(name) or b""
    try:
        library = _build(name, data, model.read("merges.txt") or b"", config)
    except ModelFormatError:
        raise
    except Exception as error:  # the library raises bare exceptions
        raise ModelFormatError(f"{model.describe(name)}: not a tokenizer: {error}") from error
    return Tokenizer(library, config)


def _build(name: str, data: bytes, merges: bytes, config: dict[str, Any]) -> tokenizers.Tokenizer:
    import tokenizers as lib

    if name == "tokenizer.json":
        library = lib.Tokenizer.from_str(data.decode("utf-8"))
        library.no_truncation()
        library.no_padding()
        return library
    if name == "vocab.json":
        return _byte_level(json.loads(data), merges.decode("utf-8"), config)
    return _word_piece(data.decode("utf-8").splitlines(), config)


def _byte_level(vocab: dict[str, int], merges: str, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer from its two files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if not merges:
        raise ModelFormatError("vocab.json needs merges.txt beside it")
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    library = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>",) if t in vocab])
    return library


def _word_piece(pieces: list[str], config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = {piece: i for i, piece in enumerate(pieces)}
    unknown = str(config.get("unk_token", "[UNK]"))
    library = Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    library.normalizer = normalizers.BertNormalizer(lowercase=bool(config.get("do_lower_case", True)))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(
        [AddedToken(t, special=True) for t in (unknown, "[SEP]", "[PAD]", "[CLS]", "[MASK]") if t in vocab]
    )
    if "[CLS]" in vocab and "[SEP]" in vocab:
        library.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return library


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: visible Latin-1 characters stand for themselves, others follow U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


def _without_first_space(state: dict[str, Any]) -> dict[str, Any] | None:
    """A tokenizer's state with all that puts a space before a text switched off; None: nothing does."""
    changed = False
    for stage, parts in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        whole = state.get(stage) or {}
        for part in whole.get(parts, [whole]):
            if part.get("type") == "Prepend":
                part.clear()
                part.update({"type": "Replace", "pattern": {"String": METASPACE}, "content": METASPACE})
                changed = True
            if part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never":
                part["prepend_scheme"] = "never"
                changed = True
            if part.get("type") == "ByteLevel" and part.get("add_prefix_space"):
                part["add_prefix_space"] = False
                changed = True
    return state if changed else None


def _decoder_parts(library: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if library.decoder is None:
        return []
    decoder = json.loads(library.decoder.__getstate__())
    if decoder.get("type") == "Sequence":
        return [part for part in decoder.get("decoders", []) if isinstance(part, dict)]
    return [decoder]


def _is_table(parts: list[dict[str, Any]]) -> bool:
    kinds = {str(part.get("type")) for part in parts}
    if not kinds or not kinds <= {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        return False
    return all(p["type"] != "Replace" or p.get("pattern") == {"String": METASPACE} for p in parts)


def _piece_table(library: tokenizers.Tokenizer, parts: list[dict[str, Any]]) -> PieceTable:
    kinds = {str(part.get("type")) for part in parts}
    added = library.get_added_tokens_decoder()
    by_id = {i: piece for piece, i in library.get_vocab(with_added_tokens=True).items()}
    alphabet = _byte_alphabet()
    pieces: list[bytes] = []
    for i in range(max(by_id, default=-1) + 1):
        piece = by_id.get(i, "")
        if i in added:
            pieces.append(added[i].content.encode("utf-8"))
        elif "ByteLevel" in kinds:
            pieces.append(b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode("utf-8") for c in piece))
        elif "ByteFallback" in kinds and (byte := _BYTE_PIECE.fullmatch(piece)):
            pieces.append(bytes([int(byte.group(1), 16)]))
        else:
            pieces.append(piece.replace(METASPACE, " ").encode("utf-8"))
    special = [i in added and bool(added[i].special) for i in range(len(pieces))]
    strips = any(
        (p["type"] == "Strip" and p.get("content") == " " and p.get("start"))
        or (p["type"] == "Metaspace" and p.get("prepend_scheme", "always") != "never")
        for p in parts
    )
    return PieceTable(pieces, special, strips)
