"""torch models: made, loaded, run and written as Hugging Face folders."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlm._core import usable_cores
from fastlm.arch import registry
from fastlm.errors import ParameterError, UnsupportedError
from fastlm.train.extra import need
from fastlm.train.recipe import Recipe, Shape
from fastlm.weights.folder import CheckpointFolder
from fastlm.weights.locate import locate

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.95}  # of what is trained here


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the products run, and in what."""

    device: str
    bfloat16: bool
    threads: int

    @contextlib.contextmanager
    def products(self) -> Iterator[None]:
        """Matrix products in the block take bfloat16 operands where that is wanted; weights and sums stay float32."""
        import torch

        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            yield


def machine(recipe: Recipe) -> Machine:
    """What `device` and `precision` mean here."""
    torch = need("torch")
    threads = recipe.threads or usable_cores()
    torch.set_num_threads(threads)
    has_cuda = bool(torch.cuda.is_available())
    device = ("cuda" if has_cuda else "cpu") if recipe.device == "auto" else recipe.device
    if device not in ("cpu", "cuda"):
        raise ParameterError(f"device must be auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not has_cuda:
        raise ParameterError("device: this torch sees no CUDA device; leave --device out to train on the CPU")
    if recipe.precision != "auto":
        return Machine(device, recipe.precision == "bfloat16", threads)
    if device == "cuda":
        return Machine(device, bool(torch.cuda.is_bf16_supported()), threads)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return Machine(device, bool(probe is not None and probe()), threads)


def seed_step(seed: int, step: int) -> None:
    """Every random draw of a step follows from the seed and its number: there is no generator state to keep."""
    import torch

    # mixed first: torch's generator takes 32 bits of a seed
    torch.manual_seed(int(np.random.SeedSequence([seed, step + 1]).generate_state(1)[0]))


def create_llama(shape: Shape, vocab: int, start: int, end: int) -> Any:
    """A LlamaForCausalLM with fresh weights."""
    transformers = need("transformers")
    heads, kv_heads = shape.head_counts
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config)


def decoder_at(path: str | os.PathLike[str], role: str) -> CheckpointFolder:
    """Where a checkpoint is that is a decoder.

    Raises
    ------
    UnsupportedError
        It is another kind of model; the text names it by its role ("teacher").
    """
    location = locate(path)
    if not isinstance(location, CheckpointFolder):
        raise UnsupportedError(f"{path}: a .flm file cannot be trained: give the folder it was converted from")
    spec = registry.read(location.config(), location.path / "config.json").spec
    if spec.decoder is None or spec.encoder is not None:
        kind = "an encoder" if spec.decoder is None else "an encoder-decoder"
        raise UnsupportedError(f"{path}: is {kind}; the {role} must be a decoder, a model that writes text")
    return location


def load_decoder(folder: Path) -> Any:
    """The model of a checkpoint folder, in float32."""
    torch, transformers = need("torch"), need("transformers")
    with _no_bars():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def logits_of(model: Any, ids: Any) -> Any:
    """float32 (rows, T, vocab)."""
    return model(input_ids=ids, use_cache=False).logits.float()


def add_dropout(model: Any, share: float) -> None:
    """Drop a share of the embedding and of what each sublayer adds to the residual stream, while training."""
    from torch.nn.functional import dropout

    if share == 0:
        return
    last = ("o_proj", "down_proj", "c_proj", "dense_4h_to_h", "attention.dense", "fc2", "out_proj")
    embedding = model.get_input_embeddings()
    for name, module in model.named_modules():
        if module is embedding or name.endswith(last):
            module.register_forward_hook(lambda m, given, out: dropout(out, share, m.training))


def create_from(path: Path) -> Any:
    """A model with fresh weights by a config.json, or by that in a folder."""
    transformers = need("transformers")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    return transformers.AutoModelForCausalLM.from_config(config)


def context_of(model: Any) -> int:
    """The longest sequence that a model was made for."""
    return int(getattr(model.config, "max_position_embeddings", None) or 2048)


def count(model: Any) -> int:
    """Number of weights, shared ones once."""
    return sum(weight.numel() for weight in model.parameters())


def save_model(model: Any, folder: Path) -> None:
    """config.json, generation_config.json and model.safetensors.

    A model whose settings say nothing of sampling gets some: small ones repeat themselves when they are greedy.
    """
    if model.generation_config.do_sample is None:
        model.generation_config.update(**SAMPLING)
    with _no_bars():
        model.save_pretrained(folder)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws no bars of its own in the block."""
    logging = need("transformers").logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
