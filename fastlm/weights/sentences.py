"""What a sentence-transformers folder says of embeddings: modules.json and the files that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastlm.arch.config import show
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.jsonfile import parse_json
from fastlm.weights.source import ModelSource

MODULES = "modules.json"
PROMPTS, LIMITS = "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING = "1_Pooling"
SENTENCE_FILES = (MODULES, PROMPTS, LIMITS, POOLING + "/config.json")
POOLINGS = {"cls": "first", "mean": "mean", "lasttoken": "last"}  # pooling_mode, and pooling_mode_..._token(s)
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class Sentences:
    """How hidden states become the vector of a text.

    Attributes
    ----------
    pooling
        "first", "last" or "mean": of the tokens' hidden states.
    normalize
        Whether vectors have length 1.
    longest
        Tokens after which the model's makers cut texts off; 0: they do not say.
    prompts, default_prompt
        Beginnings of texts, by name, and which one is used unless another is asked for.
    """

    pooling: str = "mean"
    normalize: bool = True
    longest: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_sentences(source: ModelSource) -> Sentences:
    """The folder's; where it is no folder of sentence-transformers, the mean, normalised.

    Raises
    ------
    ModelFormatError
        A file is malformed.
    UnsupportedError
        A module or a pooling that this version does not compute.
    """
    data = source.read(MODULES)
    if data is None:
        return Sentences()
    where = source.describe(MODULES)
    modules = parse_json(data, where)
    if not isinstance(modules, list) or not all(isinstance(module, Mapping) for module in modules):
        raise ModelFormatError(f"{where}: expected a list of modules, found {show(modules)}")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    pooling = "mean"
    for kind in kinds:
        if kind == "Pooling":
            pooling = _pooling(source, f"{POOLING}/config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise UnsupportedError(f"{where}: the module {kind!r:.60} is not supported")
    settings = source.read_json(PROMPTS) or {}
    prompts, limits = settings.get("prompts"), source.read_json(LIMITS) or {}
    longest, default = limits.get("max_seq_length"), settings.get("default_prompt_name")
    return Sentences(
        pooling=pooling,
        normalize="Normalize" in kinds,
        longest=longest if isinstance(longest, int) and longest > 0 else 0,
        prompts={str(k): str(v) for k, v in prompts.items()} if isinstance(prompts, Mapping) else {},
        default_prompt=default if isinstance(default, str) else None,
    )


def _pooling(source: ModelSource, name: str) -> str:
    """Both dialects: a name under pooling_mode, or a flag for each mode."""
    where, config = source.describe(name), source.read_json(name) or {}
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else [kind for flag, kind in FLAGS.items() if config.get(flag)]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UnsupportedError(f"{where}: pooling {show(modes)} is not supported (known: {', '.join(POOLINGS)})")
    return POOLINGS[modes[0]]
