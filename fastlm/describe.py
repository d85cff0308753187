"""What a loaded model is made of, for `fastlm info`."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fastlm.arch.spec import Attention, FeedForward, Layer, Mixer, MixtureOfExperts, Norm, Rope, Stack
from fastlm.arguments import shown
from fastlm.generation_config import not_honoured
from fastlm.weights.adapter import AdapterFolder

if TYPE_CHECKING:
    from fastlm.model import Model

PARTS = (
    ("embedding", ("embed.",)),
    ("attention", (".q", ".k", ".v", ".o", ".q_norm", ".k_norm")),
    ("experts", (".router", ".experts.")),
    ("feed-forward", (".gate", ".up", ".down")),
    ("head", ("head.",)),
)


def _part(name: str) -> str:
    """Which part of the model a weight slot belongs to."""
    if name.startswith("head."):
        return "head"
    if "embed" in name.split("."):
        return "embedding"
    stem = "." + name.split(".", 3)[-1]
    for part, marks in PARTS[1:4]:
        if any(stem == mark or stem.startswith(mark + ".") or (mark.endswith(".") and mark in stem) for mark in marks):
            return part
    return "norms"


def _mixer(m: Mixer) -> str:
    if isinstance(m, Attention):
        groups = f"/{m.kv_heads}" if m.kv_heads != m.heads else ""
        text = f"{'cross-' if m.source else ''}attention {m.heads}{groups} heads x {m.head_dim}"
        extras = [f"window {m.window}"] if m.window else []
        extras += [f"softcap {m.softcap:g}"] if m.softcap else []
        extras += ["q/k norm"] if m.q_norm else []
        extras += [f"rope {2 * len(m.rope.frequencies)}"] if isinstance(m.rope, Rope) else []
        extras += ["alibi"] if m.alibi else []
        extras += ["relative bias"] if m.relative_bias else []
        extras += [f"relative vectors {2 * m.vectors.span}"] if m.vectors else []
        return ", ".join([text, *extras])
    kind = m.activation.name.lower()
    if isinstance(m, MixtureOfExperts):
        return f"{m.active} of {m.experts} experts, {m.width} wide, {kind}"
    assert isinstance(m, FeedForward)
    return f"{'gated ' if m.gated else ''}feed-forward {m.width} wide, {kind}"


def _layer(layer: Layer) -> str:
    join = " || " if layer.parallel else " + "
    return join.join(_mixer(s.mixer) for s in layer.sublayers) or "a table alone"


def _norms(stack: Stack) -> str:
    kinds = {
        value.kind.name.lower()
        for layer in stack.layers
        for s in layer.sublayers
        for f in fields(s)
        if isinstance(value := getattr(s, f.name), Norm)
    }
    return ", ".join(sorted(kinds)) or "none"


def describe(model: Model) -> dict[str, Any]:
    """Spec, parameters and memory of a model, as plain values."""
    core, info = model.engine.core, model.engine.info
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for t in core.tensors():
        counts[_part(t.name)] += t.rows * t.cols
        sizes[_part(t.name)] += t.bytes
    stacks = {}
    for name, stack in (("encoder", model.spec.encoder), ("decoder", model.spec.decoder)):
        if stack is not None:
            layers = Counter(_layer(stack.layers[x.repeats - 1] if x.repeats else x) for x in stack.layers)
            stacks[name] = {"layers": dict(layers), "norms": _norms(stack)}
    return {
        "kind": model.kind,
        "model_type": model.config.get("model_type"),
        "tasks": list(model.tasks),
        "parameters": info["parameters"],
        "hidden": model.spec.hidden,
        "vocabulary": model.vocab,
        "context": model.context,
        "tied_head": model.spec.tied,
        "tokenizer": model.tokenizer is not None,
        "stacks": stacks,
        "dtype": info["format"],
        "kv_dtype": info["kv_dtype"],
        "threads": model.threads,
        "isa": model.engine.context.isa,
        "parts": {part: {"parameters": counts[part], "bytes": sizes[part]} for part in counts},
        "memory": model.memory(),
        "not_honoured": not_honoured(model.engine.defaults, model.kind),
    }


def plan(model: Model) -> str:
    """The operations that a step runs, one line each."""
    return model.engine.core.plan()


def summary(d: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{d['model_type']} ({d['kind']}), {d['parameters']:,} parameters",
        f"  hidden {d['hidden']}, vocabulary {d['vocabulary']:,}{', tied head' if d['tied_head'] else ''}, "
        f"context {d['context']:,} tokens; it can {', '.join(d['tasks'])}",
    ]
    for name, stack in d["stacks"].items():
        lines += [f"  {name}: {n} x ({layer}), norms: {stack['norms']}" for layer, n in stack["layers"].items()]
    lines.append(f"  matrices {d['dtype']}, keys and values {d['kv_dtype']}, {d['threads']} thread(s), {d['isa']}")
    if not d["tokenizer"]:
        lines.append("  no tokenizer: it takes and gives token ids, not text")
    if d["not_honoured"]:
        ignored = ", ".join(f"{name} {shown(value)}" for name, value in d["not_honoured"].items())
        lines.append(f"  of generation_config.json, not honoured: {ignored}")
    lines.append("")
    lines.append(f"  {'part':<14}{'parameters':>16}{'memory':>14}")
    for part, p in sorted(d["parts"].items(), key=lambda item: -item[1]["bytes"]):
        lines.append(f"  {part:<14}{p['parameters']:>16,}{p['bytes'] / 1e6:>11.2f} MB")
    memory = d["memory"]
    lines.append(f"  {'steps':<14}{'':>16}{memory['scratch_bytes'] / 1e6:>11.2f} MB")
    per_token = memory["kv_bytes_per_token"]
    lines.append(f"  keys and values: {per_token:,} bytes per token, at most {memory['kv_bytes'] / 1e6:,.0f} MB")
    return "\n".join(lines)


def describe_adapter(adapter: AdapterFolder) -> dict[str, Any]:
    """What an adapter was trained on, and how large it is, as plain values."""
    ranks = Counter(adapter.options.rank_of(m.name) for m in adapter.modules if {"a", "embedding_a"} & set(m.parts))
    kinds = Counter(m.name.rpartition(".")[2] for m in adapter.modules)
    return {
        "kind": "adapter",
        "base": adapter.options.base,
        "dora": adapter.options.dora,
        "ranks": dict(sorted(ranks.items())),
        "modules": dict(sorted(kinds.items())),
        "parameters": adapter.parameters,
    }


def summary_of_adapter(d: dict[str, Any]) -> str:
    """The same for people."""
    modules = ", ".join(f"{n} x {name}" for name, n in d["modules"].items())
    ranks = ", ".join(map(str, d["ranks"])) or "none"
    return "\n".join(
        [
            f"LoRA adapter{' (DoRA)' if d['dora'] else ''} of {d['base'] or 'a model that it does not name'}",
            f"  {d['parameters']:,} parameters, rank {ranks}",
            f"  modules: {modules}",
            "  to run it: fastlm generate --model MODEL --adapter FOLDER",
        ]
    )
