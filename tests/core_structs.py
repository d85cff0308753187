"""Structs of fastlm.h for ctypes, and the sampler and text units built as a library (tests/c/unit_sampler.c)."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from support import CSRC, BuildC, core_files

ISAS = ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "amx", "neon", "neondot")


class Error(ctypes.Structure):
    _fields_ = [("status", c_int), ("text", c_char * 508)]


class Bias(ctypes.Structure):
    _fields_ = [("token", c_int32), ("value", c_float)]


class Bytes(ctypes.Structure):
    _fields_ = [("data", c_char_p), ("n_bytes", c_size_t)]


class Ids(ctypes.Structure):
    _fields_ = [("ids", ctypes.POINTER(c_int32)), ("n", c_size_t)]


class Logprob(ctypes.Structure):
    _fields_ = [("token", c_int32), ("logprob", c_float)]


class Sampling(ctypes.Structure):
    _fields_ = [
        ("size_bytes", c_size_t),
        ("max_tokens", c_uint32),
        ("min_tokens", c_uint32),
        ("temperature", c_float),
        ("top_k", c_uint32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("typical_p", c_float),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("no_repeat_ngram_size", c_uint32),
        ("seed", c_uint64),
        ("ignore_eos", c_uint32),
        ("logprobs", c_int32),
        ("biases", ctypes.POINTER(Bias)),
        ("n_biases", c_size_t),
        ("stops", ctypes.POINTER(Bytes)),
        ("n_stops", c_size_t),
        ("stop_tokens", ctypes.POINTER(c_int32)),
        ("n_stop_tokens", c_size_t),
        ("forced_bos", c_int32),
        ("forced_ends", Ids),
        ("suppressed", Ids),
        ("begin_suppressed", Ids),
        ("bad_words", ctypes.POINTER(Ids)),
        ("n_bad_words", c_size_t),
        ("encoder_no_repeat_ngram_size", c_uint32),
        ("num_beams", c_uint32),
        ("length_penalty", c_float),
        ("early_stopping", c_int),
        ("draft", c_void_p),
        ("lookup", c_uint32),
        ("draft_tokens", c_uint32),
        ("masked", c_uint32),
    ]


class Vocabulary(ctypes.Structure):
    _fields_ = [
        ("size_bytes", c_size_t),
        ("n_tokens", c_uint32),
        ("offsets", c_void_p),
        ("bytes", c_void_p),
        ("special", c_void_p),
        ("strip_first_space", c_uint32),
        ("bos", c_int32),
        ("decoder_start", c_int32),
        ("eos", c_void_p),
        ("n_eos", c_uint32),
    ]


def sampler_library(build_c: BuildC) -> ctypes.CDLL:
    names = [
        "sampler",
        "sampler_edits",
        "sampler_filters",
        "text",
        "detok",
        "array",
        "memory",
        "cgroup",
        "text_file",
        "status",
    ]
    names += ["matrix", "cpu"]
    sources = [CSRC.parent / "tests/c/unit_sampler.c", *core_files(*names), *sorted(CSRC.glob("kernels/**/*.c"))]
    library = ctypes.CDLL(str(build_c("unit_sampler", sources, flags=["-shared"])))
    library.unit_text.restype = ctypes.c_long
    library.flm_kernels_usable.argtypes = [c_char_p, c_size_t]
    library.flm_kernels_usable.restype = None
    return library


def usable_isas(library: ctypes.CDLL) -> list[str]:
    """The instruction sets that this processor can run, best last."""
    names = ctypes.create_string_buffer(64)
    library.flm_kernels_usable(names, len(names))
    return names.value.decode().split()


def sampling(library: ctypes.CDLL, **options: Any) -> Sampling:
    """flm_sampling with defaults; biases, bad_words and the lists of tokens as Python lists."""
    s = Sampling()
    library.flm_sampling_defaults(ctypes.byref(s))
    for name, value in options.items():
        if name == "biases":
            s.biases, s.n_biases = (Bias * len(value))(*(Bias(*pair) for pair in value)), len(value)
        elif name == "bad_words":
            words = [Ids((c_int32 * len(word))(*word), len(word)) for word in value]
            s.bad_words, s.n_bad_words = (Ids * len(value))(*words), len(value)
        elif name in ("forced_ends", "suppressed", "begin_suppressed"):
            setattr(s, name, Ids((c_int32 * len(value))(*value), len(value)))
        elif isinstance(value, list):
            setattr(s, name, (c_int32 * len(value))(*value))
            setattr(s, f"n_{name}", len(value))
        else:
            setattr(s, name, value)
    return s
