"""The weight slots that a spec asks for, in the order in which csrc/model/lay_out.c lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastlm.arch.spec import Attention, Dense, FeedForward, Logits, MixtureOfExperts, ModelSpec, Norm, NormSpan, Stack
from fastlm.errors import ModelFormatError

TABLES = ("relative_bias", ".relative_k", ".relative_q")  # float32 numbers in rows
MAX_SLOTS = 1 << 18  # as in csrc/model/slots.c; bounds what a hostile config can make us enumerate


@dataclass(frozen=True, slots=True)
class Slot:
    """A named weight of shape [rows, cols]: a matrix [out, in], or float32 numbers (a vector is [1, n])."""

    name: str
    rows: int
    cols: int
    is_matrix: bool

    @property
    def is_vector(self) -> bool:
        """Whether checkpoints store it with one dimension."""
        return not self.is_matrix and not self.name.endswith(TABLES)


def slots(spec: ModelSpec) -> Iterator[Slot]:
    """All slots of `spec`, one after the other; the names are listed in docs/adding-a-model.md."""
    for count, slot in enumerate(_slots(spec)):
        if count == MAX_SLOTS:
            raise ModelFormatError(f"the model asks for more than {MAX_SLOTS} tensors")
        yield slot


def _slots(spec: ModelSpec) -> Iterator[Slot]:
    yield Slot("embed.tokens", spec.vocab, spec.width or spec.hidden, True)
    yield from _stack("encoder", spec.encoder, spec)
    yield from _stack("decoder", spec.decoder, spec)
    width = spec.hidden
    for i, step in enumerate(spec.head):
        if isinstance(step, Dense):
            yield Slot(f"head.{i}", step.width, width, True)
            if step.bias:
                yield _vector(f"head.{i}.bias", step.width)
            width = step.width
        elif isinstance(step, Norm):
            yield from _norm(f"head.{i}", step, width)
        elif isinstance(step, Logits):
            outputs = step.outputs or spec.vocab
            if not step.tied:
                yield Slot("head.weight", outputs, width, True)
            if step.bias:
                yield _vector("head.bias", outputs)


def _embed(name: str, stack: Stack, spec: ModelSpec) -> Iterator[Slot]:
    e, hidden = stack.embed, spec.hidden
    width = spec.width if e.narrow else hidden
    if e.tokens:
        yield Slot(name + ".tokens", e.tokens, spec.width or hidden, True)
    if spec.width not in (0, hidden):
        yield Slot(name + ".project", hidden, spec.width, True)
    if e.narrow:
        yield _vector(name + ".project.bias", hidden)
    if e.positions:
        yield Slot(name + ".positions", e.positions, width, True)
    if e.types:
        yield Slot(name + ".types", e.types, width, True)
    yield from _norm(name + ".norm", e.norm, width)


def _stack(name: str, stack: Stack | None, spec: ModelSpec) -> Iterator[Slot]:
    if stack is None:
        return
    hidden = spec.hidden
    yield from _embed(name + ".embed", stack, spec)
    for i, layer in enumerate(stack.layers):
        for j, s in enumerate(layer.sublayers):
            prefix = f"{name}.{i}.{j}."
            yield from _norm(prefix + "pre_norm", s.pre_norm, hidden)
            if isinstance(s.mixer, Attention):
                yield from _attention(prefix, s.mixer, hidden)
            elif isinstance(s.mixer, FeedForward):
                yield from _feed_forward(prefix, s.mixer, hidden)
            else:
                yield from _experts(prefix, s.mixer, hidden)
            if stack.relative and stack.relative.by_layer and isinstance(s.mixer, Attention) and s.mixer.relative_bias:
                yield Slot(prefix + "relative_bias", stack.relative.heads, stack.relative.buckets, False)
            yield from _norm(prefix + "branch_norm", s.branch_norm, hidden)
            yield from _norm(prefix + "residual_norm", s.residual_norm, hidden)
    yield from _norm(name + ".norm", stack.norm, hidden)
    if stack.relative is not None and not stack.relative.by_layer:
        yield Slot(name + ".relative_bias", stack.relative.heads, stack.relative.buckets, False)


def _attention(prefix: str, a: Attention, hidden: int) -> Iterator[Slot]:
    wide, narrow = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield Slot(prefix + "q", wide, hidden, True)
    yield Slot(prefix + "k", narrow, hidden, True)
    yield Slot(prefix + "v", narrow, hidden, True)
    yield Slot(prefix + "o", hidden, wide, True)
    if a.qkv_bias:
        yield _vector(prefix + "q.bias", wide)
        yield _vector(prefix + "k.bias", narrow)
        yield _vector(prefix + "v.bias", narrow)
    if a.out_bias:
        yield _vector(prefix + "o.bias", hidden)
    whole = a.norm_span == NormSpan.PROJECTION
    yield from _norm(prefix + "q_norm", a.q_norm, wide if whole else a.head_dim)
    yield from _norm(prefix + "k_norm", a.k_norm, narrow if whole else a.head_dim)
    if a.vectors is not None and a.vectors.keys:
        yield Slot(prefix + "relative_k", wide, 2 * a.vectors.span, False)
    if a.vectors is not None and a.vectors.queries:
        yield Slot(prefix + "relative_q", wide, 2 * a.vectors.span, False)


def _feed_forward(prefix: str, f: FeedForward, hidden: int) -> Iterator[Slot]:
    if f.gated:
        yield Slot(prefix + "gate", f.width, hidden, True)
    yield Slot(prefix + "up", f.width, hidden, True)
    yield Slot(prefix + "down", hidden, f.width, True)
    if f.gated and f.bias:
        yield _vector(prefix + "gate.bias", f.width)
    if f.bias:
        yield _vector(prefix + "up.bias", f.width)
    if f.out_bias:
        yield _vector(prefix + "down.bias", hidden)


def _experts(prefix: str, m: MixtureOfExperts, hidden: int) -> Iterator[Slot]:
    yield Slot(prefix + "router", m.experts, hidden, True)
    for e in range(m.experts):
        yield Slot(f"{prefix}experts.{e}.gate", m.width, hidden, True)
        yield Slot(f"{prefix}experts.{e}.up", m.width, hidden, True)
        yield Slot(f"{prefix}experts.{e}.down", hidden, m.width, True)


def _norm(name: str, norm: Norm | None, n: int) -> Iterator[Slot]:
    if norm is not None and norm.weight:
        yield _vector(name + ".weight", n)
    if norm is not None and norm.bias:
        yield _vector(name + ".bias", n)


def _vector(name: str, n: int) -> Slot:
    return Slot(name, 1, n, False)
