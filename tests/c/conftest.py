"""The documented build of libfastlm, and .flm files whose matrices are packed here as csrc/format/matrix.h says."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quantized_formats import I4, I8, plainly, to_bf16
from random_models import llama_spec
from support import ROOT

from fastlm.arch import registry
from fastlm.arch.slots import slots
from fastlm.arch.spec import (
    Activation,
    Attention,
    Embed,
    FeedForward,
    Layer,
    Logits,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    NormKind,
    RelativeBias,
    RelativeVectors,
    Rope,
    Source,
    Stack,
    Sublayer,
    encode,
)
from fastlm.weights import bind, container
from fastlm.weights.formats import matrix_format
from fastlm.weights.jsonfile import read_object
from fastlm.weights.safetensors import Checkpoint

QUANTIZED = {"int8": I8, "int4": I4}


def to_bits(values: np.ndarray, format: str) -> np.ndarray:
    if format == "float32":
        return values.astype("<f4")
    return values.astype("<f2") if format == "float16" else to_bf16(values)


def pack(values: np.ndarray, format: str) -> bytes:
    """Strips of 16 rows; 64-byte lines of one column (float32) or two (float16 planar, bfloat16 in pairs), or codes."""
    if format in QUANTIZED:
        return plainly(QUANTIZED[format], values).encode(np.random.default_rng(1)).tobytes()
    rows, cols = values.shape
    per_line = 1 if format == "float32" else 2
    padded = np.zeros((-(-rows // 16) * 16, -(-cols // per_line) * per_line), np.float32)
    padded[:rows, :cols] = values
    lines = to_bits(padded, format).reshape(-1, 16, padded.shape[1] // per_line, per_line)
    order = (0, 2, 1, 3) if format == "bfloat16" else (0, 2, 3, 1)
    return np.ascontiguousarray(lines.transpose(order)).tobytes()


def write_flm(
    path: Path,
    spec: ModelSpec,
    weight: Callable[[str, int, int], np.ndarray],
    *,
    format: str = "float32",
    choose: Callable[[str, str], str] = matrix_format,
    vocabulary: container.Vocabulary | None = None,
    extras: dict[str, bytes] | None = None,
) -> Path:
    def tensors():
        for slot in slots(spec):
            values = np.asarray(weight(slot.name, slot.rows, slot.cols), np.float32).reshape(slot.rows, slot.cols)
            kind = choose(slot.name, format) if slot.is_matrix else "float32"
            data = pack(values, kind) if slot.is_matrix else values.astype("<f4").tobytes()
            yield container.PackedTensor(slot.name, slot.rows, slot.cols, slot.is_matrix, kind, memoryview(data))

    container.write(path, spec=encode(spec), tensors=tensors(), vocabulary=vocabulary, extras=extras)
    return path


def random_weight(name: str, rows: int, cols: int) -> np.ndarray:
    rng = np.random.default_rng(sum(name.encode()) * 1000 + rows)
    return rng.standard_normal((rows, cols)) * 0.2 + ("norm" in name)


def letters(n: int) -> container.Vocabulary:
    pieces = [b"", b"</s>", " \u00e9".encode()] + [bytes([33 + i % 90]) for i in range(n - 3)]
    return container.Vocabulary(
        pieces=pieces,
        special=[i < 2 for i in range(n)],
        strip_first_space=True,
        bos=0,
        decoder_start=0,
        eos=[1],
    )


RMS = Norm(NormKind.RMS, 1e-5)
LAYER = Norm(NormKind.LAYER, 1e-5, bias=True)


def _attention(**changes: object) -> Attention:
    return Attention(**{"heads": 4, "kv_heads": 2, "head_dim": 8, "scale": 8**-0.5, **changes})


def _layer(*mixers: object, norm: Norm = RMS) -> Layer:
    return Layer(tuple(Sublayer(mixer, pre_norm=norm) for mixer in mixers))


def small_specs() -> dict[str, ModelSpec]:
    """Every kind of mixer, norm and position in models of some ten kilobytes."""
    rope = Rope((1.0, 0.1, 0.01, 0.001), long_from=16, long_frequencies=(0.5, 0.05, 0.005, 0.0005), long_scale=1.1)
    gated = FeedForward(40, Activation.SILU, gated=True)
    plain = FeedForward(24, Activation.GELU, bias=True, out_bias=True)
    decoder = _layer(_attention(rope=rope, window=5, softcap=20.0, q_norm=RMS, k_norm=RMS), gated)
    alibi = _attention(alibi=(0.5, 0.25, 0.125, 0.0625), qkv_bias=True, out_bias=True)
    other = _attention(kv_heads=4, rope=rope)
    experts = MixtureOfExperts(4, 2, 16, Activation.SILU)
    relative = RelativeBias(4, 8, 16, bidirectional=True)
    two_way = _attention(causal=False, kv_heads=4, relative_bias=True)
    one_way = _attention(kv_heads=4, relative_bias=True)
    disentangled = _attention(causal=False, kv_heads=4, vectors=RelativeVectors(8, 20))
    cross = _attention(kv_heads=4, causal=False, source=Source.ENCODER)
    own = Embed(2.0, positions=64, norm=LAYER, norm_first=True)
    return {
        "llama": ModelSpec(40, 32, 64, decoder=Stack((decoder, decoder), RMS), head=(Logits(tied=True, softcap=30.0),)),
        "moe": ModelSpec(
            40,
            32,
            64,
            width=16,
            decoder=Stack((_layer(alibi, experts, norm=LAYER),), LAYER, embed=Embed(norm=LAYER)),
            head=(Logits(tied=False, bias=True),),
        ),
        "twins": ModelSpec(
            40, 32, 64, decoder=Stack((_layer(alibi, other, gated),) * 2, RMS), head=(Logits(tied=True),)
        ),
        "t5": ModelSpec(
            40,
            32,
            64,
            encoder=Stack((_layer(two_way, plain),), RMS, relative),
            decoder=Stack((_layer(one_way, cross, plain),), RMS, RelativeBias(4, 8, 16, bidirectional=False)),
            head=(Logits(tied=True, scale=0.2),),
        ),
        "stacks": ModelSpec(
            40,
            32,
            64,
            encoder=Stack(
                (_layer(two_way, plain),) * 2, RMS, replace(relative, by_layer=True), replace(own, tokens=50)
            ),
            decoder=Stack((_layer(one_way, cross, plain),), RMS, RelativeBias(4, 8, 16, False, True), own),
            head=(Logits(tied=True, bias=True),),
        ),
        "deberta": ModelSpec(
            40,
            32,
            64,
            encoder=Stack((_layer(disentangled, plain),), LAYER),
        ),
        "bert": ModelSpec(
            40,
            32,
            64,
            encoder=Stack(
                (_layer(_attention(causal=False), plain, norm=LAYER),), embed=Embed(positions=64, types=2, norm=LAYER)
            ),
        ),
    }


def outgrown_at(n: int, spec: ModelSpec) -> ModelSpec:
    """The model with other ropes for sequences of more than n tokens."""

    def changed(s: Sublayer) -> Sublayer:
        if not isinstance(s.mixer, Attention) or s.mixer.rope is None:
            return s
        slower = tuple(f / 2 for f in s.mixer.rope.frequencies)
        return replace(s, mixer=replace(s.mixer, rope=replace(s.mixer.rope, long_from=n, long_frequencies=slower)))

    assert spec.decoder is not None
    layers = tuple(replace(layer, sublayers=tuple(map(changed, layer.sublayers))) for layer in spec.decoder.layers)
    return replace(spec, decoder=replace(spec.decoder, layers=layers))


@pytest.fixture(scope="session")
def small_blobs() -> list[bytes]:
    """The bytes of each of `small_specs`."""
    return [encode(spec) for spec in small_specs().values()]


@pytest.fixture(scope="session")
def small_files(tmp_path_factory) -> dict[str, Path]:
    """A .flm file for each of `small_specs`, in all formats in turn, and some in quantised ones."""
    folder, specs = tmp_path_factory.mktemp("small"), small_specs()
    formats = {
        "llama": "float32",
        "moe": "bfloat16",
        "twins": "float32",
        "t5": "float16",
        "bert": "float32",
        "deberta": "bfloat16",
    }
    quantized = [("llama", "int8"), ("moe", "int4"), ("bert", "int4"), ("moe", "int8")]

    def written(name: str, spec: str, format: str) -> Path:
        path = folder / f"{name}.flm"
        return write_flm(path, specs[spec], random_weight, format=format, vocabulary=letters(40), extras={"a": b"{}"})

    files = {spec: written(spec, spec, format) for spec, format in formats.items()}
    return files | {f"{spec}_{format}": written(f"{spec}_{format}", spec, format) for spec, format in quantized}


@pytest.fixture(scope="session")
def spec_blob(tmp_path_factory) -> Path:
    """The blob of one of `small_specs`."""
    path = tmp_path_factory.mktemp("spec") / "llama.bin"
    path.write_bytes(encode(small_specs()["llama"]))
    return path


@pytest.fixture(scope="session")
def deep_t5(tmp_path_factory) -> Path:
    """A T5 whose decoder has several layers that attend to the source."""
    spec = small_specs()["t5"]
    assert spec.decoder is not None
    deep = replace(spec, decoder=replace(spec.decoder, layers=spec.decoder.layers * 8))
    return write_flm(tmp_path_factory.mktemp("deep") / "t5.flm", deep, random_weight, vocabulary=letters(40))


@pytest.fixture(scope="session")
def long_files(tmp_path_factory) -> list[Path]:
    """Three small models that take prompts long enough to be dealt to the threads."""
    folder, specs = tmp_path_factory.mktemp("long"), small_specs()
    made = {
        "llama": (outgrown_at(72, llama_spec(64, 2, 4, 2, 96, 40, tied=True)), "float32"),
        "t5": (replace(specs["t5"], context=512), "bfloat16"),
        "moe": (replace(specs["moe"], context=512), "int4"),
    }
    return [
        write_flm(folder / f"{name}.flm", spec, random_weight, format=format, vocabulary=letters(40))
        for name, (spec, format) in made.items()
    ]


@pytest.fixture(scope="session")
def chunked_files(tmp_path_factory) -> dict[str, Path]:
    """Each of `small_specs` with room for prompts that are read in several chunks, in float32 and quantised."""
    folder, specs = tmp_path_factory.mktemp("chunked"), small_specs()
    files = {}
    for name, spec in specs.items():
        spec = replace(spec, context=640)
        for name_of_stack in ("encoder", "decoder"):
            stack = getattr(spec, name_of_stack)
            if stack and stack.embed.positions:
                spec = replace(spec, **{name_of_stack: replace(stack, embed=replace(stack.embed, positions=640))})
        for format in ("float32", "int8", "int4"):
            path = folder / f"{name}_{format}.flm"
            files[path.stem] = write_flm(path, spec, random_weight, format=format, vocabulary=letters(40))
    return files


@pytest.fixture(scope="session")
def stories_flm(stories260k, tmp_path_factory) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(stories260k / "tokenizer.json"))
    pieces = []
    for i in range(tokenizer.get_vocab_size()):
        piece = tokenizer.id_to_token(i)
        is_byte = len(piece) == 6 and piece.startswith("<0x")
        pieces.append(bytes([int(piece[3:5], 16)]) if is_byte else piece.replace("\u2581", " ").encode())
    vocabulary = container.Vocabulary(
        pieces=pieces,
        special=[i < 3 for i in range(len(pieces))],
        strip_first_space=True,
        bos=1,
        decoder_start=None,
        eos=[1, 2],
    )
    family = registry.read(read_object(stories260k / "config.json"))
    with Checkpoint(stories260k / "model.safetensors") as checkpoint:
        binding = bind.bind(family, checkpoint)
        return write_flm(
            tmp_path_factory.mktemp("stories") / "stories260k.flm",
            binding.spec,
            lambda name, rows, cols: binding[name].rows(0, rows),
            vocabulary=vocabulary,
        )


@pytest.fixture(scope="session")
def documented(tmp_path_factory) -> Path:
    """A copy of the sources with libfastlm.so and embed, built by the lines of docs/embedding.md."""
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copytree(ROOT / "examples", folder / "examples")
    lines = re.findall(r"^cc .*$", (ROOT / "docs" / "embedding.md").read_text(), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
    return folder
