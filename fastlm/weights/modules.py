"""The modules of a sentence-transformers folder: what modules.json lists, and the files of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.config import MAX_WIDTH, Config, show
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.jsonfile import parse_json
from fastlm.weights.safetensors import Checkpoint
from fastlm.weights.source import MODULES, ModelSource
from fastlm.weights.tensors import to_float32

Array = NDArray[np.float32]

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of a module
TOKENS, VECTOR = "token_embeddings", "sentence_embedding"  # what a module reads and writes
STATIC = "StaticEmbedding"  # a class of models that are modules
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
FLAGS = {  # of the old dialect, in the order in which the results are put together
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Identity", "Tanh", "Sigmoid", "ReLU", "GELU", "SiLU")  # of torch.nn, as they are made without arguments

_FOLDER = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)
_MOST = 32  # modules


@dataclass(frozen=True, slots=True)
class Module:
    """An entry of modules.json.

    Attributes
    ----------
    kind
        The name of its class: "Transformer", "Pooling", "Dense", ...
    path
        Its folder with a slash behind it; "": the model's own.
    """

    kind: str
    path: str

    def files(self) -> tuple[str, ...]:
        """The names of its files, unless it is the model itself."""
        return (self.path + CONFIG, self.path + WEIGHTS) if self.path else ()


@dataclass(frozen=True, slots=True)
class Pooling:
    """One vector of all tokens' hidden states, or several of them behind each other.

    Attributes
    ----------
    modes
        Names of POOLINGS.
    include_prompt
        Whether the tokens of a prompt are among them.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True


MEAN = Pooling(("mean",))


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """activation(weight x + bias), to which x, or residual x, may be added.

    Attributes
    ----------
    weight, bias
        float32 (outputs, inputs) and (outputs,).
    activation
        A name of ACTIVATIONS.
    adds
        Whether the input is added.
    residual
        float32 (outputs, inputs), by which the input is multiplied before.
    """

    weight: Array
    bias: Array | None
    activation: str
    adds: bool = False
    residual: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """weight (x - mean) / sqrt(variance + 1e-5) + bias (Ba et al. 2016)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Normalize:
    """x / |x|."""


Step = Dense | LayerNorm | Normalize  # of vectors, one by one


def read_modules(source: ModelSource) -> tuple[Module, ...]:
    """What modules.json lists, in both dialects of its types; nothing without one.

    Raises
    ------
    ModelFormatError
        It is malformed, or names a folder that is not one of the model's.
    """
    data = source.read(MODULES)
    if data is None:
        return ()
    where = source.describe(MODULES)
    listed = parse_json(data, where)
    if not isinstance(listed, list) or not all(isinstance(module, Mapping) for module in listed):
        raise ModelFormatError(f"{where}: expected a list of modules, found {show(listed)}")
    if not 1 <= len(listed) <= _MOST:
        raise ModelFormatError(f"{where}: {len(listed)} modules; from 1 to {_MOST} are read")
    return tuple(_module(Config(module, f"{where}: [{i}]"), i) for i, module in enumerate(listed))


def _module(entry: Config, place: int) -> Module:
    """The first may be the folder itself; another one without a path is where its place and its class say."""
    path, kind = entry.text("path", ""), entry.text("type", "").rpartition(".")[2]
    if path in ("", "."):
        return Module(kind, f"{place}_{kind}/" if place and _FOLDER.fullmatch(kind) else "")
    if not _FOLDER.fullmatch(path):
        raise entry.bad("path", f"expected the name of a folder beside it, found {show(path)}")
    return Module(kind, path + "/")


def config_of(source: ModelSource, module: Module, *, needed: bool = True) -> Config:
    """The module's own config.json."""
    name = module.path + CONFIG
    values = source.read_json(name) if module.path else {}
    if values is None and needed:
        raise ModelFormatError(f"{source.describe(name)}: is missing; {MODULES} lists {module.kind}")
    return Config(values or {}, source.describe(name))


