"""Configs: what each family makes of its keys, and typed errors that name the key for everything else."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastlm.arch import registry
from fastlm.arch.spec import (
    Activate,
    Activation,
    Attention,
    Dense,
    FeedForward,
    Logits,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    Pool,
    RelativeVectors,
)
from fastlm.errors import ModelFormatError, UnsupportedError

Json = dict[str, Any]
SHAPE: Json = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA = {"model_type": "llama", **SHAPE}
LLAMA3: Json = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}
DEBERTA: Json = {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["c2p"]}
GPT2: Json = {"model_type": "gpt2", "vocab_size": 99, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}


def read(config: Json, **more: Any) -> ModelSpec:
    return registry.read(config | more).spec


def attentions(spec: ModelSpec) -> list[Attention]:
    layers = spec.decoder.layers if spec.decoder else ()
    return [s.mixer for layer in layers for s in layer.sublayers if isinstance(s.mixer, Attention)]


def windows(spec: ModelSpec) -> list[int]:
    return [a.window for a in attentions(spec)]


# ---- what keys mean ----


def test_llama_defaults_are_those_of_transformers() -> None:
    spec = read({"model_type": "llama"})
    (attention, *_), ffn = attentions(spec), spec.decoder and spec.decoder.layers[0].sublayers[1].mixer
    assert (spec.vocab, spec.hidden, spec.context) == (32000, 4096, 2048)
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (32, 32, 128)
    assert ffn == FeedForward(11008, Activation.SILU, gated=True)
    assert spec.head == (Logits(tied=False),)
    assert attention.rope is not None and len(attention.rope.frequencies) == 64
    assert attention.rope.frequencies[32] == pytest.approx(1e-2, rel=1e-6)


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6, 123456.7])
@pytest.mark.parametrize("dim", [48, 64, 96, 128])
def test_rope_frequencies_are_rounded_powers(theta: float, dim: int) -> None:
    """To the bit, on every processor: files hold them."""
    attention = attentions(read(LLAMA, rope_theta=theta, head_dim=dim))[0]
    exponents = [float(np.float32(2 * i) / np.float32(dim)) for i in range(dim // 2)]
    powers = [np.float32(float(np.float32(theta)) ** e) for e in exponents]
    assert attention.rope is not None
    assert attention.rope.frequencies == tuple(float(np.float32(1) / power) for power in powers)


def test_rope_llama3_blends_between_two_wavelengths() -> None:
    rope = attentions(read(LLAMA, rope_scaling=LLAMA3, head_dim=32))[0].rope
    plain = attentions(read(LLAMA, head_dim=32))[0].rope
    assert rope is not None and plain is not None
    for new, old in zip(rope.frequencies, plain.frequencies, strict=True):
        turns = 16 * old / (2 * math.pi)  # within the original context
        share = min(1.0, max(0.0, (turns - 1.0) / (4.0 - 1.0)))
        assert new == pytest.approx(share * old + (1 - share) * old / 8, rel=1e-5)
    assert rope.frequencies != plain.frequencies


def test_rope_linear_divides() -> None:
    plain = attentions(read(LLAMA))[0].rope
    scaled = attentions(read(LLAMA, rope_scaling={"type": "linear", "factor": 4.0}))[0].rope
    assert plain is not None and scaled is not None
    assert [4 * f for f in scaled.frequencies] == list(plain.frequencies)


def test_rope_longrope_has_two_sets() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    config = {"model_type": "phi3", **SHAPE, "original_max_position_embeddings": 16, "rope_scaling": scaling}
    rope = attentions(read(config))[0].rope
    assert rope is not None
    assert rope.long_from == 16
    assert [2 * f for f in rope.long_frequencies] == list(rope.frequencies)
    assert rope.scale == rope.long_scale == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))


def test_windows() -> None:
    qwen = {"model_type": "qwen2", **SHAPE, "sliding_window": 8, "max_window_layers": 1}
    assert windows(read(qwen)) == [0, 0, 0]
    assert windows(read(qwen, use_sliding_window=True)) == [0, 8, 8]
    assert windows(read({"model_type": "mistral", **SHAPE})) == [4096] * 3
    assert windows(read({"model_type": "mistral", **SHAPE}, sliding_window=None)) == [0] * 3
    assert windows(read({"model_type": "gemma2", **SHAPE}, sliding_window=8)) == [8, 0, 8]
    assert windows(read({"model_type": "gemma3_text", **SHAPE}, sliding_window=8, sliding_window_pattern=2)) == [
        8,
        0,
        8,
    ]


def test_gemma3_has_a_rope_per_kind_of_layer() -> None:
    config = {"model_type": "gemma3_text", **SHAPE, "head_dim": 4, "sliding_window_pattern": 3}
    scaled = read(config, rope_scaling={"rope_type": "linear", "factor": 8.0})
    ropes = [a.rope.frequencies for a in attentions(scaled) if a.rope]
    assert ropes == [(1.0, pytest.approx(1e-2)), (1.0, pytest.approx(1e-2)), (0.125, pytest.approx(1e-3 / 8))]


def test_embeddinggemma_sees_half_a_window_on_each_side() -> None:
    config = {"model_type": "gemma3_text", **SHAPE, "head_dim": 4, "sliding_window_pattern": 3, "sliding_window": 512}
    causal, both = (read(config, use_bidirectional_attention=flag) for flag in (None, True))
    assert causal.kind == "decoder" and windows(causal) == [512, 512, 0]
    assert both.kind == "encoder" and both.encoder is not None and both.head == ()
    mixers = [layer.sublayers[0].mixer for layer in both.encoder.layers]
    assert mixers == [replace(a, causal=False, window=257 if a.window else 0) for a in attentions(causal)]
    with pytest.raises(UnsupportedError, match="architectures = 'Gemma3ForCausalLM'"):
        read(config, use_bidirectional_attention=True, architectures=["Gemma3ForCausalLM"])


def test_gemma_reads_gelu_as_its_tanh_form() -> None:
    for act in ("gelu", "gelu_pytorch_tanh"):
        spec = read({"model_type": "gemma", **SHAPE, "hidden_act": act})
        assert spec.decoder is not None and spec.decoder.embed.scale == pytest.approx(math.sqrt(48))
        assert spec.decoder.layers[0].sublayers[1].mixer == FeedForward(80, Activation.GELU_TANH, gated=True)


def test_gemma2_caps_and_scale() -> None:
    spec = read({"model_type": "gemma2", **SHAPE, "query_pre_attn_scalar": 16, "attn_logit_softcapping": None})
    assert [(a.scale, a.softcap) for a in attentions(spec)] == [(0.25, 0.0)] * 3
    assert spec.logits is not None and spec.logits.softcap == 30.0 and spec.tied


def test_gpt2_scales_by_layer() -> None:
    spec = read(GPT2, scale_attn_by_inverse_layer_idx=True)
    assert [a.scale for a in attentions(spec)] == pytest.approx([12**-0.5, 12**-0.5 / 2, 12**-0.5 / 3])
    assert {a.scale for a in attentions(read(GPT2, scale_attn_weights=False))} == {1.0}


def test_opt_350m_is_post_norm() -> None:
    config = {"model_type": "opt", "hidden_size": 48, "num_attention_heads": 4, "word_embed_proj_dim": 24}
    before, after = (read(config, do_layer_norm_before=flag).decoder for flag in (True, False))
    assert before is not None and after is not None
    assert before.norm is not None and before.layers[0].sublayers[0].pre_norm is not None
    assert after.norm is None and after.layers[0].sublayers[0].residual_norm is not None
    assert read(config).width == 24 and read(config).head == (Dense(24), Logits(tied=True))


def test_bloom_slopes() -> None:
    """The paper's: a geometric series from 2^-8/n; other counts add every other slope of twice the heads."""
    config = {"model_type": "bloom", "hidden_size": 48, "n_layer": 1}
    assert attentions(read(config, n_head=8))[0].alibi == tuple(2.0**-i for i in range(1, 9))
    assert attentions(read(config, n_head=6))[0].alibi == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)


