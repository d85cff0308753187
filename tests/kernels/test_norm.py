"""Norms, and what is asked of a row of logits, against float64."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_harness import EPS, Guarded, Kernels, address, same_bits

LENGTHS = [*range(1, 70), 127, 128, 129, 576, 1000, 4096]


@pytest.mark.parametrize("weighted", [False, True])
def test_rms_norm(kernels: Kernels, guarded: Guarded, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    for n in LENGTHS:
        x = (10.0 ** rng.uniform(-3, 3) * rng.standard_normal(n)).astype(np.float32)
        w = rng.standard_normal(n).astype(np.float32)
        given, weights, y = guarded.copy(x), guarded.copy(w) if weighted else None, guarded.empty(n)
        kernels.rms_norm(address(y), address(given), address(weights), n, 1e-5)
        wide = x.astype(np.float64)
        exact = wide / np.sqrt(np.mean(wide**2) + np.float32(1e-5)) * (w if weighted else 1)
        assert np.all(np.abs(y - exact) <= (n / 16 + 12) * EPS * np.abs(exact) + 1e-37)
        kernels.rms_norm(address(given), address(given), address(weights), n, 1e-5)
        assert same_bits(given, y)


@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_layer_norm(kernels: Kernels, guarded: Guarded, with_weight: bool, with_bias: bool) -> None:
    rng = np.random.default_rng(2)
    for n in LENGTHS:
        x = (rng.uniform(-5, 5) + rng.standard_normal(n)).astype(np.float32)
        w, b = rng.standard_normal((2, n)).astype(np.float32)
        given, y = guarded.copy(x), guarded.empty(n)
        weight, bias = guarded.copy(w) if with_weight else None, guarded.copy(b) if with_bias else None
        kernels.layer_norm(address(y), address(given), address(weight), address(bias), n, 1e-5)
        wide = x.astype(np.float64)
        spread = np.sqrt(wide.var() + np.float32(1e-5))
        factor = np.abs(w) if with_weight else np.ones(n)
        exact = (wide - wide.mean()) / spread * (w if with_weight else 1) + (b if with_bias else 0)
        bound = (n / 16 + 16) * EPS * (factor * (np.abs(wide).mean() + np.abs(wide)) / spread + np.abs(exact))
        assert np.all(np.abs(y - exact) <= bound)
        kernels.layer_norm(address(given), address(given), address(weight), address(bias), n, 1e-5)
        assert same_bits(given, y)


def test_argmax_is_the_first_of_the_largest(kernels: Kernels, guarded: Guarded) -> None:
    rng = np.random.default_rng(3)
    for n in [*range(1, 140), 1000, 32003]:
        x = guarded.copy(rng.integers(-4, 5, n))
        assert kernels.argmax(address(x), n) == np.argmax(x)
        x[:] = -3.0
        x[at := int(rng.integers(n))] = -2.0
        assert kernels.argmax(address(x), n) == at
        x[:] = -np.inf
        assert kernels.argmax(address(x), n) == 0


def test_finite_largest(kernels: Kernels, guarded: Guarded) -> None:
    rng = np.random.default_rng(4)
    largest = ctypes.c_float()
    for n in [*range(1, 140), 5000]:
        x = guarded.copy(1e30 * rng.standard_normal(n))
        assert kernels.finite_largest(address(x), n, largest)
        assert largest.value == x.max()
        for bad in (np.nan, np.inf, -np.inf):
            x[at := int(rng.integers(n))] = bad
            assert not kernels.finite_largest(address(x), n, largest)
            x[at] = np.finfo(np.float32).max
    assert kernels.finite_largest(address(x), 0, largest)


def test_log_sum_exp(kernels: Kernels, guarded: Guarded) -> None:
    rng = np.random.default_rng(5)
    for n in [*range(1, 70), 4095, 4096, 4097, 50000]:
        for scale in (0.1, 1.0, 30.0):
            x = guarded.copy(scale * rng.standard_normal(n))
            wide = x.astype(np.float64)
            exact = wide.max() + np.log(np.exp(wide - wide.max()).sum())
            assert abs(kernels.log_sum_exp(address(x), n) - exact) <= EPS * abs(exact) + 300 * EPS
    x[7] = -np.inf
    assert np.isfinite(kernels.log_sum_exp(address(x), n))
    x[7] = np.nan
    assert np.isnan(kernels.log_sum_exp(address(x), n))
    x[:] = -np.inf
    assert kernels.log_sum_exp(address(x), n) == -np.inf


def test_sums_of_parts(kernels: Kernels, guarded: Guarded) -> None:
    """Blocks that are summed by themselves, and put together."""
    rng = np.random.default_rng(6)
    for n in [1, 15, 16, 17, 128, 129, 5000]:
        for scale in (0.1, 30.0):
            x = scale * rng.standard_normal(n).astype(np.float32)
            wide = x.astype(np.float64)
            tops, sums = [], []
            for begin in range(0, n, 128):
                block = guarded.copy(x[begin : begin + 128])
                tops.append(float(block.max()))
                sums.append(kernels.exp_sum(address(block), len(block), tops[-1]))
                exact = np.exp(wide[begin : begin + 128] - tops[-1]).sum()
                assert abs(sums[-1] - exact) <= 30 * EPS * exact
            log = kernels.log_of_parts(address(guarded.copy(tops)), address(guarded.copy(sums)), len(tops))
            exact = wide.max() + np.log(np.exp(wide - wide.max()).sum())
            assert abs(log - exact) <= EPS * abs(exact) + 300 * EPS
