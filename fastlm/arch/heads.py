"""Heads of tasks: the steps behind a stack, and where their weights are, by the class that wrote the checkpoint.

`architectures` of config.json names that class, such as RobertaForSequenceClassification. A family gives the heads of
its classes to `with_head`; what follows "For" says which of them it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fastlm.arch.config import Config
from fastlm.arch.family import Family, Rule
from fastlm.arch.head_tasks import ANSWER, CLASSIFY, FILL, TAG
from fastlm.arch.spec import Activate, Activation, Dense, HeadStep, Logits, Norm, Pool

SCORES = 2  # of an answer: its start and its end
POOLS = {"cls": Pool.FIRST, "mean": Pool.MEAN}  # by classifier_pooling


@dataclass(frozen=True, slots=True)
class Head:
    """What a class of checkpoints computes with hidden states.

    Attributes
    ----------
    task
        The method of Model that it is for.
    steps, pool
        Of the spec.
    weights
        Rules of the slots `head.*`.
    ignored
        Tensors of the class that belong to no task here.
    """

    task: str
    steps: tuple[HeadStep, ...]
    weights: Mapping[str, Rule]
    pool: Pool = Pool.NONE
    ignored: tuple[str, ...] = ()


Heads = Mapping[str, Callable[[], Head]]  # by the end of the class name


def with_head(family: Family, config: Config, heads: Heads) -> Family:
    """The family with the head of the checkpoint's class; without one, where the class is a bare model.

    Raises
    ------
    UnsupportedError
        The class has a head that is not among these.
    """
    name = config.architecture
    kind = re.search(r"For(\w+)$", name)
    if kind is None:
        return family
    if kind[1] not in heads:
        raise config.unsupported("architectures", name, "known: " + ", ".join(f"...For{known}" for known in heads))
    return _joined(family, heads[kind[1]]())


def _joined(family: Family, head: Head) -> Family:
    spec = replace(family.spec, head=head.steps, pool=head.pool)
    weights, ignored = {**family.weights, **head.weights}, family.ignored + head.ignored
    encodes = family.spec.kind == "encoder"  # sentence-transformers saves it bare, under the name of its class
    return replace(family, spec=spec, weights=weights, ignored=ignored, task=head.task, bare_when_missing=encodes)


def words(width: int, activation: Activation, norm: Norm, dense: str, normed: str, *last: str) -> Head:
    """A masked-language head: dense, activation, norm, then the token table and a bias.

    dense, normed, last: the modules of each; of several last ones some hold the bias, or a copy of the table.
    """
    steps = (Dense(width, bias=True), Activate(activation), norm, Logits(tied=True, bias=True))
    return Head(FILL, steps, {"head.0": dense, "head.2": normed, "head": last})


def labels(config: Config, module: str = "classifier") -> Head:
    """A number for each label of each token."""
    logits = Logits(tied=False, outputs=config.n_labels(), bias=True)
    return Head(TAG, (logits,), {"head": module})


def pooled_labels(config: Config, width: int, activation: Activation, dense: str, module: str) -> Head:
    """A number for each label of the sequence: its first token's hidden state through a dense step."""
    logits = Logits(tied=False, outputs=config.n_labels(), bias=True)
    steps = (Dense(width, bias=True), Activate(activation), logits)
    return Head(CLASSIFY, steps, {"head.0": dense, "head": module}, Pool.FIRST)


def last_labels(config: Config) -> Head:
    """A number for each label of the sequence: of its last token's hidden state."""
    return Head(CLASSIFY, (Logits(tied=False, outputs=config.n_labels()),), {"head": "score"}, Pool.LAST)


def normed_heads(config: Config, width: int, norm: Norm) -> Heads:
    """ModernBERT's: all of them begin with a dense step, an activation and a norm."""
    dense = Dense(width, bias=config.flag("classifier_bias", False))
    before = (dense, Activate(config.activation("classifier_activation", "gelu")), norm)
    decoder = Logits(tied=True, bias=config.flag("decoder_bias", True))
    pooling = config.text("classifier_pooling", "cls")
    if pooling not in POOLS:
        raise config.unsupported("classifier_pooling", pooling, "known: " + ", ".join(POOLS))

    def head(task: str, logits: Logits, module: str, pool: Pool = Pool.NONE) -> Head:
        return Head(task, (*before, logits), {"head.0": "head.dense", "head.2": "head.norm", "head": module}, pool)

    def labelled(task: str, outputs: int, pool: Pool = Pool.NONE) -> Head:
        return head(task, Logits(tied=False, outputs=outputs, bias=True), "classifier", pool)

    return {
        "SequenceClassification": lambda: labelled(CLASSIFY, config.n_labels(), POOLS[pooling]),
        "TokenClassification": lambda: labelled(TAG, config.n_labels()),
        "QuestionAnswering": lambda: labelled(ANSWER, SCORES),
        "MaskedLM": lambda: head(FILL, decoder, "decoder"),
    }


def answers(module: str = "qa_outputs") -> Head:
    """Two numbers for each token: how well an answer begins there, and ends."""
    return Head(ANSWER, (Logits(tied=False, outputs=SCORES, bias=True),), {"head": module})


def of_decoder(family: Family, config: Config) -> Family:
    """A decoder whose class scores a text by its last token instead of writing on, or has no head."""
    name = config.architecture
    if family.spec.kind != "decoder":
        return family
    if not name.endswith("ForSequenceClassification"):
        return replace(family, bare_when_missing=name.endswith("Model") and "Head" not in name)
    return _joined(family, last_labels(config))
