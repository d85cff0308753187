"""A transformers model in float64 throughout."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Exact(TorchFunctionMode):
    """Lets a float64 model compute in float64 where its code says float32.

    Except for the angles of rotary positions: their rounding to float32 is part of the models' definition. Their
    cosines and sines are then taken in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rotary = False

    @staticmethod
    def narrows(func: Any, args: Any, kwargs: Any) -> bool:
        return func is torch.Tensor.float or torch.float32 in (*args[1:], kwargs.get("dtype"))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wide = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if self.rotary:
            if func in (torch.Tensor.cos, torch.Tensor.sin):
                args = (args[0].double(),)
        elif wide and func in (torch.Tensor.float, torch.Tensor.to) and self.narrows(func, args, kwargs):
            return args[0]
        elif wide and kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def exact(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """A float64 copy of the model, and the mode it needs."""
    model = copy.deepcopy(model).double()
    mode = Exact()

    def enter(*_: object) -> None:
        mode.rotary = True

    def leave(*_: object) -> None:
        mode.rotary = False

    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    with mode:
        yield model
