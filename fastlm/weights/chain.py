"""The modules behind a model, put together: what is made of hidden states, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.spec import ModelSpec
from fastlm.errors import ModelFormatError, UnsupportedError
from fastlm.weights.late import Mask, read_mask
from fastlm.weights.modules import (
    MEAN,
    STATIC,
    TOKENS,
    VECTOR,
    Module,
    Normalize,
    Pooling,
    Step,
    config_of,
    read_dense,
    read_layer_norm,
    read_pooling,
)
from fastlm.weights.source import MODULES, ModelSource

_MODELS = ("Transformer", "MLMTransformer", STATIC)
_WITHOUT_EFFECT = ("Dropout",)


@dataclass(frozen=True, slots=True)
class Splade:
    """log(1 + relu) of the logits of words, over all tokens (Formal et al. 2021).

    Attributes
    ----------
    adds
        Whether the tokens' values are added; else the largest counts.
    twice
        Whether the logarithm is taken twice.
    """

    adds: bool = False
    twice: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """How relevant a document is: the logit of one token behind the last one, less that of another."""

    true: int
    false: int | None


class Chain:
    """The modules of a folder, one after another.

    Attributes
    ----------
    pooling, sparse, score
        How one thing is made of all tokens: one of the three at most.
    token_steps, steps
        What comes before it, for each token, and behind it.
    mask
        Which tokens have vectors; None: no module says so.
    late
        Whether vectors of tokens are all that the folder makes.
    """

    def __init__(self, source: ModelSource, modules: tuple[Module, ...], spec: ModelSpec) -> None:
        self.pooling: Pooling | None = None
        self.sparse: Splade | None = None
        self.score: Score | None = None
        self.mask: Mask | None = None
        self.token_steps: list[Step] = []
        self.steps: list[Step] = []
        self._source, self._spec, self._width = source, spec, spec.hidden
        kinds = [module.kind for module in modules]
        if kinds[0] not in _MODELS:
            raise self._refused(f"{kinds[0]!r:.60} as the first module", "known: " + ", ".join(_MODELS))
        if kinds[0] == STATIC:
            self.pooling = MEAN
        self.late = len(kinds) > 1 and not {"Pooling", "SpladePooling", "LogitScore", STATIC} & set(kinds)
        for module in modules[1:]:
            self._add(module)
        if self.mask is not None and not self.late:
            raise self._refused("MultiVectorMask beside a pooling")

    def _add(self, module: Module) -> None:
        kind = module.kind
        if kind == "MultiVectorMask":
            self.mask = read_mask(config_of(self._source, module))
        elif kind in ("Dense", "LayerNorm", "Normalize"):
            self._add_step(module)
        elif kind in ("Pooling", "SpladePooling", "LogitScore"):
            if self.pooling or self.sparse or self.score:
                raise self._refused(f"{kind} as the second module that puts tokens together")
            self._add_end(module)
        elif kind not in _WITHOUT_EFFECT:
            raise self._refused(f"the module {kind!r:.60}")

    def _refused(self, what: str, hint: str = "") -> UnsupportedError:
        return UnsupportedError(f"{self._source.describe(MODULES)}: {what} is not supported{hint and f' ({hint})'}")

    def _add_end(self, module: Module) -> None:
        if module.kind == "Pooling":
            self.pooling = read_pooling(self._source, module, self._width)
            self._width *= len(self.pooling.modes)
        elif module.kind == "SpladePooling":
            self.sparse = _splade(config_of(self._source, module))
        else:
            if self._spec.kind != "decoder" or self._spec.logits is None or self._spec.logits.outputs:
                raise self._refused("LogitScore behind a model that writes no words")
            self.score = _score(config_of(self._source, module), self._spec.vocab)

    def _add_step(self, module: Module) -> None:
        config = config_of(self._source, module, needed=module.kind != "Normalize")
        reads = config.text("module_input_name", TOKENS if self.late else VECTOR)
        writes = config.text_or_none("module_output_name") or reads
        if reads not in (TOKENS, VECTOR) or writes != reads:
            raise config.unsupported("module_output_name", writes, f"it reads {reads}")
        behind = self.pooling is not None
        if behind != (reads == VECTOR):
            raise config.unsupported(
                "module_input_name", reads, "it stands " + ("behind" if behind else "before") + " the pooling"
            )
        step: Step = Normalize()
        if module.kind == "Normalize":
            config.finish()
        elif module.kind == "Dense":
            step = read_dense(self._source, module, self._width)
            self._width = len(step.weight)
        else:
            step = read_layer_norm(self._source, module, self._width)
        (self.steps if behind else self.token_steps).append(step)


def _splade(config: Config) -> Splade:
    strategy, activation = config.text("pooling_strategy", "max"), config.text("activation_function", "relu")
    if strategy not in ("max", "sum"):
        raise config.unsupported("pooling_strategy", strategy, "known: max, sum")
    if activation not in ("relu", "log1p_relu"):
        raise config.unsupported("activation_function", activation, "known: relu, log1p_relu")
    config.ignore("embedding_dimension", "word_embedding_dimension", "chunk_size")
    config.finish()
    return Splade(strategy == "sum", activation == "log1p_relu")


def _score(config: Config, vocab: int) -> Score:
    if not config.has("true_token_id"):
        raise ModelFormatError(f"{config.where}: true_token_id: is missing")
    most = min(vocab, MAX_VOCAB) - 1
    true, false = (config.count_or_none(key, None, most, 0) for key in ("true_token_id", "false_token_id"))
    config.only("module_input_name", "causal_logits")
    config.finish()
    return Score(true or 0, false)
