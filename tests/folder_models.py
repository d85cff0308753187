"""Folders as sentence-transformers writes them: a tiny random model, and the small files of tests/golden/folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bert_models import HIDDEN, pieces, save_bert, weights
from models import add_byte_tokenizer, byte_shape, save_checkpoint, save_llama

FOLDERS = Path(__file__).parent / "golden" / "folders"
TEXTS = [
    "The animal did not cross the street.",
    "it was too tired",
    "Paris is the capital of France!",
    "who",
    "a, b. c?",
]
QUERY, DOCUMENTS = "Who is the animal?", ["it was wide", "Paris is of France", "the animal was too tired", "street"]
TAGGED = "Paris, Zanzibar-street and the animal of Francenotfrance: who is zyx?"  # words of many pieces
MASKED = ["Paris is the [MASK] of France.", "[MASK] did not [MASK] it"]
NLI = ("contradiction", "entailment", "neutral")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEMPLATE = (
    "{%- for message in messages if message.role == 'system' -%}<S>{{ message.content }}\n{% endfor -%}"
    "<Q>{{ (messages | selectattr('role', 'equalto', 'query') | first).content }}\n"
    "<D>{{ (messages | selectattr('role', 'equalto', 'document') | first).content }}\n"
    "{%- if add_generation_prompt %}<A>{% endif %}"
)


def save_decoder(folder: Path, template: str = "") -> Path:
    """A Llama whose tokens are bytes."""
    save_llama(folder, byte_shape())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    add_byte_tokenizer(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "!", "eos_token": "!"}
    more = {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **more}))
    return folder


def save_colbert(folder: Path) -> Path:
    """As Stanford's code writes it: a projection beside the encoder, and marks that are words."""
    rng, n = np.random.default_rng(8), len(pieces())
    config = json.loads((save_bert(folder) / "config.json").read_text())
    projection = {"linear.weight": rng.standard_normal((16, HIDDEN), dtype=np.float32)}
    save_checkpoint(folder, {**config, "architectures": ["HF_ColBERT"]}, {**weights("BertModel", n, 0), **projection})
    metadata = {"query_token_id": "in", "doc_token_id": "my", "query_maxlen": 14, "doc_maxlen": 24, "dim": 16}
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


BASES: dict[str, Callable[[Path], Path]] = {
    "bert": save_bert,
    "words": lambda folder: save_bert(folder, "BertForMaskedLM"),
    "label": lambda folder: save_bert(folder, "BertForSequenceClassification", ("LABEL_0",)),
    "labels": lambda folder: save_bert(
        folder, "BertForSequenceClassification", NLI, label2id={name: i for i, name in enumerate(NLI)}
    ),
    "tags": lambda folder: save_bert(folder, "BertForTokenClassification", TAGS),
    "answers": lambda folder: save_bert(folder, "BertForQuestionAnswering", ("LABEL_0", "LABEL_1")),
    "colbert": save_colbert,
    "decoder": save_decoder,
    "asked": lambda folder: save_decoder(folder, TEMPLATE),
}


def compose(folder: Path, name: str) -> Path:
    """The folder of a golden: its base, and the small files that sentence-transformers wrote beside it."""
    files = FOLDERS / name
    base = json.loads((files / "case.json").read_text())["base"]
    if base:
        BASES[base](folder)
    skipped = shutil.ignore_patterns("case.json", "expected.*")
    shutil.copytree(files, folder, dirs_exist_ok=True, ignore=skipped)
    return folder
