"""Rotary frequencies from a config, in both dialects.

Classic: `rope_theta`, `partial_rotary_factor` and `rope_scaling` beside the other keys. transformers v5: all of them
in `rope_parameters`, where some families keep one object per layer type.

Frequencies are computed in float32, step by step as transformers does: they are multiplied by positions, so that the
last bits matter, and models were trained with these. Powers are the nearest float32: NumPy's own of float32 have last
bits that depend on the processor.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from fastlm.arch.config import MAX_CONTEXT, Config
from fastlm.arch.spec import Rope

Frequencies = NDArray[np.float32]


def read_rope(
    config: Config,
    head_dim: int,
    context: int,
    *,
    theta: float = 1e4,
    partial: float | None = None,
    original: int | None = None,
    ntk: bool = False,
) -> Rope:
    """The one rope of a model.

    Parameters
    ----------
    theta, partial, original
        The family's defaults of rope_theta, partial_rotary_factor (None: it always rotates whole heads) and
        original_max_position_embeddings (None: what the section says, else `context`).
    ntk
        Whether the family has a kind of that name, which is not one of transformers'.
    """
    section = one_of(config, "rope_scaling", "rope_parameters")
    outer = config.number("rope_theta", theta)
    if partial is None:
        config.only("partial_rotary_factor", 1.0)
    else:
        partial = config.number("partial_rotary_factor", partial, most=1.0)
    original = config.count_or_none("original_max_position_embeddings", original, MAX_CONTEXT)
    return make_rope(config, section, head_dim, context, theta=outer, partial=partial, original=original, ntk=ntk)


def one_of(config: Config, *keys: str) -> Config | None:
    """The section that is there under one of several names."""
    found = [key for key in keys if config.section(key) is not None]
    if len(found) > 1:
        raise config.bad(found[0], f"is given together with {found[1]}; keep one")
    return config.section(found[0]) if found else None


def make_rope(
    config: Config,
    section: Config | None,
    head_dim: int,
    context: int,
    *,
    theta: float,
    partial: float | None = None,
    original: int | None = None,
    ntk: bool = False,
) -> Rope:
    """The rope that `section` describes (None: the default kind); the other values are what stands outside of it."""
    at = section or Config({}, config.where)
    kind = at.text("rope_type", at.text("type", "default"))
    base = at.number("rope_theta", theta) if at.has("rope_theta") else theta
    if partial is None:
        at.only("partial_rotary_factor", 1.0)
    share = at.number("partial_rotary_factor", partial, most=1.0) if partial is not None else 1.0
    rotated = int(head_dim * share)
    if rotated < 1 or rotated + rotated % 2 > head_dim:
        key = config.name("partial_rotary_factor")
        raise config.bad("head_dim", f"a head of {head_dim} cannot have {rotated} rotary dimensions ({key} {share:g})")
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    with np.errstate(all="ignore"):
        if kind in ("longrope", "su"):
            inside = at.count("original_max_position_embeddings", context, MAX_CONTEXT)
            return _longrope(at, base, exponents, context, original or inside)
        frequencies = np.float32(1) / _powers(base, exponents)
        if kind == "linear":
            frequencies = frequencies / np.float32(at.number("factor", None))
        elif kind == "llama3":
            inside = at.count("original_max_position_embeddings", context, MAX_CONTEXT)
            frequencies = _llama3(at, frequencies, original or inside)
        elif kind == "ntk" and ntk:
            frequencies = _ntk(at, base, exponents, rotated)
        elif kind != "default":
            raise at.unsupported(
                "rope_type" if at.has("rope_type") else "type", kind, "known: default, linear, llama3, longrope"
            )
        return Rope(_finite(at, frequencies))


def _powers(base: float, exponents: Frequencies) -> Frequencies:
    return np.power(float(np.float32(base)), exponents, dtype=np.float64).astype(np.float32)


def _llama3(at: Config, frequencies: Frequencies, original: int) -> Frequencies:
    """Long wavelengths are slowed down by `factor`, short ones kept, those between blended."""
    factor = np.float32(at.number("factor", None))
    low, high = at.number("low_freq_factor", None), at.number("high_freq_factor", None)
    if high <= low:
        raise at.bad("high_freq_factor", f"expected more than low_freq_factor ({low:g}), found {high:g}")
    wavelengths = np.float32(2 * np.pi) / frequencies
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    slowed = np.where(wavelengths > original / low, frequencies / factor, frequencies)
    blended = (1 - smooth) * slowed / factor + smooth * slowed
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(between, blended, slowed).astype(np.float32)


def _ntk(at: Config, base: float, exponents: Frequencies, rotated: int) -> Frequencies:
    """Fixed NTK scaling: the base times `factor`, and all frequencies divided by factor^(2 / dimensions)."""
    at.only("mixed_b")
    factor = max(at.number("factor", None), 1.0)
    stretched = np.float32(1) / _powers(base * factor, exponents)
    return np.asarray(stretched / np.float32(factor ** (2 / rotated)), np.float32)


def _longrope(at: Config, base: float, exponents: Frequencies, context: int, original: int) -> Rope:
    """Separate divisors per dimension up to and beyond `original` positions (Ding et al. 2024)."""
    short, long = (np.array(at.numbers(key, len(exponents)), np.float32) for key in ("short_factor", "long_factor"))
    factor = at.number_or_none("factor", None) or context / original
    scale = at.number_or_none("attention_factor", None, most=1e6)
    if scale is None:
        if factor > 1 and original < 2:
            raise at.bad("original_max_position_embeddings", f"expected at least 2, found {original}")
        scale = sqrt(1 + log(factor) / log(original)) if factor > 1 else 1.0
    powers = _powers(base, exponents)
    near, far = (_finite(at, np.float32(1) / (divisors * powers)) for divisors in (short, long))
    return Rope(near, scale, original, far, scale)


def _finite(at: Config, frequencies: Frequencies) -> tuple[float, ...]:
    if not np.isfinite(frequencies).all():
        raise at.bad("rope_theta", "with its factors gives frequencies that are not finite")
    return tuple(float(f) for f in frequencies)
