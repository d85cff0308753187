"""model_type -> family module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from fastlm.arch.config import Config, show
from fastlm.arch.family import Family
from fastlm.arch.heads import of_decoder
from fastlm.errors import ModelFormatError, UnsupportedError

FAMILIES = (
    "albert",
    "bart",
    "bert",
    "blenderbot",
    "blenderbot-small",
    "bloom",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "eurobert",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gte",
    "jina_embeddings_v3",
    "llama",
    "m2m_100",
    "marian",
    "mbart",
    "mistral",
    "mixtral",
    "modernbert",
    "mpnet",
    "mt5",
    "new",
    "nomic_bert",
    "opt",
    "pegasus",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "roberta",
    "t5",
    "t5gemma",
    "umt5",
    "xlm-roberta",
)
MODULES = {
    "blenderbot-small": "blenderbot_small",
    "camembert": "roberta",
    "deberta-v2": "deberta_v2",
    "xlm-roberta": "roberta",
}  # whose files are called otherwise


def read(config: Mapping[str, object], path: str | Path = "config.json") -> Family:
    """The family of a parsed config.json.

    Parameters
    ----------
    config
        The JSON object of config.json, in the classic or the transformers v5 dialect.
    path
        Its file, for error texts.

    Raises
    ------
    UnsupportedError
        Unknown model_type, an unknown key, or a value that would need something this version cannot compute.
    ModelFormatError
        A value of the wrong type, out of range, or in contradiction to another; the text names file and key.
    """
    where = str(path)
    if not isinstance(config, Mapping):
        raise ModelFormatError(f"{where}: expected a JSON object, found {type(config).__name__}")
    name = config.get("model_type")
    if not isinstance(name, str):
        raise ModelFormatError(f"{where}: model_type: expected the name of a model family, found {show(name)}")
    if name not in FAMILIES:
        same = next((family for family in FAMILIES if _plain(family) == _plain(name)), None)
        hint = f"; did you mean {same!r}?" if same else ""
        known = ", ".join(FAMILIES)
        raise UnsupportedError(f"{where}: model_type {name[:64]!r} is not supported{hint} (known: {known})")
    reader = Config(config, where)
    family: Family = importlib.import_module(f"fastlm.arch.{MODULES.get(name, name)}").read(reader)
    reader.finish()
    return of_decoder(family, reader)


def _plain(name: str) -> str:
    """A name without what is written now so, now otherwise: "GPT-NeoX" is gpt_neox, but bart is no bert."""
    return "".join(c for c in name.lower() if c.isalnum())