def test_mixtures_of_experts() -> None:
    spec = read(
        {"model_type": "qwen3_moe", **SHAPE, "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [1]}
    )
    assert spec.decoder is not None
    mixers = [layer.sublayers[1].mixer for layer in spec.decoder.layers]
    sparse = MixtureOfExperts(4, 2, 768, Activation.SILU, normalize=False)
    assert mixers == [sparse, FeedForward(80, Activation.SILU, gated=True), sparse]
    every_other = read({"model_type": "qwen3_moe", **SHAPE, "decoder_sparse_step": 2}).decoder
    assert every_other is not None
    assert [type(layer.sublayers[1].mixer) for layer in every_other.layers] == [
        FeedForward,
        MixtureOfExperts,
        FeedForward,
    ]


def test_gte_by_its_own_code_is_gte_with_a_stretched_rope() -> None:
    """https://kexue.fm/archives/9706, formula 6, in float64."""
    config = {"model_type": "new", **SHAPE, "max_position_embeddings": 48}
    del config["num_key_value_heads"]
    found = {f: read(config, rope_theta=500, rope_scaling={"type": "ntk", "factor": f}) for f in (0.5, 1.0, 4.0)}
    assert found[0.5] == found[1.0] == read(config, rope_theta=500)
    assert read(config | {"model_type": "gte"}, rope_theta=500) == found[1.0]
    ropes = {f: spec.encoder and spec.encoder.layers[0].sublayers[0].mixer.rope for f, spec in found.items()}
    wanted = [(4 * 500.0) ** (-2 * i / 12) / 4 ** (2 / 12) for i in range(6)]
    assert ropes[4.0].frequencies == pytest.approx(wanted, rel=1e-6)
    masked = {"architectures": ["NewForMaskedLM"], "hidden_act": "gelu_new"}
    activations = [Activate(Activation.GELU_TANH), Activate(Activation.GELU)]
    assert [read(config, **masked, model_type=name).head[1] for name in ("new", "gte")] == activations


def test_deberta_scores() -> None:
    """As many products as there are share the scale; distances have vectors of their own unless there are buckets."""
    config = {"model_type": "deberta-v2", **SHAPE, "num_key_value_heads": 4, "relative_attention": True}

    def attention(**more: Any) -> Attention:
        stack = read(config, **more).encoder
        assert stack is not None and stack.embed.positions == 64 and stack.embed.types == 0
        return stack.layers[0].sublayers[0].mixer  # type: ignore[return-value]

    assert attention().vectors is None and attention().scale == pytest.approx(12**-0.5)
    both = attention(pos_att_type=" P2C | c2p", position_buckets=16)
    assert both.vectors == RelativeVectors(16, 64) and both.scale == pytest.approx(36**-0.5)
    keys = attention(pos_att_type=["c2p"], max_relative_positions=20)
    assert keys.vectors == RelativeVectors(20, 0, queries=False) and keys.scale == pytest.approx(24**-0.5)
    plain = attention(pos_att_type=["c2p", "p2c"], relative_attention=False)
    assert plain.vectors is None and plain.scale == both.scale
    spec = read(config, position_biased_input=False, type_vocab_size=2).encoder
    assert spec is not None and (spec.embed.positions, spec.embed.types) == (0, 2)


def test_t5_versions() -> None:
    small = {"model_type": "t5", "d_model": 64, "num_layers": 2, "num_decoder_layers": 1, "is_encoder_decoder": True}
    old, new = read(small), read(small, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    assert old.head == (Logits(tied=True, scale=0.125),) and new.head == (Logits(tied=False),)
    assert old.encoder is not None and old.decoder is not None and new.encoder is not None
    assert len(old.encoder.layers) == 2 and len(old.decoder.layers) == 1
    assert old.encoder.layers[0].sublayers[1].mixer == FeedForward(2048, Activation.RELU)
    assert new.encoder.layers[0].sublayers[1].mixer == FeedForward(2048, Activation.GELU_TANH, gated=True)
    assert all(a.scale == 1.0 for a in attentions(old))
    assert old.encoder.relative is not None and old.decoder.relative == replace(
        old.encoder.relative, bidirectional=False
    )


def test_t5_may_be_an_encoder_alone() -> None:
    both = read({"model_type": "t5"})
    alone = read({"model_type": "t5", "architectures": ["T5EncoderModel"], "is_encoder_decoder": False})
    assert alone.kind == "encoder" and alone == replace(both, decoder=None, head=())


def test_kin_of_t5() -> None:
    mt5, umt5 = read({"model_type": "mt5", "tie_word_embeddings": True}), read({"model_type": "umt5"})
    assert mt5.head == (Logits(tied=False),) and umt5.head == (Logits(tied=True, scale=512**-0.5),)
    assert mt5.encoder and mt5.encoder.relative and umt5.encoder and umt5.encoder.relative
    assert not mt5.encoder.relative.by_layer and umt5.encoder.relative.by_layer
    assert replace(umt5.encoder, relative=mt5.encoder.relative) == mt5.encoder


def test_kin_of_bart() -> None:
    small = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "is_encoder_decoder": True}
    small |= {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
    found = {name: read({"model_type": name, **small}) for name in KIN_OF_BART}
    for name, (before, normed, scaled) in KIN_OF_BART.items():
        encoder, decoder = found[name].encoder, found[name].decoder
        assert encoder is not None and decoder is not None
        assert (len(encoder.layers), len(decoder.layers)) == (1, 2)
        for stack in (encoder, decoder):
            sublayers = stack.layers[0].sublayers
            assert all((s.pre_norm is not None, s.residual_norm is not None) == (before, not before) for s in sublayers)
            assert (stack.norm is not None, stack.embed.norm is not None) == (before, normed)
            assert stack.embed.scale == pytest.approx(24**0.5 if scaled else 1.0) and stack.embed.positions
        logits = found[name].logits
        assert logits is not None and logits.tied and logits.bias == (name != "m2m_100")
    small_decoder = found["blenderbot-small"].decoder
    assert small_decoder is not None and small_decoder.embed.norm_first
    scaled_one = read({"model_type": "blenderbot-small", **small}, scale_embedding=True)
    assert scaled_one.encoder and scaled_one.encoder.embed.scale > 4 and scaled_one.decoder == small_decoder


KIN_OF_BART = {  # norms before blocks, a norm on the embedding, a scaled embedding
    "bart": (False, True, False),
    "mbart": (True, True, False),
    "marian": (False, False, False),
    "m2m_100": (True, False, True),
    "pegasus": (True, False, False),
    "blenderbot": (True, False, False),
    "blenderbot-small": (False, True, False),
}


def test_marian_may_have_a_table_for_each_stack() -> None:
    config = {"model_type": "marian", "vocab_size": 50}
    shared, own = read(config), read(config, decoder_vocab_size=70, share_encoder_decoder_embeddings=False)
    assert (shared.vocab, shared.source_vocab, own.vocab, own.source_vocab) == (50, 50, 70, 50)
    assert own.tied
    untied = read(config, tie_word_embeddings=False)
    assert (untied.vocab, untied.source_vocab) == (50, 50) and not untied.tied
    assert untied.encoder and untied.encoder.embed.tokens == 50
    with pytest.raises(UnsupportedError, match="decoder_vocab_size = 70"):
        read(config, decoder_vocab_size=70)


def test_bart_may_tell_labels() -> None:
    spec = read({"model_type": "bart", "architectures": ["BartForSequenceClassification"]})
    assert (spec.pool, spec.outputs, spec.kind) == (Pool.LAST, 3, "encoder-decoder")
    with pytest.raises(UnsupportedError, match="BartForQuestionAnswering"):
        read({"model_type": "bart", "architectures": ["BartForQuestionAnswering"]})


def test_t5gemma_has_a_config_for_each_stack() -> None:
    stack = {**SHAPE, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 5}
    decoder = {**stack, "vocab_size": 77, "final_logit_softcapping": 7.0}
    config = {"model_type": "t5gemma", "encoder": stack, "decoder": decoder}
    spec = read(config)
    assert spec.encoder is not None and spec.decoder is not None
    assert windows(replace(spec, decoder=spec.encoder)) == [6, 0], "as far on both sides, and itself"
    assert windows(spec) == [5, 0, 0, 0]
    assert (spec.vocab, spec.source_vocab) == (77, 99) and spec.logits is not None
    assert spec.logits.tied and spec.logits.softcap == 7.0
    with pytest.raises(UnsupportedError, match=r"encoder: hidden_size = 64"):
        read(config, encoder={**stack, "hidden_size": 64})
    with pytest.raises(ModelFormatError, match="encoder: expected the config of the encoder"):
        read({"model_type": "t5gemma"})


def test_neox_residual_and_rotation() -> None:
    config = {"model_type": "gpt_neox", **{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}}
    spec = read(config, rotary_pct=0.5, rotary_emb_base=100, use_parallel_residual=False)
    assert spec.decoder is not None and not spec.decoder.layers[0].parallel
    assert attentions(spec)[0].rope == attentions(read(config, rope_theta=100.0, rotary_pct=0.5))[0].rope
    assert len(attentions(read(config))[0].rope.frequencies) == 2  # type: ignore[union-attr]


def test_bert_is_an_encoder_with_norms_after_the_sum() -> None:
    spec = read({"model_type": "bert"})
    assert spec.kind == "encoder" and spec.head == () and spec.encoder is not None
    assert spec.encoder.layers[0].sublayers[0].residual_norm == Norm(NormKind.LAYER, 1e-12, bias=True)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ("type", "yarn")),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ("rope_type", "dynamic")),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ("rope_parameters", "yarn")),
        ({"rope_parameters": {"rope_type": "default", "mystery": 3}}, ("rope_parameters", "mystery")),
        ({"hidden_act": "quick_gelu"}, ("hidden_act", "quick_gelu")),
        ({"partial_rotary_factor": 0.5}, ("partial_rotary_factor", "0.5")),
        ({"quantization_config": {"bits": 4}}, ("quantization_config", "bits")),
        ({"is_encoder_decoder": True}, ("is_encoder_decoder", "True")),
        ({"embedding_multiplier": 12.0}, ("embedding_multiplier", "12.0")),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, ("use_bidirectional_attention",)),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"] * 3}, ("layer_types", "linear_attention")),
        ({"model_type": "phi3", "full_attn_mod": 2}, ("full_attn_mod", "2")),
        ({"model_type": "bert", "is_decoder": True}, ("is_decoder",)),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, ("position_embedding_type",)),
        ({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}, ("post_layernorm",)),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, ("type", "ntk")),
        ({"model_type": "new", "rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, ("mixed_b", "0.5")),
        ({"model_type": "new", "layer_norm_type": "rms_norm"}, ("layer_norm_type", "rms_norm")),
        ({"model_type": "new", "position_embedding_type": "absolute"}, ("position_embedding_type", "absolute")),
        ({"model_type": "new", "logn_attention_scale": True}, ("logn_attention_scale", "True")),
        ({"model_type": "deberta-v2", "conv_kernel_size": 3}, ("conv_kernel_size", "3")),
        ({"model_type": "deberta-v2", "pos_att_type": ["p2p"]}, ("pos_att_type", "p2p")),
        ({"model_type": "deberta-v2", "norm_rel_ebd": "rms_norm"}, ("norm_rel_ebd", "rms_norm")),
        ({"model_type": "deberta-v2", "embedding_size": 32}, ("embedding_size", "32")),
        ({"model_type": "deberta-v2", "attention_head_size": 8}, ("attention_head_size", "8")),
        ({"model_type": "lama"}, ("lama", "llama", "gpt2")),
    ],
)
def test_unsupported(change: Json, names: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        registry.read(LLAMA | change, "folder/config.json")
    assert all(name in str(caught.value) for name in ("folder/config.json", *names))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"num_attention_heads": 5, "head_dim": 8}, ("num_key_value_heads", "num_attention_heads")),
        ({"num_attention_heads": 10}, ("num_attention_heads", "hidden_size")),
        ({"head_dim": 7}, ("head_dim",)),
        ({"rms_norm_eps": -1e-6}, ("rms_norm_eps",)),
        ({"rope_scaling": {"type": "linear"}}, ("rope_scaling", "factor")),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, ("high_freq_factor", "low_freq_factor")),
        ({"rope_scaling": LLAMA3, "rope_parameters": LLAMA3}, ("rope_scaling", "rope_parameters")),
        ({"rope_theta": 1e-30, "rope_scaling": {"type": "linear", "factor": 1e-20}}, ("rope_theta", "finite")),
        ({"rope_scaling": [1]}, ("rope_scaling", "object")),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, ("layer_types", "num_hidden_layers")),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 3}, ("layer_types", "use_sliding_window")),
        ({"model_type": "gpt2", "n_embd": 24}, ("n_embd", "hidden_size")),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, ("num_experts_per_tok", "num_local_experts")),
        ({"model_type": "t5", "relative_attention_max_distance": 16}, ("relative_attention_max_distance",)),
        (DEBERTA | {"position_buckets": 7}, ("position_buckets", "7 buckets")),
        (DEBERTA | {"position_buckets": 128}, ("position_buckets", "max_position_embeddings (64)")),
        ({"model_type": None}, ("model_type",)),
    ],
)
def test_contradictions(change: Json, names: tuple[str, ...]) -> None:
    with pytest.raises(ModelFormatError) as caught:
        registry.read(LLAMA | change, "folder/config.json")
    assert all(name in str(caught.value) for name in ("folder/config.json", *names))


def test_a_config_is_an_object() -> None:
    with pytest.raises(ModelFormatError, match="object"):
        registry.read([1, 2])  # type: ignore[arg-type]


def test_null_and_bookkeeping_keys_are_no_matter() -> None:
    more = {"future_feature": None, "unsloth_version": "1", "max_length": 20, "_name_or_path": "x", "num_labels": 3}
    assert read(LLAMA, **more) == read(LLAMA)
