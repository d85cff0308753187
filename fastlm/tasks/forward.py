"""Looking inside: one forward pass with logits, hidden states and attentions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fastlm import _core
from fastlm.arch.spec import Attention, ModelSpec, Pool, Source, Stack
from fastlm.arguments import items, shown, whole
from fastlm.engine import Engine
from fastlm.errors import ContextLengthError, ParameterError, memory_for
from fastlm.tokenizer.prompts import Prompt

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives; what was not asked for (or does not exist) is None.

    Attributes
    ----------
    logits
        float32: (T, V) of a decoder or of a masked-language head, or (1, V) for the last token alone; (1, labels) of a
        head for sequences, (T, labels) of one for tokens, (T, 2) of start and end for question answering. None without
        a head.
    hidden
        float32 (T, D), after the final norm.
    attentions
        Per layer, float32 (heads, T, S): the softmax of each token over the S tokens of the sequence. Layers may differ
        in their number of heads.
    hidden_states
        layers + 1 arrays of float32 (T, D): the embedding, then each layer's output, the last after the final norm.
    encoder_attentions, cross_attentions
        Of an encoder-decoder, per layer: (heads, S, S) of its encoder over a source of S tokens, and (heads, T, S) of
        its decoder over that source. `attentions` are the decoder's over itself, (heads, T, T).
    """

    logits: Array | None
    hidden: Array
    attentions: list[Array] | None = None
    hidden_states: list[Array] | None = None
    encoder_attentions: list[Array] | None = None
    cross_attentions: list[Array] | None = None

    def __repr__(self) -> str:
        """The shapes: the values would fill screens."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"Outputs({', '.join(f'{name}={_shape(value)}' for name, value in found if value is not None)})"


def _shape(value: Array | list[Array]) -> str:
    return str(value.shape) if isinstance(value, np.ndarray) else f"{len(value)} x {value[0].shape}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks of a forward pass."""

    logits: str
    attentions: bool
    hidden_states: bool


def run_forward(
    engine: Engine,
    ids: Iterable[int],
    decoder_ids: Iterable[int] | None,
    token_types: Iterable[int] | None,
    wanted: Wanted,
) -> Outputs:
    """One sequence through the model; see `Model.forward`."""
    spec, prompts = engine.spec, engine.prompts
    tokens = prompts.check(ids, "ids")
    if decoder_ids is None and spec.kind == "encoder-decoder" and engine.task:
        decoder_ids = [engine.decoder_start, *tokens[:-1]]  # a class that reads the source with both stacks
    session, encoded = engine.session(), None
    if spec.kind == "encoder-decoder":
        if decoder_ids is None:
            raise ParameterError("decoder_ids: an encoder-decoder needs them")
        if wanted.attentions:
            encoded = probabilities(heads(spec.encoder), len(tokens), len(tokens))
        session.encode(np.array(tokens, np.int32), attentions=encoded)
        tokens = prompts.check(decoder_ids, "decoder_ids", vocab=spec.vocab)
    elif decoder_ids is not None:
        raise ParameterError(f"decoder_ids: only an encoder-decoder has them; this model's kind is {spec.kind}")
    if not tokens:
        raise ParameterError("ids are empty")
    if len(tokens) > engine.longest:
        raise ContextLengthError(f"{len(tokens)} tokens are more than the context of {engine.longest}")
    types = None if token_types is None else _types(token_types, len(tokens), spec)
    with memory_for(f"the outputs of {len(tokens)} tokens"):
        item = _item(session, tokens, spec, wanted, types)
    _core.forward(engine.core, [item])
    assert item.hidden is not None
    logits = item.logits
    if logits is not None and spec.pool is Pool.LATE:
        logits = logits.mean(axis=0, keepdims=True)
    return Outputs(
        logits=logits,
        hidden=item.hidden,
        attentions=by_layer(item.attentions, heads(spec.main)),
        hidden_states=None if item.hidden_states is None else list(item.hidden_states),
        encoder_attentions=by_layer(encoded, heads(spec.encoder)),
        cross_attentions=by_layer(item.cross_attentions, heads(spec.main, Source.ENCODER)),
    )


