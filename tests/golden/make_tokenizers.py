"""Make the folders of tokenizers/, which hold SentencePiece models (or no file at all), and record what transformers
makes of texts with them.

Needs transformers and sentencepiece; no test runs it: `python tests/golden/make_tokenizers.py [name ...]`

expected.npz holds, of the texts of `tokenizer_parts.texts`, checksums of the ids and of the text that they decode to;
of translators, also the ids of some texts in some languages, and what a translation into each begins with.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tokenizer_parts import CORPUS, texts, write  # noqa: E402

COUNT = 2000
IN_LANGUAGES = 20  # texts in each language
RULES = {"\ufb01": "fi", "\uff21": "A", "\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ", "e\u0301": "\u00e9"}
WORDS = Path(__file__).parents[2] / "LICENSE"


def train(kind: str, size: int = 400, mapped: bool = True, more: tuple[str, ...] = (), **options: Any) -> bytes:
    """A SentencePiece model of a few kilobytes."""
    lines = [line for line in (*CORPUS, *more, *WORDS.read_text().splitlines()[:400]) if line.strip()]
    written = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        for old, new in RULES.items():
            rules.write(" ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n")
        rules.flush()
        rule = {"normalization_rule_tsv": rules.name} if mapped else {"normalization_rule_name": "identity"}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            vocab_size=size,
            model_type=kind,
            character_coverage=0.98,
            hard_vocab_limit=False,
            minloglevel=2,
            num_threads=1,
            **rule,
            **options,
        )
    return written.getvalue()


def save(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def pieces_of(data: bytes) -> list[str]:
    spm = sentencepiece.SentencePieceProcessor(model_proto=data)
    return [spm.id_to_piece(i) for i in range(spm.get_piece_size())]


FAIRSEQ = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
FAIRSEQ |= {"pad_token": "<pad>"}


def t5(folder: Path) -> None:
    save(folder, "spiece.model", train("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    write(folder, "config.json", {"model_type": "t5"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100})


def mt5_bare(folder: Path) -> None:
    save(folder, "spiece.model", train("unigram", 300, mapped=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    write(folder, "config.json", {"model_type": "mt5"})


def pegasus(folder: Path) -> None:
    save(folder, "spiece.model", train("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    write(folder, "config.json", {"model_type": "pegasus"})
    names = {"mask_token": "<mask_2>", "mask_token_sent": "<mask_1>", "offset": 103}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer", **names})


def xlm_roberta(folder: Path) -> None:
    save(folder, "sentencepiece.bpe.model", train("unigram"))
    write(folder, "config.json", {"model_type": "xlm-roberta"})


def mbart(folder: Path) -> None:
    save(folder, "sentencepiece.bpe.model", train("unigram"))
    write(folder, "config.json", {"model_type": "mbart"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "MBartTokenizer", "src_lang": None, "tgt_lang": None})


def mbart50(folder: Path) -> None:
    save(folder, "sentencepiece.bpe.model", train("unigram"))
    write(folder, "config.json", {"model_type": "mbart"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "MBart50Tokenizer", "src_lang": "de_DE", **FAIRSEQ})


def nllb(folder: Path) -> None:
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as CODES

    save(folder, "sentencepiece.bpe.model", train("bpe"))
    write(folder, "config.json", {"model_type": "m2m_100"})
    config = {"tokenizer_class": "NllbTokenizer", "additional_special_tokens": list(CODES), **FAIRSEQ}
    write(folder, "tokenizer_config.json", config)


def deberta_v2(folder: Path) -> None:
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    save(folder, "spm.model", train("unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **names))
    write(folder, "config.json", {"model_type": "deberta-v2"})
    write(folder, "tokenizer_config.json", {"do_lower_case": False, "vocab_type": "spm"})


def llama(folder: Path) -> None:
    data = train("bpe", 700, mapped=False, byte_fallback=True, remove_extra_whitespaces=False, split_digits=True)
    save(folder, "tokenizer.model", data)
    write(folder, "config.json", {"model_type": "llama"})
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False}
    write(folder, "tokenizer_config.json", {**config, **names})


def gemma(folder: Path) -> None:
    pieces = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"}
    own = ["<mask>", "<start_of_turn>", "\u2581\u2581", "\u2581\u2581\u2581", "<tool>"]
    spaces = {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "byte_fallback": True}
    save(folder, "tokenizer.model", train("bpe", 700, mapped=False, user_defined_symbols=own, **pieces, **spaces))
    write(folder, "config.json", {"model_type": "gemma"})
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, **names})


def _marian(folder: Path, **config: Any) -> None:
    source, target = train("unigram", 350), train("unigram", 300, more=("Der schnelle braune Fuchs springt.",) * 9)
    save(folder, "source.spm", source)
    save(folder, "target.spm", target)
    codes = [">>fra<<", ">>deu<<"]
    both = dict.fromkeys(["</s>", "<unk>", *codes, *pieces_of(source)[5:], *pieces_of(target)])
    both.pop("<s>", None)
    own = dict.fromkeys(["</s>", "<unk>", *pieces_of(target)[9:], "<pad>"])
    source_ids = {piece: i for i, piece in enumerate([*both, "<pad>"])}
    write(folder, "vocab.json", source_ids)
    if config:
        write(folder, "target_vocab.json", {piece: i for i, piece in enumerate(own)})
    write(folder, "config.json", {"model_type": "marian"})
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", {"source_lang": "eng", "target_lang": "mul", **names, **config})


def marian(folder: Path) -> None:
    _marian(folder)


def marian_two(folder: Path) -> None:
    _marian(folder, separate_vocabs=True)


def m2m_100(folder: Path) -> None:
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as CODES

    data = train("bpe")
    save(folder, "sentencepiece.bpe.model", data)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(data)[9:]]
    write(folder, "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    write(folder, "config.json", {"model_type": "m2m_100"})
    special = [f"__{code}__" for code in CODES["m2m100"]]
    names = {**FAIRSEQ, "additional_special_tokens": special}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer", "src_lang": None, **names})


def byt5(folder: Path) -> None:
    write(folder, "config.json", {"model_type": "t5"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125})


MAKERS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(t5, mt5_bare, pegasus, xlm_roberta, mbart, mbart50, nllb, deberta_v2, llama, gemma),
        *(marian, marian_two, m2m_100, byt5),
    )
}
LANGUAGES = {
    "mbart": ("en_XX", "ro_RO"),
    "mbart50": ("fr_XX", "sl_SI"),
    "nllb": ("fra_Latn", "zul_Latn"),
    "m2m_100": ("fr", "zu"),
}


def written_ids(seed: int, vocab: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, 20).tolist()


def checksum(value: object) -> int:
    return zlib.crc32(json.dumps(value).encode())


def record(folder: Path, languages: tuple[str, ...]) -> None:
    other = transformers.AutoTokenizer.from_pretrained(folder)
    given = texts(COUNT)
    ids = [other(text).input_ids for text in given]
    written = ids
    if getattr(other, "separate_vocabs", False):  # what is read cannot be decoded
        written = [written_ids(i, len(other.target_encoder) - 1) for i in range(COUNT)]
    found = {
        "ids": np.array([checksum(i) for i in ids], np.uint32),
        "texts": np.array([checksum(other.decode(i, skip_special_tokens=True)) for i in written], np.uint32),
    }
    for name in languages:
        made = [_in(other, text, name) for text in given[:IN_LANGUAGES]]
        found[f"in_{name}"] = np.array([checksum(i) for i, _ in made], np.uint32)
        found[f"to_{name}"] = np.array(made[0][1])
    np.savez_compressed(folder / "expected.npz", **found)
    print(folder.name, type(other).__name__, len(other), sum(map(len, ids)) // COUNT)


def _in(other: Any, text: str, name: str) -> tuple[list[int], int]:
    arguments = {} if type(other).__name__ == "M2M100Tokenizer" else {"return_tensors": None}
    made = other._build_translation_inputs(text, src_lang=name, tgt_lang=name, **arguments)
    return list(made["input_ids"]), int(made["forced_bos_token_id"])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    for chosen in sys.argv[1:] or MAKERS:
        place = HERE / "tokenizers" / chosen
        place.mkdir(parents=True, exist_ok=True)
        MAKERS[chosen](place)
        record(place, LANGUAGES.get(chosen, ()))
