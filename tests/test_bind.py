"""Binding: names, shapes and transforms of checkpoint tensors, and errors that name tensor and file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastlm.arch import registry
from fastlm.arch.family import Family
from fastlm.arch.slots import slots
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.bind import Binding, bind

Array = NDArray[Any]
SHAPE: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


class Memory:
    """A checkpoint of arrays in memory that counts what is read; bf16: its uint16 arrays are bfloat16."""

    def __init__(self, tensors: dict[str, Array], bf16: bool = False) -> None:
        self.tensors = tensors
        self.bf16 = bf16
        self.elements_read = 0

    def names(self) -> list[str]:
        return list(self.tensors)

    def info(self, name: str) -> tuple[str, tuple[int, ...]]:
        return "bfloat16" if self.bf16 else str(self.tensors[name].dtype), self.tensors[name].shape

    def read(self, name: str, start_row: int = 0, stop_row: int | None = None) -> Array:
        values = self.tensors[name][start_row:stop_row]
        self.elements_read += values.size
        return values

    def where(self, name: str) -> str:
        assert name in self.tensors
        return "folder/model.safetensors"


RNG = np.random.default_rng(0)


def random(*shape: int) -> Array:
    """Never the same twice."""
    return RNG.standard_normal(shape).astype(np.float32)


def llama(tensors: dict[str, Array] | None = None, prefix: str = "model.", tied: bool = False) -> dict[str, Array]:
    """The tensors of a two-layer Llama by the names that checkpoints use."""
    found = {prefix + "embed_tokens.weight": random(11, 8), prefix + "norm.weight": random(8)}
    for i in range(2):
        layer = f"{prefix}layers.{i}."
        found |= {f"{layer}self_attn.{p}_proj.weight": random(8, 8) for p in "qkvo"}
        found |= {f"{layer}mlp.{p}_proj.weight": random(6, 8) for p in ("gate", "up")}
        found[layer + "mlp.down_proj.weight"] = random(8, 6)
        found |= {f"{layer}{n}_layernorm.weight": random(8) for n in ("input", "post_attention")}
    if not tied:
        found["lm_head.weight"] = random(11, 8)
    return found | (tensors or {})


def family(model_type: str = "llama", **config: Any) -> Family:
    return registry.read({"model_type": model_type, **SHAPE, **config})


def whole(binding: Binding, slot: str) -> Array:
    return binding[slot].rows(0, binding[slot].shape[0])


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_every_slot_has_its_tensor(prefix: str) -> None:
    tensors = llama(prefix=prefix)
    binding = bind(family(), Memory(tensors))
    assert {name: source.shape for name, source in binding.items()} == {
        slot.name: (slot.rows, slot.cols) for slot in slots(binding.spec)
    }
    for slot, name in [
        ("embed.tokens", prefix + "embed_tokens.weight"),
        ("decoder.1.0.q", prefix + "layers.1.self_attn.q_proj.weight"),
        ("decoder.0.1.gate", prefix + "layers.0.mlp.gate_proj.weight"),
        ("decoder.1.1.pre_norm.weight", prefix + "layers.1.post_attention_layernorm.weight"),
        ("head.weight", "lm_head.weight"),
    ]:
        np.testing.assert_array_equal(whole(binding, slot), tensors[name].reshape(binding[slot].shape))
        assert binding[slot].tensor == name and binding[slot].file == "folder/model.safetensors"


def test_checks_read_nothing_and_blocks_read_only_themselves() -> None:
    checkpoint = Memory(llama())
    binding = bind(family(), checkpoint)
    assert checkpoint.elements_read == 0
    assert binding["decoder.0.0.q"].rows(3, 5).shape == (2, 8) and checkpoint.elements_read == 16


def test_rows_out_of_range() -> None:
    source = bind(family(), Memory(llama()))["decoder.0.0.q"]
    for start, stop in ((-1, 2), (0, 9), (5, 4)):
        with pytest.raises(IndexError, match="q_proj"):
            source.rows(start, stop)
    assert source.rows(8, 8).shape == (0, 8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_stay_as_stored(dtype: str) -> None:
    values = {n: t.astype(np.float16) if dtype == "float16" else t for n, t in llama().items()}
    if dtype == "bfloat16":
        values = {n: (t.view(np.uint32) >> 16).astype(np.uint16) for n, t in values.items()}
    source = bind(family(), Memory(values, bf16=dtype == "bfloat16"))["decoder.0.0.q"]
    stored = values["model.layers.0.self_attn.q_proj.weight"]
    assert source.dtype == dtype and source.rows(0, 8).dtype == stored.dtype
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else stored
    np.testing.assert_array_equal(source.array64(), wide.astype(np.float64))


# ---- transforms ----


def test_gpt2_is_transposed_and_cut_in_thirds() -> None:
    config = registry.read(
        {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 4}
    )
    fused, bias = random(8, 24), random(24)
    tensors = {
        "wte.weight": random(11, 8),
        "wpe.weight": random(4, 8),
        "ln_f.weight": random(8),
        "ln_f.bias": random(8),
    }
    shapes = {"ln_1": (8,), "ln_2": (8,), "attn.c_proj": (8, 8), "mlp.c_fc": (8, 32), "mlp.c_proj": (32, 8)}
    for name, shape in shapes.items():
        tensors |= {f"h.0.{name}.weight": random(*shape), f"h.0.{name}.bias": random(shape[-1])}
    tensors |= {
        "h.0.attn.c_attn.weight": fused,
        "h.0.attn.c_attn.bias": bias,
        "h.0.attn.bias": np.ones((1, 1, 4, 4), bool),
    }
    binding = bind(config, Memory(tensors))
    for i, part in enumerate("qkv"):
        np.testing.assert_array_equal(whole(binding, f"decoder.0.0.{part}"), fused[:, 8 * i : 8 * i + 8].T)
        np.testing.assert_array_equal(whole(binding, f"decoder.0.0.{part}.bias"), bias[None, 8 * i : 8 * i + 8])
    np.testing.assert_array_equal(binding["decoder.0.1.up"].rows(5, 9), tensors["h.0.mlp.c_fc.weight"].T[5:9])
    assert binding["decoder.0.1.up"].rows(5, 9).flags.c_contiguous


def test_heads_are_gathered_from_interleaved_qkv() -> None:
    found = family("gpt_neox", num_hidden_layers=1, rotary_pct=0.5)
    fused, bias = random(24, 8), random(24)
    tensors = {"embed_in.weight": random(11, 8), "embed_out.weight": random(11, 8)}
    tensors |= {f"final_layer_norm.{x}": random(8) for x in ("weight", "bias")}
    dense = {"attention.dense": (8, 8), "mlp.dense_h_to_4h": (6, 8), "mlp.dense_4h_to_h": (8, 6)}
    dense |= {"input_layernorm": (8,), "post_attention_layernorm": (8,)}  # type: ignore[dict-item]
    for name, shape in dense.items():
        tensors |= {
            f"gpt_neox.layers.0.{name}.weight": random(*shape),
            f"gpt_neox.layers.0.{name}.bias": random(shape[0]),
        }
    qkv = "gpt_neox.layers.0.attention.query_key_value."
    tensors |= {qkv + "weight": fused, qkv + "bias": bias}
    binding = bind(found, Memory(tensors))
    for i, part in enumerate("qkv"):
        expected = fused.reshape(2, 3, 4, 8)[:, i].reshape(8, 8)
        np.testing.assert_array_equal(whole(binding, f"decoder.0.0.{part}"), expected)
        np.testing.assert_array_equal(binding[f"decoder.0.0.{part}"].rows(2, 6), expected[2:6])
        np.testing.assert_array_equal(
            whole(binding, f"decoder.0.0.{part}.bias"), bias.reshape(2, 3, 4)[:, i].reshape(1, 8)
        )
    np.testing.assert_array_equal(whole(binding, "head.weight"), tensors["embed_out.weight"])


def test_gemma_norms_gain_one_in_float32() -> None:
    tensors = {n: t.astype(np.float16) for n, t in llama(tied=True).items()}
    binding = bind(family("gemma", head_dim=4, num_key_value_heads=2), Memory(tensors))
    weight = tensors["model.layers.0.input_layernorm.weight"]
    source = binding["decoder.0.0.pre_norm.weight"]
    assert source.dtype == "float32" and source.rows(0, 1).dtype == np.float32
    np.testing.assert_array_equal(source.rows(0, 1)[0], weight.astype(np.float32) + np.float32(1))
    assert binding["decoder.0.0.q"].dtype == "float16"


def test_phi3_is_cut_by_heads() -> None:
    tensors = {n: t for n, t in llama().items() if ".self_attn." not in n and ".mlp." not in n}
    for i in range(2):
        layer = f"model.layers.{i}."
        tensors |= {layer + "self_attn.qkv_proj.weight": random(16, 8), layer + "self_attn.o_proj.weight": random(8, 8)}
        tensors |= {layer + "mlp.gate_up_proj.weight": random(12, 8), layer + "mlp.down_proj.weight": random(8, 6)}
    binding = bind(family("phi3", num_key_value_heads=1), Memory(tensors))
    qkv, mlp = tensors["model.layers.1.self_attn.qkv_proj.weight"], tensors["model.layers.1.mlp.gate_up_proj.weight"]
    for slot, part in {"0.q": qkv[:8], "0.k": qkv[8:12], "0.v": qkv[12:], "1.gate": mlp[:6], "1.up": mlp[6:]}.items():
        np.testing.assert_array_equal(whole(binding, "decoder.1." + slot), part)


# ---- heads, tied and not ----


def test_a_tied_head_may_be_stored_again() -> None:
    tensors = llama(tied=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    binding = bind(family(tie_word_embeddings=True), Memory(tensors))
    assert binding.spec.tied and "head.weight" not in binding


def test_a_tied_head_that_differs_is_used() -> None:
    tensors = llama()
    binding = bind(family(tie_word_embeddings=True), Memory(tensors))
    assert binding.spec.logits is not None and not binding.spec.tied
    np.testing.assert_array_equal(whole(binding, "head.weight"), tensors["lm_head.weight"])


def test_a_tied_table_may_be_stored_as_the_head() -> None:
    tensors = llama()
    del tensors["model.embed_tokens.weight"]
    binding = bind(family(tie_word_embeddings=True), Memory(tensors))
    assert binding["embed.tokens"].tensor == "lm_head.weight" and "head.weight" not in binding


def t5(**config: Any) -> tuple[Family, dict[str, Array]]:
    small = {"d_model": 8, "d_kv": 4, "d_ff": 6, "num_heads": 2, "num_layers": 1, "vocab_size": 11}
    found = registry.read({"model_type": "t5", **small, **config})
    tensors = {"shared.weight": random(11, 8)}
    for stack, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        block = stack + ".block.0.layer."
        for j, attention in enumerate(attentions):
            tensors |= {f"{block}{j}.{attention}.{p}.weight": random(8, 8) for p in "qkvo"}
        tensors |= {f"{block}{j}.layer_norm.weight": random(8) for j in range(len(attentions) + 1)}
        dense = f"{block}{len(attentions)}.DenseReluDense."
        tensors |= {dense + "wi.weight": random(6, 8), dense + "wo.weight": random(8, 6)}
        tensors |= {stack + ".final_layer_norm.weight": random(8)}
        tensors[block + "0.SelfAttention.relative_attention_bias.weight"] = random(32, 2)
    return found, tensors


def test_t5_table_copies_and_head() -> None:
    found, tensors = t5()
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    binding = bind(found, Memory(tensors))
    table = tensors["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    np.testing.assert_array_equal(whole(binding, "decoder.relative_bias"), table.T)
    untied, _ = t5(tie_word_embeddings=False)
    missing = bind(untied, Memory(tensors)).spec.logits
    assert missing is not None and missing.tied and missing.scale == 1.0
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
    with pytest.raises(UnsupportedError, match=r"encoder\.embed_tokens\.weight differs from shared\.weight"):
        bind(found, Memory(tensors))


def marian(**more: Any) -> tuple[Family, dict[str, Array]]:
    """A family of small Marian models, and the tensors of one: two encoders' and decoders' layers are one each."""
    sizes = {f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 6))}
    sizes |= {f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")}
    small = {"d_model": 8, "vocab_size": 11, "max_position_embeddings": 5, "scale_embedding": True, **sizes}
    found = registry.read({"model_type": "marian", **small, **more})
    tensors = {"model.shared.weight": random(11, 8), "final_logits_bias": random(1, 11)}
    for stack, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        layer = f"model.{stack}.layers.0."
        modules = {f"{a}.{x}_proj": (8, 8) for a in attentions for x in ("q", "k", "v", "out")}
        for module, shape in (modules | {"fc1": (6, 8), "fc2": (8, 6)}).items():
            tensors |= {f"{layer}{module}.weight": random(*shape), f"{layer}{module}.bias": random(shape[0])}
        for norm in (*(f"{a}_layer_norm" for a in attentions), "final_layer_norm"):
            tensors |= {f"{layer}{norm}.weight": random(8), f"{layer}{norm}.bias": random(8)}
    return found, tensors


def test_positions_that_are_not_stored_are_computed() -> None:
    found, tensors = marian()
    table = whole(bind(found, Memory(tensors)), "decoder.embed.positions")
    angles = np.arange(5)[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    np.testing.assert_array_equal(table, np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))
    stored = random(5, 8)
    binding = bind(found, Memory({**tensors, "model.decoder.embed_positions.weight": stored}))
    np.testing.assert_array_equal(whole(binding, "decoder.embed.positions"), stored)
    np.testing.assert_array_equal(whole(binding, "encoder.embed.positions"), table)
    with pytest.raises(ModelFormatError, match=r"embed_positions\.weight: expected shape \[5, 8\]"):
        bind(found, Memory({**tensors, "model.decoder.embed_positions.weight": random(7, 8)}))


def test_a_bias_of_logits_that_is_a_row() -> None:
    found, tensors = marian()
    binding = bind(found, Memory(tensors))
    np.testing.assert_array_equal(whole(binding, "head.bias").ravel(), tensors["final_logits_bias"][0])
    with pytest.raises(ModelFormatError, match=r"final_logits_bias: expected shape \[1, 11\]"):
        bind(found, Memory({**tensors, "final_logits_bias": random(11)}))
    del tensors["final_logits_bias"]
    bare = bind(found, Memory(tensors))
    assert bare.spec.logits is not None and not bare.spec.logits.bias and "head.bias" not in bare


def test_a_table_for_each_stack() -> None:
    found, tensors = marian(decoder_vocab_size=13, share_encoder_decoder_embeddings=False)
    del tensors["model.shared.weight"], tensors["final_logits_bias"]
    tensors |= {"model.encoder.embed_tokens.weight": random(11, 8), "model.decoder.embed_tokens.weight": random(13, 8)}
    binding = bind(found, Memory(tensors))
    for slot, stack in (("embed.tokens", "decoder"), ("encoder.embed.tokens", "encoder")):
        np.testing.assert_array_equal(whole(binding, slot), tensors[f"model.{stack}.embed_tokens.weight"])
    assert binding.spec.tied


# ---- what is refused ----


def refused(tensors: dict[str, Array], *words: str, error: type[Exception] = ModelFormatError, **config: Any) -> None:
    checkpoint = Memory(tensors)
    with pytest.raises(error) as caught:
        bind(family(**config), checkpoint)
    assert all(word in str(caught.value) for word in ("folder/model.safetensors", *words)), str(caught.value)
    assert checkpoint.elements_read == 0 and len(str(caught.value)) < 1000


def test_missing_tensors_are_named() -> None:
    tensors = llama()
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["lm_head.weight"]
    refused(tensors, "layers.1.mlp.up_proj.weight", "lm_head.weight", "missing")
    refused(llama(), "layers.2.input_layernorm.weight", " and ", " more", num_hidden_layers=16384)


def test_left_over_tensors_are_named() -> None:
    refused(llama({"model.layers.0.self_attn.q_proj.bias": random(8)}), "model.layers.0.self_attn.q_proj.bias", "llama")
    refused(llama(), "model.layers.1.", " more", num_hidden_layers=1)
    assert bind(family(), Memory(llama({"model.layers.0.self_attn.rotary_emb.inv_freq": random(2)})))


@pytest.mark.parametrize("shape", [(8, 7), (7, 8), (8,), (8, 8, 1), ()])
def test_mis_shaped_tensors_are_named(shape: tuple[int, ...]) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    refused(llama({name: np.ones(shape, np.float32)}), name, "[8, 8]", str(list(shape)))
    refused(llama({"model.norm.weight": random(1, 8)}), "model.norm.weight", "[8]", "[1, 8]")


def test_other_types_are_named() -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    refused(llama({name: np.ones((8, 6), np.int8)}), name, "int8", error=UnsupportedError)


def test_one_tensor_under_two_names() -> None:
    refused(llama({"norm.weight": random(8)}), "norm.weight", "model.norm.weight", "two names")


def test_a_checkpoint_without_tensors() -> None:
    with pytest.raises(ModelFormatError, match="missing"):
        bind(family(), Memory({}))