def heads(stack: Stack | None, source: Source = Source.SELF) -> list[int]:
    """Of each layer: heads of self-attention or of cross-attention."""
    if stack is None:
        return []
    own = [
        sum(s.mixer.heads for s in layer.sublayers if isinstance(s.mixer, Attention) and s.mixer.source is source)
        for layer in stack.layers
    ]
    return [own[layer.repeats - 1] if layer.repeats else own[i] for i, layer in enumerate(stack.layers)]


def probabilities(counts: Sequence[int], tokens: int, keys: int) -> Array | None:
    """Room for the attentions of all layers: float32 (heads, tokens, keys); None where there are no heads."""
    with memory_for(f"the attentions of {tokens} tokens"):
        return np.zeros((sum(counts), tokens, keys), np.float32) if sum(counts) and tokens else None


def by_layer(found: Array | None, counts: Sequence[int]) -> list[Array] | None:
    """What `probabilities` made room for, per layer."""
    return None if found is None else np.split(found, np.cumsum(counts)[:-1])


def head_rows(spec: ModelSpec, wanted: str = "all") -> str:
    """What the head reads, as the core calls it; `wanted` counts where it reads every token's hidden state."""
    pooled = {Pool.FIRST: "first", Pool.LAST: "last", Pool.MEAN: "mean", Pool.LATE: "all"}
    return pooled.get(spec.pool, wanted)


def _types(values: Iterable[int], count: int, spec: ModelSpec) -> list[int]:
    """Checked token types."""
    name, last = "token_type_ids", max(1, spec.main.embed.types) - 1
    types = [whole(value, f"{name}: a token type", 0, last) for value in items(values, name, "a list of token types")]
    if len(types) != count:
        raise ParameterError(f"{name}: {len(types)} of them for {count} tokens")
    return types


def _item(
    session: _core.Session, tokens: list[int], spec: ModelSpec, wanted: Wanted, types: list[int] | None
) -> _core.Item:
    """Arrays for what is wanted."""
    if wanted.logits not in ("all", "last"):
        raise ParameterError(f"logits must be 'all' or 'last', not {shown(wanted.logits)}")
    n, width, layers = len(tokens), spec.hidden, len(spec.main.layers)
    rows = head_rows(spec, wanted.logits) if spec.head else "none"
    own, cross = (heads(spec.main, source) if wanted.attentions else [] for source in Source)
    return _core.Item(
        session,
        np.array(tokens, np.int32),
        rows=rows,
        logits=np.empty((n if rows == "all" else 1, spec.outputs), np.float32) if spec.head else None,
        types=None if types is None else np.array(types, np.int32),
        hidden=np.empty((n, width), np.float32),
        hidden_states=np.empty((layers + 1, n, width), np.float32) if wanted.hidden_states else None,
        attentions=probabilities(own, n, n),
        cross_attentions=probabilities(cross, n, session.source),
    )


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def next_tokens(engine: Engine, prompt: Prompt, k: int) -> list[tuple[int, str, float]]:
    """See `Model.next_tokens`."""
    k = whole(k, "k", 1, engine.vocab)
    if not engine.writes or engine.kind != "decoder":
        raise engine.refusal("next_tokens: this model is no decoder that writes")
    outputs = run_forward(engine, engine.prompts.ids(prompt), None, None, Wanted("last", False, False))
    assert outputs.logits is not None
    p = softmax(outputs.logits[-1].astype(np.float64))
    best = np.argsort(-p, kind="stable")[:k]
    piece = engine.tokenizer.piece if engine.tokenizer else lambda token: ""
    return [(int(i), piece(int(i)), float(p[i])) for i in best]
