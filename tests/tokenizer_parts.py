"""What small tokenizer folders are made of (see tokenizer_folders.py), and texts to try them on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

Json = dict[str, Any]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, then sleeps for 12 hours and 345 minutes.",
    "Once upon a time there was a little girl who didn't know that she'd see the sea; it's fine, they've said so.",
    "def f(x):\n    return [y ** 2 for y in range(x) if y % 3 == 0]\n\n\nclass A:\n\tpass\n",
    "Le c\u0153ur d\u00e9\u00e7u mais l'\u00e2me plut\u00f4t na\u00efve, Stra\u00dfe, I\u0307stanbul",
    "\u4e2d\u6587\u5b57\u7b26\uff0c\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002\ud55c\uad6d \u0928\u092e",
    "\U0001f600\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 emoji! 100% of users #1 @home (see https://example.org/a?b=c)",
]
PIECES = [
    *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    *".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`",
    *[" ", "  ", "    ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x00", "\x07", "\x7f", "\x85", "\u200b"],
    *[
        "the ",
        " the",
        "don't",
        "I'LL ",
        " 123",
        "foo_bar",
        "def f(x):\n",
        "\u2581",
        "\u2581\u2581a",
        "##s",
        "<0x41>",
        "</w>",
    ],
    *["e\u0301", "\u00e9", "\u1e9b\u0323", "\ufb01", "\ufdfa", "\u0130", "\u00df", "\uff21", "\u0345", "n\u0303o"],
    *[
        "\u4e2d\u6587",
        "\u65e5\u672c\u8a9e",
        "\ud55c\uad6d\uc5b4",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0e44\u0e17\u0e22",
        "\u05e9\u05dc\u05d5\u05dd",
    ],
    *[
        "\U0001f600",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "\ufffd",
        "\U00010400",
        "\ue000",
        "\U000e0001",
    ],
]
SPECIALS = [
    *["<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<|endoftext|>"],
    *["<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<extra_id_0>", "<|user|>", "<|new|>", "<|padding|>", "<tool>"],
]


def texts(count: int, seed: int = 0) -> list[str]:
    """Random texts: Unicode of all kinds, runs of spaces, code, emoji, special tokens, control characters."""
    draw = random.Random(seed)

    def piece() -> str:
        kind = draw.random()
        if kind < 0.08:
            return draw.choice(SPECIALS)
        if kind < 0.11:
            return draw.choice(SPECIALS).upper() + " "
        if kind < 0.16:
            return chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000), draw.randrange(0x3000)]))
        if kind < 0.20:
            return draw.choice(CORPUS)[draw.randrange(20) :][: draw.randrange(30)]
        return draw.choice(PIECES)

    return ["".join(piece() for _ in range(draw.randrange(1, 24))) for _ in range(count)]


def write(folder: Path, name: str, value: Mapping[str, object]) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def added(content: str, **flags: bool) -> Json:
    """An added token, as tokenizer_config.json has it."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def typed(content: str, **flags: bool) -> Json:
    """The same, as transformers 4 wrote it."""
    return {"__type": "AddedToken", **{k: v for k, v in added(content, **flags).items() if k != "special"}}


def bytes_bpe(special: list[str], size: int = 700, merges: int | None = None) -> tokenizers.Tokenizer:
    """A byte-level BPE learned from CORPUS; special tokens have the first ids."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(CORPUS * 4, trainer)
    return library


def spaced_bpe(special: list[str], size: int = 700, fallback: bool = True) -> tokenizers.Tokenizer:
    """A BPE as SentencePiece makes them: spaces are U+2581, bytes stand for unknown characters."""
    library = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces = [f"<0x{b:02X}>" for b in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *pieces], show_progress=False)
    library.train_from_iterator(CORPUS * 4, trainer)
    whole = json.loads(library.to_str())
    whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] in special]
    whole["pre_tokenizer"] = None
    parts = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    whole["normalizer"] = {"type": "Sequence", "normalizers": parts}
    made = tokenizers.Tokenizer.from_str(json.dumps(whole))
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def template(library: tokenizers.Tokenizer, single: str) -> None:
    names = [name for name in single.split() if not name.startswith("$")]
    library.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1", special_tokens=[(n, library.token_to_id(n)) for n in dict.fromkeys(names)]
    )


def save_parts(library: tokenizers.Tokenizer, folder: Path) -> None:
    """vocab.json and merges.txt, or vocab.txt."""
    library.model.save(str(folder))


def unigram(special: list[str], charsmap: bool = True) -> tokenizers.Tokenizer:
    """A Unigram model of the words of CORPUS and their letters."""
    words = [w for text in CORPUS for w in text.split()]
    pieces = dict.fromkeys(["\u2581", *("\u2581" + w for w in words), *(w[1:] for w in words if len(w) > 3)])
    letters = dict.fromkeys(c for text in CORPUS for c in text if not c.isspace())
    scores = [(s, 0.0) for s in special]
    scores += [(p, -2.0 - len(p) / 4) for p in (*pieces, *letters) if p not in special]
    library = tokenizers.Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>"), byte_fallback=False))
    if charsmap:
        library.normalizer = normalizers.Precompiled(
            precompiled({"\ufb01": "fi", "\uff21": "A", "\t": " ", "\u00a0": " "})
        )
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    library.decoder = decoders.Metaspace()
    library.add_special_tokens([AddedToken(s, special=True) for s in special])
    return library


def precompiled(replacements: Mapping[str, str]) -> bytes:
    """SentencePiece's character map: a double array with a block of 256 units for each node of the trie."""
    blob, values = b"", {}
    for key, value in replacements.items():
        values[key.encode()] = len(blob)
        blob += value.encode() + b"\0"
    nodes = {prefix: i + 1 for i, prefix in enumerate(sorted({k[:n] for k in values for n in range(len(k) + 1)}))}
    units = [0] * (256 * (len(nodes) + 1))
    units[0] = (256 * nodes[b""]) << 10
    for prefix, block in nodes.items():
        if prefix in values:
            units[256 * block] = 1 << 31 | values[prefix]
        if prefix:
            at = 256 * nodes[prefix[:-1]] + prefix[-1]
            units[at] = (at ^ (256 * block)) << 10 | (prefix in values) << 8 | prefix[-1]
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return len(trie).to_bytes(4, "little") + trie + blob


def word_pieces(special: list[str]) -> list[str]:
    letters = sorted({c for text in CORPUS for c in text.lower() if not c.isspace()})
    words = sorted({w.strip(".,;:!?()") for text in CORPUS for w in text.lower().split()} - {""})
    capitals = ["The", "Once", "\u00c9t\u00e9", "A", "B"]
    return [*special, *letters, *(f"##{c}" for c in letters), *words[:60], *capitals, "##s", "##ing", "\u00e9", "e"]


def suffix_bpe(special: list[str], byte_level: bool) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE(unk_token=special[0], end_of_word_suffix="</w>"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else []
    if byte_level:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    library.train_from_iterator([text.lower() for text in CORPUS] * 4, trainer)
    return library
