"""Whatever a config, tensor, prompt or parameter holds: a typed error that names it, soon and in little memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, add_byte_tokenizer, byte_shape, random_weights, save_checkpoint, save_llama
from refusals import refused
from safetensors.numpy import load_file
from safetensors_files import entry, pack

import fastlm
from fastlm.errors import (
    ContextLengthError,
    ModelFormatError,
    NumericError,
    ParameterError,
    StateError,
    UnsupportedError,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fastlm.Model:
    folder = save_llama(tmp_path_factory.mktemp("good"), replace(byte_shape(end=True), context=128))
    return fastlm.load(add_byte_tokenizer(folder, end=True), threads=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "model")


def change_config(folder: Path, **changes: Any) -> None:
    config = {**TINY.config(), **changes}
    (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


# ---- config.json ---------------------------------------------------------------------------------------------------

CONFIGS: list[tuple[str, Any]] = [
    ("num_attention_heads", 0),
    ("num_attention_heads", -4),
    ("num_attention_heads", 5),
    ("num_attention_heads", 2**31),
    ("num_attention_heads", 2**64),
    ("num_attention_heads", 4.0),
    ("num_attention_heads", "4"),
    ("num_attention_heads", True),
    ("num_attention_heads", None),
    ("num_key_value_heads", 0),
    ("num_key_value_heads", 3),
    ("num_key_value_heads", 8),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", -1),
    ("num_hidden_layers", 2**31),
    ("num_hidden_layers", 2**63),
    ("num_hidden_layers", [2]),
    ("hidden_size", 0),
    ("hidden_size", 2**31),
    ("hidden_size", 2**63 - 1),
    ("head_dim", 2**31),
    ("head_dim", -1),
    ("intermediate_size", 0),
    ("intermediate_size", 2**40),
    ("vocab_size", 0),
    ("vocab_size", 2**31 - 1),
    ("max_position_embeddings", 0),
    ("max_position_embeddings", 2**31),
    ("rms_norm_eps", 0),
    ("rms_norm_eps", -1e-5),
    ("rms_norm_eps", math.nan),
    ("rms_norm_eps", math.inf),
    ("rms_norm_eps", "1e-5"),
    ("rope_theta", 0),
    ("rope_theta", -1),
    ("hidden_act", "tanhh"),
    ("hidden_act", 3),
    ("rope_scaling", {"rope_type": "dynamik", "factor": 2.0}),
    ("rope_scaling", {"rope_type": "linear", "factor": 0}),
    ("rope_scaling", [1]),
    ("tie_word_embeddings", "yes"),
    ("attention_bias", 1.5),
    ("sliding_wndow", 4096),
    ("model_type", ...),
    ("model_type", 7),
    ("model_type", "unheard-of"),
]


@pytest.mark.parametrize(("key", "value"), CONFIGS, ids=[f"{key}={str(value)[:24]}" for key, value in CONFIGS])
def test_config_values(folder: Path, key: str, value: Any) -> None:
    change_config(folder, **{key: value})
    with pytest.raises((ModelFormatError, UnsupportedError)) as caught:
        fastlm.load(folder)
    named = (key, "num_attention_heads") if key in ("hidden_size", "head_dim") else (key,)
    with refused(type(caught.value), str(folder / CONFIG)):
        fastlm.load(folder)
    assert any(name in str(caught.value) for name in named), caught.value


@pytest.mark.parametrize(("name", "family"), [("Llama", "llama"), ("gpt-neox", "gpt_neox"), ("GPT2", "gpt2")])
def test_a_family_that_is_written_otherwise(folder: Path, name: str, family: str) -> None:
    change_config(folder, model_type=name)
    with refused(UnsupportedError, CONFIG, repr(name), f"did you mean {family!r}?"):
        fastlm.load(folder)


@pytest.mark.parametrize("name", ["led", "lama", "phi4", "gpt_neo", "t5x", "gemma4", "opt2", "mixtral2"])
def test_a_family_that_only_sounds_alike(folder: Path, name: str) -> None:
    """Its name may be near, its computation is another."""
    change_config(folder, model_type=name)
    with pytest.raises(UnsupportedError, match=name) as caught:
        fastlm.load(folder)
    assert "did you mean" not in str(caught.value) and "known: " in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"5", b"null", b'"llama"', b"\xff\xfe{}", b"{}" + bytes(10), b"[" * 100_000, b'{"a":' * 100_000],
    ids=["empty", "cut", "list", "number", "null", "string", "utf-16", "nul", "deep-list", "deep-object"],
)
def test_config_text(folder: Path, text: bytes) -> None:
    (folder / CONFIG).write_bytes(text)
    with refused(ModelFormatError, str(folder / CONFIG)):
        fastlm.load(folder)


def test_config_of_absurd_size(folder: Path) -> None:
    with (folder / CONFIG).open("wb") as file:
        file.truncate(1 << 40)
    with refused(ModelFormatError, CONFIG, "bytes"):
        fastlm.load(folder)


# Config and weights, each good by itself, that do not belong together: the tensor is named.
MISMATCHES = [
    ("num_hidden_layers", 3, "layers.2."),
    ("num_hidden_layers", 10_000, "layers.2."),
    ("num_hidden_layers", 1, "model.layers.1."),
    ("intermediate_size", 81, "mlp"),
    ("intermediate_size", 1 << 22, "mlp"),
    ("vocab_size", 98, "model.embed_tokens.weight"),
    ("vocab_size", 1 << 24, "model.embed_tokens.weight"),
    ("num_key_value_heads", 4, "self_attn.k_proj"),
    ("head_dim", 16, "self_attn"),
    ("hidden_size", 96, "model.embed_tokens.weight"),
    ("attention_bias", True, "bias"),
]


@pytest.mark.parametrize(("key", "value", "word"), MISMATCHES, ids=[f"{k}={v}" for k, v, _ in MISMATCHES])
def test_config_and_weights_that_differ(folder: Path, key: str, value: Any, word: str) -> None:
    change_config(folder, **{key: value})
    with refused(ModelFormatError, WEIGHTS, word):
        fastlm.load(folder)


# ---- tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_missing_tensor(tmp_path: Path, name: str) -> None:
    weights = random_weights(TINY)
    del weights[name]
    with refused(ModelFormatError, WEIGHTS, name.removeprefix("model.")):
        fastlm.load(save_checkpoint(tmp_path, TINY.config(), weights))


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "adapter.weight", "model.embed_tokens.bias"])
def test_a_tensor_too_many(tmp_path: Path, name: str) -> None:
    weights = {**random_weights(TINY), name: np.zeros((2, 2), np.float32)}
    with refused(ModelFormatError, WEIGHTS, name):
        fastlm.load(save_checkpoint(tmp_path, TINY.config(), weights))


@pytest.mark.parametrize("shape", [(80, 48, 1), (48, 80), (80 * 48,), (79, 48), (0, 48)])
def test_a_tensor_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    weights = {**random_weights(TINY), name: np.zeros(shape, np.float32)}
    with refused(ModelFormatError, WEIGHTS, name, str(list(shape))):
        fastlm.load(save_checkpoint(tmp_path, TINY.config(), weights))


@pytest.mark.parametrize("dtype", ["I64", "F64"])
def test_a_tensor_of_another_type(tmp_path: Path, dtype: str) -> None:
    header, data = {}, b""
    for name, values in random_weights(TINY).items():
        wide = name == "model.layers.0.mlp.gate_proj.weight"
        begin = len(data)
        data += values.astype(np.float64 if wide else np.float32).tobytes()
        header[name] = entry(dtype if wide else "F32", list(values.shape), begin, len(data))
    (tmp_path / CONFIG).write_text(json.dumps(TINY.config()))
    (tmp_path / WEIGHTS).write_bytes(pack(header, data))
    with refused(UnsupportedError, WEIGHTS, "model.layers.0.mlp.gate_proj.weight"):
        fastlm.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"],
)
def test_weights_that_are_no_numbers(tmp_path: Path, name: str, bad: float, dtype: str) -> None:
    weights = random_weights(TINY)
    weights[name].flat[weights[name].size - 1] = bad
    with refused(ModelFormatError, WEIGHTS, name):
        fastlm.load(save_checkpoint(tmp_path, TINY.config(dtype), weights, dtype))


def test_weights_that_another_type_cannot_hold(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["lm_head.weight"][5, 6] = 1e6
    folder = save_checkpoint(tmp_path, TINY.config(), weights)
    with refused(ModelFormatError, WEIGHTS, "lm_head.weight", "too large"):
        fastlm.load(folder, dtype="float16")
    assert np.isfinite(fastlm.load(folder).forward([1]).logits).all()


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_logits_that_are_no_numbers(tmp_path: Path, name: str) -> None:
    """Weights that float32 holds, and products that it does not."""
    weights = random_weights(TINY)
    weights[name] = np.copysign(np.float32(3e38), weights[name])
    model = fastlm.load(save_checkpoint(tmp_path, TINY.config(), weights))
    calls: list[Callable[[], object]] = [
        lambda: model.forward([1, 2]),
        lambda: model.generate([1, 2]),
        lambda: list(model.stream([1, 2])),
        lambda: model.generate([1, 2], temperature=1.0),
        lambda: model.next_tokens([1, 2]),
        lambda: model.loglikelihood([1, 2]),
    ]
    for call in calls * 2:
        with refused(NumericError, "logits"):
            call()


def test_hidden_states_that_are_no_numbers(tmp_path: Path) -> None:
    """An encoder has no logits that would show it."""
    golden = Path(__file__).with_name("golden") / "bert"
    weights = load_file(golden / WEIGHTS)
    floats = {name: values for name, values in weights.items() if values.dtype == np.float32}
    floats["encoder.layer.1.output.LayerNorm.weight"] = np.full(32, 3e38, np.float32)
    model = fastlm.load(save_checkpoint(tmp_path, json.loads((golden / CONFIG).read_text()), floats))
    for _ in range(2):
        with refused(NumericError, "hidden states"):
            model.forward([1, 2, 3])


# ---- prompts -------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[fastlm.Model, Any], object]] = {
    "generate": lambda model, prompt: model.generate(prompt),
    "stream": lambda model, prompt: list(model.stream(prompt)),
    "batch": lambda model, prompt: model.batch([[1, 2], prompt]),
    "several": lambda model, prompt: model.generate(prompt, n=3, temperature=1.0),
    "request": lambda model, prompt: model.generate(fastlm.Request(prompt)),
    "next_tokens": lambda model, prompt: model.next_tokens(prompt),
    "forward": lambda model, prompt: model.forward(prompt),
    "loglikelihood": lambda model, prompt: model.loglikelihood(prompt),
    "perplexity": lambda model, prompt: model.perplexity(prompt),
    "session": lambda model, prompt: model.session().generate(prompt),
}
BAD_IDS: list[Any] = [-1, 257, 2**31 - 1, 2**31, 2**32 + 1, 2**63, -(2**63), 10**30, 1.5, "a", None, True, [1]]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
def test_ids_out_of_range(model: fastlm.Model, call: str, bad: Any) -> None:
    for prompt in ([bad], [1, 2, bad], [bad, 1, 2]):
        with refused(ParameterError, "token id", str(bad), "prompts[1]" if call == "batch" else ""):
            CALLS[call](model, prompt)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "prompt", [[], (), np.array([], np.int64), iter(())], ids=["list", "tuple", "array", "iterator"]
)
def test_empty_prompts(model: fastlm.Model, call: str, prompt: Any) -> None:
    with refused(ParameterError):
        CALLS[call](model, prompt)


@pytest.mark.parametrize("call", [name for name in CALLS if name != "forward"])
def test_empty_texts(model: fastlm.Model, call: str) -> None:
    with refused(ParameterError, "empty"):
        CALLS[call](model, "")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("prompt", [5, None, 2.5, b"bytes", object()], ids=["int", "None", "float", "bytes", "object"])
def test_prompts_that_are_none(model: fastlm.Model, call: str, prompt: Any) -> None:
    with refused(ParameterError):
        CALLS[call](model, prompt)


@pytest.mark.parametrize("call", [name for name in CALLS if name != "perplexity"])
def test_prompts_over_the_context(model: fastlm.Model, call: str) -> None:
    for n in (129, 1000, 100_000):
        with refused(ContextLengthError, "tokens", "context of 128"):
            CALLS[call](model, [1] * n)


def test_prompts_that_just_fit(model: fastlm.Model) -> None:
    assert model.forward([1] * 128).logits.shape == (128, 257)
    full = model.generate([1] * 128, max_tokens=5, ignore_eos=True)
    assert (full.finish_reason, full.token_ids) == ("length", [])
    almost = model.generate([1] * 120, max_tokens=50, ignore_eos=True)
    assert (almost.finish_reason, len(almost.token_ids)) == ("length", 8)


def test_text_without_a_tokenizer(folder: Path) -> None:
    model = fastlm.load(folder)
    for call in CALLS:
        if call != "forward":
            with refused(ParameterError, "tokenizer"):
                CALLS[call](model, "text")
    with refused(ParameterError, "stop", "tokenizer"):
        model.generate([1], stop="x")
    assert len(model.generate([1], max_tokens=3).token_ids) == 3


def test_half_a_surrogate_pair(model: fastlm.Model) -> None:
    with refused(ParameterError, "surrogate"):
        model.generate("a\ud800b")


# ---- parameters ----------------------------------------------------------------------------------------------------

NEAR = {
    "max_token": "max_tokens",
    "maxtokens": "max_tokens",
    "max_new_token": "max_new_tokens",
    "temprature": "temperature",
    "topk": "top_k",
    "top-p": "top_p",
    "repetition_penality": "repetition_penalty",
    "stop_tokens_ids": "stop_token_ids",
    "logit_biases": "logit_bias",
    "cancelled": "cancel",
}


@pytest.mark.parametrize("name", NEAR)
def test_unknown_parameters(model: fastlm.Model, name: str) -> None:
    for call in (model.generate, model.stream, model.session().generate):
        with refused(ParameterError, repr(name), f"did you mean {NEAR[name]!r}?"):
            call([1], **{name: 1})


def test_an_unheard_of_parameter(model: fastlm.Model) -> None:
    """Those that are named can be honoured."""
    with pytest.raises(ParameterError, match="'zzzzzz'") as caught:
        model.generate([1], zzzzzz=1)
    told = str(caught.value).partition("known are ")[2].split(", ")
    assert {"max_tokens", "temperature", "cancel"} <= set(told)
    assert not {"num_beam_groups", "diversity_penalty"} & set(told)


@pytest.mark.parametrize("name", ["num_beam_group", "diversity"])
def test_nothing_that_is_always_refused_is_proposed(model: fastlm.Model, name: str) -> None:
    with pytest.raises(ParameterError, match=repr(name)) as caught:
        model.generate([1], **{name: 1})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [("max_new_tokens", "max_tokens", 5), ("min_new_tokens", "min_tokens", 3), ("num_return_sequences", "n", 2)],
)
def test_names_of_transformers(model: fastlm.Model, theirs: str, ours: str, value: int) -> None:
    how = {"temperature": 1.0, "seed": 5, **({} if ours == "max_tokens" else {"max_tokens": 6})}
    found, expected = (model.generate([1], **how, **{name: value}) for name in (theirs, ours))
    assert found.token_ids == expected.token_ids and len(found.alternatives) == len(expected.alternatives)
    with refused(ParameterError, ours, "twice"):
        model.generate([1], **how, **{theirs: value, ours: value})


PARAMETERS: list[tuple[str, Any]] = [
    *(("max_tokens", value) for value in (-1, 1.5, "10", True, 2**32, 2**70, math.nan, [1])),
    *(("min_tokens", value) for value in (-1, 2**40)),
    *(("temperature", value) for value in (-0.1, math.nan, math.inf, "hot", True, 1e300)),
    *(("top_k", value) for value in (-1, 1.5, 2**40)),
    *(("top_p", value) for value in (0, -0.5, 1.01, math.nan)),
    *(("min_p", value) for value in (-0.5, 1.01, math.nan)),
    *(("typical_p", value) for value in (0, 1.5)),
    *(("repetition_penalty", value) for value in (0, -1, math.nan, math.inf)),
    *(("presence_penalty", value) for value in (math.nan, math.inf)),
    *(("frequency_penalty", value) for value in (math.nan, "x")),
    *(("no_repeat_ngram_size", value) for value in (-1, 2**40)),
    *(("n", value) for value in (0, -1, 10**6)),
    *(("seed", value) for value in (-1, 2**64, 1.5, "x")),
    *(("stop", value) for value in ("", [""], ["a", ""], 5, [5], b"x")),
    *(("stop_token_ids", value) for value in ([-1], [257], [2**31], [2**70], "12", 1.5, [None])),
    *(
        ("logit_bias", value)
        for value in ({-1: 1.0}, {257: 1.0}, {2**31: 1.0}, {1: math.nan}, {1: "x"}, [1], {"a": 1.0})
    ),
    *(("logprobs", value) for value in (-1, 10**6, "x")),
    *(("num_beams", value) for value in (0, 4, 10**6)),
    *(("early_stopping", value) for value in (1, "always")),
    *(("bad_words_ids", value) for value in ([[]], [1], [[-1]], 5)),
    *(("suppress_tokens", value) for value in ([-1], [257], "12")),
    *(("ignore_eos", value) for value in (1, "yes")),
    *(("cancel", value) for value in (1, True, object())),
    ("adapter", "a"),
    ("draft", "b"),
]


@pytest.mark.parametrize(("name", "value"), PARAMETERS, ids=[f"{n}={str(v)[:20]}" for n, v in PARAMETERS])
def test_parameters_out_of_range(model: fastlm.Model, name: str, value: Any) -> None:
    with refused(ParameterError, name):
        model.generate([1], **{"temperature": 1.0, name: value})
    with refused(ParameterError, name):
        model.batch([[1, 2], fastlm.Request([3], **{"temperature": 1.0, name: value})])


def test_parameters_given_twice(model: fastlm.Model) -> None:
    with refused(ParameterError, "max_tokens"):
        model.generate([1], max_tokens=1, max_new_tokens=2)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_k", "repetition_penalty"])
def test_generation_config(folder: Path, name: str) -> None:
    """What explicit parameters may not be, generation_config.json may not say either."""
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, name: -3}))
    with refused(ParameterError, "max_tokens" if name == "max_new_tokens" else name):
        fastlm.load(folder).generate([1])


# ---- afterwards ----------------------------------------------------------------------------------------------------


def test_a_closed_model(folder: Path) -> None:
    model = fastlm.load(folder)
    session = model.session()
    model.close()
    calls: list[Callable[[], object]] = [lambda: session.generate([1]), lambda: session.fork(), model.session]
    calls += [lambda call=call: CALLS[call](model, [1, 2]) for call in CALLS]
    for call in calls:
        with refused(StateError, "closed"):
            call()
    model.close()


def test_sessions_refuse_to_go_back_too_far(model: fastlm.Model) -> None:
    session = model.session()
    session.generate([1, 2, 3], max_tokens=2, ignore_eos=True)
    with refused(ParameterError, "6"):
        session.rewind(6)
    assert len(session) == 5
    session.rewind(5)
    with refused(ParameterError, "empty"):
        session.generate([])


def test_all_of_it_left_the_model_as_it_was(model: fastlm.Model) -> None:
    assert model.batch([[5, 6], "text"], max_tokens=4)[0].token_ids == model.generate([5, 6], max_tokens=4).token_ids
