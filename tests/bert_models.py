"""Tiny BERT checkpoints with random weights, a WordPiece tokenizer and a head of some task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from models import save_checkpoint
from numpy.typing import NDArray

WORDS = "the a animal street cross did not it was too tired wide because paris is of capital france who what in my name"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
HIDDEN, WIDTH, LAYERS = 32, 48, 2


def pieces() -> list[str]:
    letters = [*"abcdefghijklmnopqrstuvwxyz.,?!'"]
    return [*SPECIAL, *letters, *(f"##{c}" for c in letters), *(w for w in WORDS.split() if len(w) > 1)]


def save_bert(folder: Path, kind: str = "BertModel", labels: tuple[str, ...] = (), **config: object) -> Path:
    """A folder whose class is `kind`, with as many labels."""
    vocab = len(pieces())
    values = {
        "model_type": "bert",
        "architectures": [kind],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 64,
        "vocab_size": vocab,
        "type_vocab_size": 2,
        **config,
    }
    if labels:
        values |= {"id2label": {str(i): name for i, name in enumerate(labels)}}
    save_checkpoint(folder, values, weights(kind, vocab, len(labels)))
    add_tokenizer(folder)
    return folder


def add_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    library = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces())}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIAL])
    library.save(str(folder / "tokenizer.json"))
    names = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    settings = {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def weights(kind: str, vocab: int, n_labels: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (vocab, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (64, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["bert.embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}."
        linears |= {f"{layer}attention.self.{x}": (HIDDEN, HIDDEN) for x in ("query", "key", "value")}
        linears |= {f"{layer}attention.output.dense": (HIDDEN, HIDDEN), f"{layer}intermediate.dense": (WIDTH, HIDDEN)}
        linears[f"{layer}output.dense"] = (HIDDEN, WIDTH)
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    if kind.endswith("SequenceClassification"):
        linears |= {"bert.pooler.dense": (HIDDEN, HIDDEN), "classifier": (n_labels, HIDDEN)}
    elif kind.endswith("TokenClassification"):
        linears["classifier"] = (n_labels, HIDDEN)
    elif kind.endswith("QuestionAnswering"):
        linears["qa_outputs"] = (2, HIDDEN)
    elif kind.endswith("MaskedLM"):
        linears["cls.predictions.transform.dense"] = (HIDDEN, HIDDEN)
        norms.append("cls.predictions.transform.LayerNorm")
        shapes["cls.predictions.bias"] = (vocab,)
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
    made = {name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.7) for name, shape in shapes.items()}
    for name in norms:
        made[f"{name}.weight"] += 1
    return made
