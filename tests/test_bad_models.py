"""The golden model of every family, damaged: absurd config values and wrong tensors through the whole of `load`."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DTYPES, as_stored, save_llama
from random_models import llama_spec
from refusals import little_work, refused
from safetensors_files import pack

import fastlm
from fastlm import _core
from fastlm.arch import registry
from fastlm.arch.registry import FAMILIES
from fastlm.arch.spec import encode
from fastlm.errors import FastlmError, ModelFormatError, UnsupportedError
from fastlm.weights import container

GOLDEN = Path(__file__).with_name("golden")


def golden_of(family: str) -> str:
    """The golden of a family: that of its name, or the first of its model_type."""
    found = [path.parent.name for path in sorted(GOLDEN.glob("*/config.json"))]
    kinds = {name: json.loads((GOLDEN / name / "config.json").read_text())["model_type"] for name in found}
    return family if family in found else next(name for name in found if kinds[name] == family)


GOLDENS = [golden_of(family) for family in FAMILIES]
WEIGHTS = "model.safetensors"
STORED = {code: name for name, (code, _) in DTYPES.items()}
Json = dict[str, Any]
Tensors = dict[str, tuple[str, list[int], bytes]]  # type, shape, values

ABSURD: list[Any] = [-1, 0, 3, 2**31, 2**63, "x", [], {}, 1.5, math.nan]
# Keys whose change shows in another one, or in the weights: the error may name those instead.
ELSEWHERE = ("head_dim", "num_key_value_heads", "rope", "layer_types", "relative_attention", WEIGHTS, "context")
COPIES = ("lm_head.weight", "embed_tokens.weight", "shared.weight", "final_logits_bias")  # checkpoints may lack them
BUFFERS = ("position_ids", ".attn.bias", ".attention.bias", "masked_bias", "inv_freq")  # nobody reads them


def places(config: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0


def use(folder: Path) -> None:
    """Load and run; what came out must be numbers."""
    with fastlm.load(folder, threads=1) as model:
        decoder_ids = [0] if model.kind == "encoder-decoder" else None
        outputs = model.forward([1], decoder_ids=decoder_ids)
        assert np.isfinite(outputs.hidden).all()


def outcome(folder: Path) -> str | None:
    """The text of the typed error, which must come after little work; None if the model works."""
    try:
        with little_work():
            use(folder)
    except FastlmError as error:
        text = str(error)
        assert len(text) < 1000 and "\n" not in text
        return text
    return None


@pytest.mark.parametrize("family", GOLDENS)
def test_absurd_config_values(family: str, tmp_path: Path) -> None:
    config: Json = json.loads((GOLDEN / family / "config.json").read_text())
    (tmp_path / WEIGHTS).symlink_to(GOLDEN / family / WEIGHTS)
    use(GOLDEN / family)
    before, refused = resident_bytes(), 0
    for n, (*parents, key) in enumerate(places(config)):
        for value in ABSURD[n % 3 :: 3]:  # arch/test_absurd.py reads all of them
            changed = copy.deepcopy(config)
            inner = changed
            for parent in parents:
                inner = inner[parent]
            inner[key] = value
            (tmp_path / "config.json").write_text(json.dumps(changed))
            text = outcome(tmp_path)
            if text is not None:
                refused += 1
                assert key in text or any(word in text for word in ELSEWHERE), (key, value, text)
    assert refused > 25
    assert resident_bytes() - before < 64 << 20


def read_tensors(family: str) -> Tensors:
    raw = (GOLDEN / family / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    spans = {name: slice(*(end + at for at in entry["data_offsets"])) for name, entry in header.items()}
    return {name: (entry["dtype"], entry["shape"], raw[spans[name]]) for name, entry in header.items()}


def save_tensors(folder: Path, tensors: Tensors) -> None:
    header, data = {}, bytearray()
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    (folder / WEIGHTS).write_bytes(pack(header, bytes(data)))


def damages(name: str, tensor: tuple[str, list[int], bytes]) -> Iterator[tuple[str, Tensors]]:
    """What takes the place of a tensor, and how that is called."""
    dtype, shape, values = tensor
    size = len(values) // math.prod(shape)
    yield "missing", {}
    yield "renamed", {name + "_": tensor}
    yield "longer", {name: (dtype, [shape[0] + 1, *shape[1:]], values + values[: len(values) // shape[0]])}
    yield "flat", {name: (dtype, [1, *shape], values)}
    if len(set(shape)) > 1:
        yield "transposed", {name: (dtype, shape[::-1], values)}
    for bad in (math.nan, -math.inf):
        number = as_stored(np.array([bad], np.float32), STORED[dtype])
        yield str(bad), {name: (dtype, shape, values[:-size] + number)}


@pytest.mark.parametrize("family", GOLDENS)
def test_damaged_tensors(family: str, tmp_path: Path) -> None:
    """Each error names the tensor, or (missing: under the name that the config asks for) its end."""
    tensors = read_tensors(family)
    config = json.loads((GOLDEN / family / "config.json").read_text())
    renames = registry.read(config).renames
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_tensors(tmp_path, tensors)
    use(tmp_path)
    for name in sorted(tensors)[len(family) % 2 :: 2]:  # half of them: others in other families
        if ".1." in name or name.endswith(BUFFERS) or "pooler" in name:  # .1.: as in layer 0
            continue
        for kind, instead in damages(name, tensors[name]):
            save_tensors(tmp_path, {other: tensors[other] for other in tensors if other != name} | instead)
            text = outcome(tmp_path)
            if text is None:
                computed = family == "pegasus" and name.endswith("embed_positions.weight")  # sinusoids
                assert kind == "missing" and (computed or name.endswith(COPIES)), (name, kind)
                continue
            wanted = name
            for pattern, replacement in renames if kind in ("missing", "renamed") else ():
                wanted = re.sub(pattern, replacement, wanted)
            told = ".".join(wanted.split(".")[-2:]) in text or name in text  # one that may be missing is left over
            assert WEIGHTS in text and told, (name, kind, text)


@pytest.mark.parametrize("family", GOLDENS)
@pytest.mark.parametrize("more", [-1, 1, 10_000])
def test_vocabulary_and_embeddings_that_differ(family: str, more: int, tmp_path: Path) -> None:
    config = json.loads((GOLDEN / family / "config.json").read_text())
    vocab = config["vocab_size"]
    (tmp_path / WEIGHTS).symlink_to(GOLDEN / family / WEIGHTS)
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": vocab + more}))
    shapes = rf"{WEIGHTS}: \S+: expected shape \[{vocab + more}, .*found \[{vocab}, "
    two = "vocab_size = "  # a config that says it twice
    with pytest.raises((ModelFormatError, UnsupportedError), match=f"{shapes}|{two}"):
        fastlm.load(tmp_path)


def test_weights_cut_short_after_load(tmp_path: Path) -> None:
    """They are read, not mapped: the file may change, shrink or go."""
    folder = save_llama(tmp_path)
    with fastlm.load(folder) as model:
        expected = model.generate([1, 2, 3], max_tokens=20).token_ids
        with (folder / WEIGHTS).open("r+b") as file:
            file.truncate(100)
        assert model.generate([1, 2, 3], max_tokens=20).token_ids == expected
        (folder / WEIGHTS).unlink()
        assert model.generate([1, 2, 3], max_tokens=20).token_ids == expected


@pytest.mark.parametrize(("name", "rows"), [("encoder", 1), ("decoder", 2)])
def test_a_start_token_outside_of_the_vocabulary(name: str, rows: int, tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "t5" / "config.json").read_text())
    (tmp_path / WEIGHTS).symlink_to(GOLDEN / "t5" / WEIGHTS)
    for start in (-1, 96, 2**31, 2**63, None):
        (tmp_path / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": start}))
        with fastlm.load(tmp_path) as model, pytest.raises(FastlmError, match="decoder_start_token_id"):
            model.generate([1] * rows)


def test_a_decoder_that_looks_ahead() -> None:
    """Its logits would depend on how a prompt is cut."""
    spec = llama_spec(32, 1, 2, 2, 64, 40, tied=True)
    assert spec.decoder is not None
    (layer,) = spec.decoder.layers
    attention, *others = layer.sublayers
    mixer = replace(attention.mixer, causal=False)
    layers = (replace(layer, sublayers=(replace(attention, mixer=mixer), *others)),)
    ahead = replace(spec, decoder=replace(spec.decoder, layers=layers))
    with pytest.raises(ModelFormatError, match="causal must be set in a decoder"):
        _core.Model.create(_core.Context(1), encode(ahead), format="float32")


# Configs of some hundred bytes whose models would be huge.
HUGE: dict[str, Json] = {
    "llama": {"num_hidden_layers": 16384, "hidden_size": 4096, "num_attention_heads": 1, "head_dim": 4096},
    "gemma3_text": {"num_hidden_layers": 16384, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4096},
    "bloom": {"n_layer": 16384, "n_head": 16384, "hidden_size": 16384},
    "mixtral": {"num_hidden_layers": 16384, "num_local_experts": 4096},
    "t5": {"num_layers": 16384, "num_heads": 16384, "d_kv": 1, "relative_attention_max_distance": 65536},
}


@pytest.mark.parametrize("family", HUGE)
@pytest.mark.parametrize("form", ["folder", "flm"])
def test_small_files_that_ask_for_much(family: str, form: str, tmp_path: Path) -> None:
    """What is refused costs what the files hold, not what they ask for."""
    config = json.dumps({"model_type": family, "vocab_size": 32, **HUGE[family]}).encode()
    path = tmp_path
    if form == "folder":
        (path / "config.json").write_bytes(config)
        (path / WEIGHTS).write_bytes(pack({}))
    else:
        path = tmp_path / "model.flm"
        tensor = ("embed.tokens", 32, 16, True, "float32", memoryview(bytes(4 * 32 * 16)))
        spec = encode(registry.read({"model_type": "llama"}).spec)
        container.write(path, spec=spec[:200], tensors=[tensor], extras={"config.json": config})
    with refused(ModelFormatError):
        fastlm.load(path)
