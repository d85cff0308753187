"""An adapter as PEFT writes it: adapter_config.json and adapter_model.safetensors, read without a look at the model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.config import Config
from fastlm.errors import ModelFileError, ModelFormatError, UnsupportedError
from fastlm.weights.jsonfile import read_object
from fastlm.weights.safetensors import Checkpoint
from fastlm.weights.tensors import DTYPES, to_float32

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # of all of PEFT's names
MAX_RANK = 4096  # as in csrc/include/fastlm.h
PARTS = {  # of a module, by the ends of their names
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "token_adapter.trainable_tokens_delta": "tokens",
    "base_layer.weight": "base",
    "base_layer.bias": "bias",
    "weight": "weight",
    "bias": "bias",
}
# Options that change what is computed, with the values that leave it as it is.
PLAIN: Mapping[str, tuple[object, ...]] = {
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "ensure_weight_tying": (False,),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "use_bdlora": (None, False),
    "use_qalora": (False,),
    "velora_config": (None,),
}
# How training began: these leave the model's own weights alone.
INITS = (True, False, "true", "false", "gaussian", "eva", "orthogonal")
# Which modules were trained is seen from the tensors; the rest is about training.
ASIDE = (
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_bias", "lora_ga_config",
    "lora_dropout", "megatron_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip

MAX_PATTERN, MAX_REPEATS, MAX_NAME = 300, 3, 300  # letters of a pattern, its `*` and `+`, letters of a name
REPEATS = re.compile(r"[*+]|\{\d*,\d*\}")
NESTED = re.compile(r"[*+}]\)+[*+{]")

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Options:
    """What adapter_config.json says of the numbers.

    Attributes
    ----------
    ranks, alphas
        For modules whose names a pattern matches, another rank or alpha.
    tokens
        Whose rows of the embedding have values of their own.
    """

    rank: int
    alpha: float
    root: bool
    dora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    tokens: tuple[int, ...]
    base: str = ""

    def rank_of(self, module: str) -> int:
        return self.ranks.get(_matching(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What B A is multiplied with (rank-stabilised: Kalajdzievski 2023)."""
        rank, alpha = self.rank_of(module), self.alphas.get(_matching(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """The tensors of a module, float32, by the names in PARTS.

    Attributes
    ----------
    name
        As in the model, without PEFT's prefix.
    """

    name: str
    parts: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter that was read."""

    path: Path
    options: Options
    modules: tuple[Module, ...]

    @property
    def where(self) -> str:
        """The file of the tensors, for error texts."""
        return str(self.path / WEIGHTS)

    @property
    def parameters(self) -> int:
        return sum(values.size for module in self.modules for values in module.parts.values())


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter, and no model."""
    return (path / CONFIG).is_file() and not (path / "config.json").exists()


def read_adapter(path: Path) -> AdapterFolder:
    """The adapter in a folder.

    Raises
    ------
    ModelFileError
        The folder, or one of its files, cannot be read.
    ModelFormatError
        A file is malformed or damaged.
    UnsupportedError
        It is no LoRA, or has an option that changes the result and is not honoured here.
    """
    if not (path / CONFIG).exists():
        raise ModelFileError(f"{path}: not an adapter's folder: it holds no {CONFIG}")
    options = _read_options(Config(read_object(path / CONFIG), str(path / CONFIG)))
    if not (path / WEIGHTS).exists() and (path / PICKLED).exists():
        raise UnsupportedError(
            f"{path / PICKLED}: is a pickle, which can run code when it is loaded; load the adapter with PEFT and "
            "save it again, which writes safetensors"
        )
    with Checkpoint(path / WEIGHTS) as checkpoint:
        modules = _read_modules(checkpoint, str(path / WEIGHTS))
    if not modules:
        raise ModelFormatError(f"{path / WEIGHTS}: holds no tensors")
    return AdapterFolder(path, options, modules)


def _read_options(config: Config) -> Options:
    kind = config.text("peft_type", "")
    if kind != "LORA":
        raise config.unsupported("peft_type", kind, "known: LORA")
    for name, neutral in PLAIN.items():
        config.only(name, *neutral)
    init = config.text("init_lora_weights", "") if config.is_text("init_lora_weights") else None
    if init is not None and init.lower() not in INITS:
        hint = "it changes the model's own weights, too: save it as a plain LoRA, by PEFT's "
        raise config.unsupported("init_lora_weights", init, hint + "path_initial_model_for_weight_conversion")
    config.only("bias", "none", "all", "lora_only")
    config.ignore("init_lora_weights", *ASIDE)
    found = Options(
        rank=config.count("r", 8, MAX_RANK),
        alpha=config.number("lora_alpha", 8),
        root=config.flag("use_rslora", False),
        dora=config.flag("use_dora", False),
        ranks={name: s.count(name, 0, MAX_RANK) for name, s in _patterns(config, "rank_pattern")},
        alphas={name: s.number(name, None) for name, s in _patterns(config, "alpha_pattern")},
        tokens=_token_indices(config),
        base=config.text_or_none("base_model_name_or_path") or "",
    )
    config.finish()
    return found


def _patterns(config: Config, key: str) -> Iterator[tuple[str, Config]]:
    """The patterns of an option that maps them to numbers, and the object that they stand in."""
    section = config.section(key)
    for pattern in section.keys() if section else ():
        assert section is not None
        _check_pattern(section, pattern)
        yield pattern, section


def _check_pattern(section: Config, pattern: str) -> None:
    """Refuse what is no pattern, and what could take for ever to match."""
    if len(pattern) > MAX_PATTERN or len(REPEATS.findall(pattern)) > MAX_REPEATS or NESTED.search(pattern):
        raise section.unsupported(pattern[:60], section.value(pattern), "a shorter or simpler pattern")
    try:
        re.compile(pattern)
    except re.error as error:
        raise section.bad(pattern, f"is no regular expression: {error}") from error


def _matching(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that the end of a module's name matches, as PEFT finds it."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), module)


def _token_indices(config: Config) -> tuple[int, ...]:
    """Of the embedding; PEFT also takes a mapping from modules to tokens."""
    value = config.value("trainable_token_indices")
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise config.unsupported("trainable_token_indices", value, "a list of token ids, or of one module")
    return tuple(value)


def _read_modules(checkpoint: Checkpoint, where: str) -> tuple[Module, ...]:
    modules: dict[str, Module] = {}
    for name in checkpoint.names():
        module, part = _split(name, where)
        own = modules.setdefault(module, Module(module))
        if part in own.parts:
            raise ModelFormatError(f"{where}: {name[:200]}: its module has two tensors of this kind")
        own.parts[part] = _values(checkpoint, name, where)
    for found in modules.values():
        for a, b in (("a", "b"), ("embedding_a", "embedding_b")):
            if (a in found.parts) != (b in found.parts):
                there, missing = (a, b) if a in found.parts else (b, a)
                raise ModelFormatError(f"{where}: {found.name[:200]}: has lora_{there} but no lora_{missing}")
    return tuple(modules.values())


def _split(name: str, where: str) -> tuple[str, str]:
    """A tensor's module, and which of its parts it is."""
    if name.startswith(PREFIX) and len(name) <= MAX_NAME:
        for end, part in PARTS.items():
            if name.endswith("." + end):
                return name[len(PREFIX) : -len(end) - 1], part
    raise ModelFormatError(f"{where}: {name[:200]}: is no tensor of a LoRA that is known here")


def _values(checkpoint: Checkpoint, name: str, where: str) -> Array:
    dtype, shape = checkpoint.info(name)
    if dtype not in DTYPES:
        raise UnsupportedError(f"{where}: {name[:200]}: values of type {dtype} (known: {', '.join(DTYPES)})")
    if not shape or 0 in shape or len(shape) > 2:
        raise ModelFormatError(f"{where}: {name[:200]}: has the shape {list(shape)}")
    values = to_float32(checkpoint.read(name), dtype)
    if not np.isfinite(values).all():
        raise ModelFormatError(f"{where}: {name[:200]}: has a value that is NaN or infinite")
    return np.ascontiguousarray(values)
