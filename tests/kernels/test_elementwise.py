"""Elementwise kernels against float64, for every length of tail; the bits of an element do not depend on its place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from kernel_harness import ACTIVATIONS, EPS, Guarded, Kernels, address, same_bits

LENGTHS = [*range(1, 68), 129, 1000]
_erfc = np.vectorize(math.erfc)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * _erfc(-x / math.sqrt(2)),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x / (1 + np.exp(-np.maximum(x, -700))),
    "tanh": np.tanh,
}
EXACT["gelu_short"] = EXACT["gelu"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_error(kernels: Kernels, guarded: Guarded, name: str) -> None:
    """The error is below 4e-7 |x| everywhere; that includes what is left of far negative arguments.

    What is quantised at once may be off by 1e-4, or 2e-6 |x| far out, and by 2e-4 |x| near 0.
    """
    dense = np.linspace(-20, 20, 40001)
    far = np.concatenate([-np.logspace(-30, 3, 4000), np.logspace(-30, 4, 4000), [0.0]])
    x = np.concatenate([dense, far]).astype(np.float32)
    given, y = guarded.copy(x), guarded.empty(len(x))
    kernels.activate[ACTIVATIONS[name]](address(y), address(given), len(x))
    wide = x.astype(np.float64)
    error = np.abs(y - EXACT[name](wide))
    if name == "gelu_short":
        assert np.all(error <= np.minimum(1e-4 + 2e-6 * np.abs(wide), 2e-4 * np.abs(wide)))
        return
    assert np.all(error <= 4e-7 * np.abs(wide))
    if name == "silu":  # holds relatively, too
        near = wide > -80
        assert np.all(error[near] <= 4e-7 * np.abs(EXACT[name](wide[near])) + 1e-37)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_gates_of_every_length(kernels: Kernels, guarded: Guarded, name: str) -> None:
    rng = np.random.default_rng(1)
    whole = (3 * rng.standard_normal(1000)).astype(np.float32)
    other = rng.standard_normal(1000).astype(np.float32)
    expected, activate, gate = guarded.empty(1000), kernels.activate[ACTIVATIONS[name]], kernels.gate[ACTIVATIONS[name]]
    activate(address(expected), address(guarded.copy(whole)), 1000)
    for n in LENGTHS:
        for at_end in (False, True):
            x, up = guarded.copy(whole[:n], at_end=at_end), guarded.copy(other[:n], at_end=at_end)
            y, gated = guarded.empty(n, at_end=at_end), guarded.empty(n, at_end=at_end)
            activate(address(y), address(x), n)
            gate(address(gated), address(x), address(up), n)
            assert same_bits(y, expected[:n])
            assert same_bits(gated, y * other[:n])
        in_place = guarded.copy(up)
        gate(address(in_place), address(x), address(in_place), n)
        assert same_bits(in_place, gated)
        gate(address(x_copy := guarded.copy(x)), address(x_copy), address(up), n)
        assert same_bits(x_copy, gated)
        activate(address(x), address(x), n)
        assert same_bits(x, y)


def test_sums_and_scales(kernels: Kernels, guarded: Guarded) -> None:
    rng = np.random.default_rng(2)
    for n in LENGTHS:
        x, y = rng.standard_normal((2, n)).astype(np.float32)
        given, target = guarded.copy(x), guarded.copy(y)
        kernels.add(address(target), address(given), n)
        assert same_bits(target, x + y)
        kernels.scale(address(target), 0.3, n)
        assert same_bits(target, (x + y) * np.float32(0.3))
        target[:] = y
        kernels.add_scaled(address(target), address(given), 0.3, n)
        exact = y + np.float64(np.float32(0.3)) * x
        assert np.all(np.abs(target - exact) <= EPS * (np.abs(exact) + np.abs(0.3 * x)))


def test_sums_of_rows(kernels: Kernels, guarded: Guarded) -> None:
    """Each row as by itself; what stands between rows stays."""
    rng = np.random.default_rng(3)
    for n in LENGTHS:
        for rows in (1, 2, 5):
            stride = n + int(rng.integers(3))
            x, y = rng.standard_normal(n).astype(np.float32), rng.standard_normal(rows * stride).astype(np.float32)
            last = (rows - 1) * stride + n
            target = guarded.copy(y[:last])
            kernels.add_to_rows(address(target), stride, rows, address(guarded.copy(x)), n)
            expected = y.copy()
            for row in range(rows):
                expected[row * stride : row * stride + n] += x
            assert same_bits(target, expected[:last])


def test_softcap(kernels: Kernels, guarded: Guarded) -> None:
    """Relative error below 5e-7, for tiny arguments as well."""
    for n in LENGTHS:
        for cap in (1.0, 30.0, 50.0):
            x = (np.random.default_rng(n).choice([-1, 1], n) * np.geomspace(1e-6, 1e4, n)).astype(np.float32)
            y = guarded.copy(x)
            kernels.softcap(address(y), cap, n)
            exact = cap * np.tanh(x.astype(np.float64) / cap)
            assert np.all(np.abs(y - exact) <= 5e-7 * np.abs(exact))


def test_rope(kernels: Kernels, guarded: Guarded) -> None:
    rng = np.random.default_rng(4)
    for n in [*range(1, 36), 64, 100]:
        x, angle = rng.standard_normal(2 * n).astype(np.float32), rng.uniform(-7, 7, n)
        c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        y = guarded.copy(x)
        kernels.rope(address(y), address(guarded.copy(c)), address(guarded.copy(s)), n)
        a, b, cosine, sine = x[:n].astype(np.float64), x[n:].astype(np.float64), c.astype(float), s.astype(float)
        exact = np.concatenate([a * cosine - b * sine, b * cosine + a * sine])
        size = np.tile(np.abs(a) + np.abs(b), 2)
        assert np.all(np.abs(y - exact) <= 3 * EPS * size)
