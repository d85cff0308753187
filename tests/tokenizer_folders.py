"""Small tokenizer folders of many kinds, as transformers and older programs write them, and texts to try them on."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

Json = dict[str, Any]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, then sleeps for 12 hours and 345 minutes.",
    "Once upon a time there was a little girl who didn't know that she'd see the sea; it's fine, they've said so.",
    "def f(x):\n    return [y ** 2 for y in range(x) if y % 3 == 0]\n\n\nclass A:\n\tpass\n",
    "Le c\u0153ur d\u00e9\u00e7u mais l'\u00e2me plut\u00f4t na\u00efve, Stra\u00dfe, \u00e5ngstr\u00f6m, I\u0307stanbul",
    "\u4e2d\u6587\u5b57\u7b26\uff0c\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002\ud55c\uad6d\uc5b4 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f600\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467 emoji! 100% of users #1 @home (see https://example.org/a?b=c)",
]
PIECES = [
    *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    *".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`",
    *[" ", "  ", "    ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x00", "\x07", "\x7f", "\x85", "\u200b"],
    *["the ", " the", "don't", "I'LL ", " 123", "foo_bar", "def f(x):\n", "\u2581", "\u2581\u2581a", "##s", "<0x41>", "</w>"],
    *["e\u0301", "\u00e9", "\u1e9b\u0323", "\ufb01", "\ufdfa", "\u0130", "\u00df", "\uff21", "\u0345", "n\u0303o"],
    *["\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22", "\u05e9\u05dc\u05d5\u05dd"],
    *["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\ufffd", "\U00010400", "\ue000", "\U000e0001"],
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
    parts = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
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
        library.normalizer = normalizers.Precompiled(precompiled({"\ufb01": "fi", "\uff21": "A", "\t": " ", "\u00a0": " "}))
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


# ---- the folders ----------------------------------------------------------------------------------


def gpt2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>"])
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gpt2"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False})


def gpt2_bare(folder: Path) -> None:
    gpt2(folder)
    (folder / "tokenizer_config.json").unlink()


def gpt2_prefix_space(folder: Path) -> None:
    gpt2(folder)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True})
    write(folder, "special_tokens_map.json", {"bos_token": "<s>", "pad_token": added("<pad>", lstrip=True)})
    write(folder, "added_tokens.json", {"<|new|>": 702, "<tool>": 701, "<pad>": 700})


def _roberta(folder: Path, name: str, model_type: str) -> None:
    library = bytes_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    save_parts(library, folder)
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": model_type})
    names = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": typed("<mask>", lstrip=True)}
    write(folder, "tokenizer_config.json", {"tokenizer_class": name, **names, "trim_offsets": True})


def roberta(folder: Path) -> None:
    _roberta(folder, "RobertaTokenizer", "roberta")


def bart(folder: Path) -> None:
    _roberta(folder, "BartTokenizerFast", "bart")


def opt(folder: Path) -> None:
    library = bytes_bpe(["<s>", "<pad>", "</s>", "<unk>"])
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "opt"})
    write(
        folder,
        "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "errors": "replace",
            "unk_token": typed("</s>", normalized=True),
            "bos_token": typed("</s>", normalized=True),
            "eos_token": typed("</s>", normalized=True),
            "pad_token": typed("<pad>", normalized=True),
            "add_prefix_space": False,
            "add_bos_token": True,
        },
    )
    write(folder, "special_tokens_map.json", {"bos_token": added("</s>", normalized=True), "pad_token": "<pad>"})


def codegen(folder: Path) -> None:
    gpt2(folder)
    write(folder, "config.json", {"model_type": "codegen"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "CodeGenTokenizer", **names})
    write(folder, "added_tokens.json", {" " * n: 700 + n for n in range(2, 9)})


def phi(folder: Path) -> None:
    codegen(folder)
    write(folder, "config.json", {"model_type": "phi"})


def gpt_neox(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<|padding|>"])
    library.normalizer = normalizers.NFC()
    library.add_tokens([AddedToken(" " * n, normalized=True) for n in (12, 8, 4, 2)])
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gpt_neox"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False, **names})


def qwen2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    library.normalizer = normalizers.NFC()
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "qwen2"})
    write(
        folder,
        "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                "0": added("<|endoftext|>"),
                "1": added("<|im_start|>"),
                "2": added("<|im_end|>"),
                "700": added("<tool>", special=False),
            },
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "errors": "replace",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def qwen3(folder: Path) -> None:
    qwen2(folder)
    write(folder, "config.json", {"model_type": "qwen3"})


def _llama(folder: Path, model_type: str = "llama", **config: object) -> None:
    library = spaced_bpe(["<unk>", "<s>", "</s>"])
    template(library, "<s> $A:0")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": model_type})
    names = {"bos_token": typed("<s>"), "eos_token": typed("</s>"), "unk_token": typed("<unk>"), "pad_token": None}
    whole = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **names, **config}
    write(folder, "tokenizer_config.json", whole)
    write(folder, "special_tokens_map.json", {"bos_token": added("<s>", normalized=True), "eos_token": "</s>"})


def llama_legacy(folder: Path) -> None:
    _llama(folder, legacy=True)


def llama(folder: Path) -> None:
    _llama(folder, legacy=False, tokenizer_class="LlamaTokenizerFast", add_eos_token=True)


def llama_without_space(folder: Path) -> None:
    _llama(folder, add_prefix_space=False)


def llama_as_written(folder: Path) -> None:
    _llama(folder, tokenizer_class="PreTrainedTokenizerFast")


def llama_split(folder: Path) -> None:
    _llama(folder, split_special_tokens=True, extra_special_tokens={"image_token": "<|new|>"}, audio_token="<tool>")


def mistral(folder: Path) -> None:
    _llama(folder, "mistral", legacy=False)


def phi3(folder: Path) -> None:
    decoder = {"0": added("<unk>"), "1": added("<s>"), "2": added("</s>", rstrip=True, special=False)}
    decoder |= {"700": added("<|endoftext|>"), "701": added("<|user|>", rstrip=True)}
    _llama(folder, "phi3", legacy=False, added_tokens_decoder=decoder, eos_token="<|endoftext|>")


def llama3(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<bos>"])
    whole = json.loads(library.to_str())
    whole["model"]["ignore_merges"] = True
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_]}
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    library = tokenizers.Tokenizer.from_str(json.dumps(whole))
    template(library, "<bos> $A:0")
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), library.post_processor])
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "llama"})
    names = {"bos_token": "<bos>", "eos_token": "<|endoftext|>"}
    write(
        folder,
        "tokenizer_config.json",
        {
            "added_tokens_decoder": {"0": added("<|endoftext|>"), "1": added("<bos>"), "700": added("<|user|>")},
            "clean_up_tokenization_spaces": True,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
        },
    )


def gemma(folder: Path) -> None:
    library = spaced_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    library.normalizer = normalizers.Replace(" ", "\u2581")
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_tokens([AddedToken("\u2581" * n, normalized=False) for n in (2, 3, 4)])
    library.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2)])
    template(library, "<bos> $A:0")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "gemma2"})
    listed = json.loads(library.to_str())["added_tokens"]
    decoder = {str(t.pop("id")): t for t in listed}
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"added_tokens_decoder": decoder, "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **names}
    write(folder, "tokenizer_config.json", config)


def t5(folder: Path) -> None:
    library = unigram(["<pad>", "</s>", "<unk>"])
    template(library, "$A </s>")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "t5"})
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    extra = [f"<extra_id_{i}>" for i in range(100)]
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "additional_special_tokens": extra, **names}
    write(folder, "tokenizer_config.json", config)


def t5_bare(folder: Path) -> None:
    t5(folder)
    (folder / "tokenizer_config.json").unlink()


def xlm_roberta(folder: Path) -> None:
    library = unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    template(library, "<s> $A </s>")
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "xlm-roberta"})
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": typed("<mask>", lstrip=True)}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer", **names})


def _bert(folder: Path, whole: bool = True, **config: object) -> None:
    pieces = word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    if whole:
        library = tokenizers.Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
        library.normalizer = normalizers.BertNormalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece()
        library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        library.add_special_tokens([AddedToken(p, special=True) for p in pieces[:5]])
        library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bert"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **config})


def bert(folder: Path) -> None:
    _bert(folder, do_lower_case=True, never_split=["Hello"], do_basic_tokenize=True)


def bert_cased(folder: Path) -> None:
    _bert(folder, do_lower_case=False)


def bert_accents(folder: Path) -> None:
    _bert(folder, tokenizer_class="BertTokenizerFast", strip_accents=False, tokenize_chinese_chars=False)


def distilbert(folder: Path) -> None:
    _bert(folder, tokenizer_class="DistilBertTokenizer", do_lower_case=False, strip_accents=True)
    write(folder, "config.json", {"model_type": "distilbert"})


def bert_bare(folder: Path) -> None:
    _bert(folder)
    (folder / "tokenizer_config.json").unlink()


def mpnet(folder: Path) -> None:
    pieces = word_pieces(["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]) + ["<mask>"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    write(folder, "config.json", {"model_type": "mpnet"})
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "mask_token": "<mask>"}
    config = {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True, "unk_token": "[UNK]", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {**config, **names})


def bloom(folder: Path) -> None:
    library = bytes_bpe(["<unk>", "<s>", "</s>", "<pad>"])
    pattern = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bloom"})
    names = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BloomTokenizerFast", **names, "padding_side": "left"})


def falcon(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", ">>TITLE<<"])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(tokenizers.Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    )
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "falcon"})
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    write(folder, "tokenizer_config.json", {**config, "special_tokens": [], "add_prefix_space": False})


def starcoder2(folder: Path) -> None:
    library = bytes_bpe(["<|endoftext|>", "<tool>"])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    save_parts(library, folder)
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "starcoder2"})
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", **names, "vocab_size": 700})


def word_level(folder: Path) -> None:
    words = dict.fromkeys(w for text in CORPUS for w in text.lower().split())
    vocab = {w: i for i, w in enumerate(["<unk>", "<pad>", *words])}
    library = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "llama"})
    extra = {"additional_special_tokens": ["<|user|>", typed("<tool>", single_word=True)]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>", **extra}
    write(folder, "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": True})


def suffix_bpe(special: list[str], byte_level: bool) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE(unk_token=special[0], end_of_word_suffix="</w>"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else []
    if byte_level:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    library.train_from_iterator([text.lower() for text in CORPUS] * 4, trainer)
    return library


def clip(folder: Path) -> None:
    library = suffix_bpe(["<|endoftext|>", "<|startoftext|>"], byte_level=True)
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "clip"})
    names = {"bos_token": typed("<|startoftext|>"), "eos_token": typed("<|endoftext|>"), "unk_token": "<|endoftext|>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", **names, "pad_token": "<|endoftext|>"})


def openai_gpt(folder: Path) -> None:
    library = suffix_bpe(["<unk>"], byte_level=False)
    save_parts(library, folder)
    write(folder, "config.json", {"model_type": "openai-gpt"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": "<unk>"})


FOLDERS: dict[str, Callable[[Path], None]] = {
    f.__name__: f
    for f in (
        *(gpt2, gpt2_bare, gpt2_prefix_space, roberta, bart, opt, codegen, phi, gpt_neox, qwen2, qwen3, llama_legacy),
        *(llama, llama_without_space, llama_as_written, llama_split, mistral, phi3, llama3, gemma, t5, t5_bare),
        *(xlm_roberta, bert, bert_cased, bert_accents, distilbert, bert_bare, mpnet, bloom, falcon, starcoder2),
        *(word_level, clip, openai_gpt),
    )
}