def read_pooling(source: ModelSource, module: Module, width: int) -> Pooling:
    """Both dialects: names under pooling_mode, or a flag for each of them."""
    config = config_of(source, module)
    for key in ("embedding_dimension", "word_embedding_dimension"):
        if config.has(key) and config.count(key, 0, MAX_WIDTH) != width:
            raise config.bad(key, f"{config.count(key, 0, MAX_WIDTH)} is not the width of the model, {width}")
    flags = [mode for flag, mode in FLAGS.items() if config.flag(flag, False)]
    one = config.text("pooling_mode", "") if config.is_text("pooling_mode") else None
    several = None if one else config.items("pooling_mode", str)
    modes = [one] if one else (flags or ["mean"]) if several is None else several
    if not 1 <= len(modes) <= len(POOLINGS):
        raise config.bad("pooling_mode", f"expected one to {len(POOLINGS)} names, found {len(modes)}")
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise config.unsupported("pooling_mode", unknown[0], "known: " + ", ".join(POOLINGS))
    found = Pooling(tuple(modes), config.flag("include_prompt", True))
    config.finish()
    return found


def read_dense(source: ModelSource, module: Module, width: int) -> Dense:
    """A dense step behind vectors of `width` numbers."""
    config, weights = config_of(source, module), _Weights(source, module)
    inputs, outputs = (config.count(key, 0, MAX_WIDTH) for key in ("in_features", "out_features"))
    if inputs != width:
        raise config.bad("in_features", f"{inputs}, but what is before it gives {width} numbers")
    activation = config.text("activation_function", "torch.nn.modules.activation.Tanh")
    name = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.") or name not in ACTIVATIONS:
        raise config.unsupported("activation_function", activation, "known: torch.nn's " + ", ".join(ACTIVATIONS))
    adds, bias = config.flag("use_residual", False), config.flag("bias", True)
    config.ignore("module_input_name", "module_output_name")
    config.finish()
    found = Dense(
        weights.take("linear.weight", outputs, inputs),
        weights.take("linear.bias", outputs) if bias else None,
        name,
        adds,
        weights.take("residual.weight", outputs, inputs) if adds and inputs != outputs else None,
    )
    weights.finish()
    return found


def read_layer_norm(source: ModelSource, module: Module, width: int) -> LayerNorm:
    """A norm of vectors of `width` numbers."""
    config, weights = config_of(source, module), _Weights(source, module)
    if (dimension := config.count("dimension", 0, MAX_WIDTH)) != width:
        raise config.bad("dimension", f"{dimension}, but what is before it gives {width} numbers")
    config.finish()
    found = LayerNorm(weights.take("norm.weight", width), weights.take("norm.bias", width))
    weights.finish()
    return found


class _Weights:
    """The tensors of a module, which are small enough to be read whole."""

    def __init__(self, source: ModelSource, module: Module) -> None:
        name = module.path + WEIGHTS
        self.where, self._kind = source.describe(name), module.kind
        data = source.read(name)
        if data is None:
            raise UnsupportedError(
                f"{self.where}: is missing; {MODULES} lists {module.kind}: save the model again by a "
                "sentence-transformers that writes safetensors"
            )
        self._checkpoint = Checkpoint(Path(self.where), data)
        self._left = set(self._checkpoint.names())

    def finish(self) -> None:
        """Refuse tensors that were not taken."""
        if self._left:
            left = ", ".join(sorted(self._left)[:5])
            raise ModelFormatError(f"{self.where}: tensors that have no place in this {self._kind}: {left}")

    def take(self, name: str, *shape: int) -> Array:
        """A tensor of this shape, all of whose values are finite, as float32."""
        if name not in self._checkpoint.names():
            raise ModelFormatError(f"{self.where}: tensor {name!r} is missing")
        self._left.discard(name)
        dtype, found = self._checkpoint.info(name)
        if found != shape:
            raise ModelFormatError(f"{self.where}: {name}: expected shape {list(shape)}, found {list(found)}")
        stored: NDArray[Any] = self._checkpoint.read(name)
        values = to_float32(stored, dtype)
        if not np.isfinite(values).all():
            raise ModelFormatError(f"{self.where}: {name}: holds NaN or infinity")
        return values
