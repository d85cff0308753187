"""What a sentence-transformers folder says of texts: how they are read, and what is made of hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastlm.arch.config import MAX_CONTEXT, MAX_WIDTH, Config
from fastlm.arch.spec import ModelSpec
from fastlm.weights.chain import Chain, Score, Splade
from fastlm.weights.late import DOCUMENT, QUERY, Late, read_late
from fastlm.weights.modules import ACTIVATIONS, MEAN, STATIC, Normalize, Pooling, Step, read_modules
from fastlm.weights.source import MODULES, ModelSource

_WITHOUT_EFFECT = {"padding", "return_tensors"}  # on one text without padding
SETTINGS, LIMITS = "config_sentence_transformers.json", "sentence_bert_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """What a folder says.

    Attributes
    ----------
    pooling
        How one vector is made of all tokens' hidden states.
    token_steps
        What is made of each hidden state before.
    steps
        What is made of the vector behind it.
    normalize
        Whether vectors then have length 1.
    dimensions
        How many numbers of them count; None: all.
    sparse, late, score
        How weights of words, vectors of tokens, and the score of a document are made, if they are.
    activation
        Of a cross-encoder's logits, a name of ACTIVATIONS; "": the sigmoid of one label.
    special
        Whether texts are read with the tokenizer's special tokens.
    longest
        Tokens after which the model's makers cut texts off; 0: they do not say.
    prompts, default_prompt
        Beginnings of texts, by name, and which one is used unless another is asked for.
    template
        What the chat template of a reranker gets.
    parts
        Whether it reads contents as lists of parts; None: the folder does not say.
    """

    pooling: Pooling = MEAN
    token_steps: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    normalize: bool = True
    dimensions: int | None = None
    sparse: Splade | None = None
    late: Late | None = None
    score: Score | None = None
    activation: str = ""
    special: bool = True
    longest: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    template: Mapping[str, object] = field(default_factory=dict)
    parts: bool | None = None


def read_sentences(source: ModelSource, spec: ModelSpec) -> Sentences:
    """The folder's; where it is no folder of sentence-transformers, the mean, normalised.

    Raises
    ------
    ModelFormatError
        A file is malformed, or does not fit the model.
    UnsupportedError
        A module, or a setting of one, that this version does not compute.
    """
    modules = read_modules(source)
    settings, limits = (Config(source.read_json(name) or {}, source.describe(name)) for name in (SETTINGS, LIMITS))
    found = Sentences(activation=_activation(source, settings))
    if not modules:
        return _model2vec(found, source)
    _check_reading(source, limits)
    prompts = settings.section("prompts")
    found = replace(
        found,
        dimensions=settings.count_or_none("truncate_dim", None, MAX_WIDTH),
        special=modules[0].kind != STATIC,
        longest=_longest(source, limits),
        prompts={} if prompts is None else prompts.texts(),
        default_prompt=settings.text_or_none("default_prompt_name"),
        template=_inner(source, "processing_kwargs", "chat_template"),
        parts={"structured": True, "flat": False}.get(str(_inner(source, "modality_config", "message").get("format"))),
    )
    chain = Chain(source, modules, spec)
    if chain.late:
        return _late(found, chain, settings, limits)
    return _pooled(found, chain)


def _model2vec(found: Sentences, source: ModelSource) -> Sentences:
    """A folder that says it in config.json."""
    config = Config(source.config(), source.describe("config.json"))
    if config.text_or_none("model_type") != "model2vec":
        return found
    return replace(found, special=False, normalize=config.flag("normalize", False))


def sentence_files(source: ModelSource) -> tuple[str, ...]:
    """The names of the files that `read_sentences` reads."""
    return (MODULES, SETTINGS, LIMITS, *(name for module in read_modules(source) for name in module.files()))


def _pooled(found: Sentences, chain: Chain) -> Sentences:
    """The last norms are not steps: what is cut off vectors is cut off before."""
    steps = list(chain.steps)
    while steps and isinstance(steps[-1], Normalize):
        steps.pop()
    return replace(
        found,
        pooling=chain.pooling or MEAN,
        token_steps=tuple(chain.token_steps),
        steps=tuple(steps),
        normalize=chain.pooling is None or len(steps) < len(chain.steps),
        sparse=chain.sparse,
        score=chain.score,
    )


def _late(found: Sentences, chain: Chain, settings: Config, limits: Config) -> Sentences:
    late = read_late(settings, limits, chain.mask)
    prompts = {QUERY: "", DOCUMENT: "", **found.prompts}
    for kind, prefix in zip((QUERY, DOCUMENT), late.prefixes, strict=True):
        prompts[kind] = prefix + prompts[kind].removeprefix(prefix)
    steps = (*chain.token_steps, *((Normalize(),) if late.legacy else ()))
    return replace(found, token_steps=steps, late=late, prompts=prompts)


def _longest(source: ModelSource, limits: Config) -> int:
    """max_seq_length; without it, the tokenizer's own limit."""
    given = limits.count_or_none("max_seq_length", None, MAX_CONTEXT)
    own = (source.read_json("tokenizer_config.json") or {}).get("model_max_length")
    return given or (own if type(own) is int and 0 < own <= MAX_CONTEXT else 0)


def _check_reading(source: ModelSource, limits: Config) -> None:
    """Refuse what newer folders may say of how the model reads texts, and of which of its outputs counts."""
    output = _inner(source, "modality_config", "text").get("method_output_name")
    if output not in (None, "last_hidden_state", "logits"):
        raise limits.unsupported("modality_config", output, "known outputs: last_hidden_state, logits")
    for part in ("text", "common"):
        if other := set(_inner(source, "processing_kwargs", part)) - _WITHOUT_EFFECT:
            raise limits.unsupported("processing_kwargs", sorted(other), f"of {part}")


def _inner(source: ModelSource, *keys: str) -> Mapping[str, object]:
    """An object inside of others; an empty one where there is none."""
    found: object = source.read_json(LIMITS) or {}
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _activation(source: ModelSource, settings: Config) -> str:
    """Of a cross-encoder: where sentence-transformers 6, 4 and 3 write it, in this order."""
    config = Config(source.config(), source.describe("config.json"))
    own = config.section("sentence_transformers")
    places = ((settings, "activation_fn"), (own, "activation_fn"), (config, "sbert_ce_default_activation_function"))
    for place, key in places:
        value = place.text_or_none(key) if place else None
        if place is None or value is None:
            continue
        name = value.rpartition(".")[2]
        if not value.startswith("torch.nn.") or name not in ACTIVATIONS:
            raise place.unsupported(key, value, "known: torch.nn's " + ", ".join(ACTIVATIONS))
        return name
    return ""
