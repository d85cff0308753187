"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions begin behind the padding token's."""

from functools import partial

from fastlm.arch import bert, post_norm
from fastlm.arch.config import MAX_VOCAB, Config
from fastlm.arch.family import Family, Take
from fastlm.arch.heads import Heads, answers, labels, pooled_labels, with_head, words
from fastlm.arch.skeleton import Shape, after_padding, grouped, layer_norm, read_shape
from fastlm.arch.spec import Activation, Embed, Norm

DEFAULT = Shape(vocab=50265, hidden=768, width=3072, layers=12, heads=12, context=512)
RENAMES = ((r"^roberta\.", ""), *post_norm.RENAMES)


def read(config: Config) -> Family:
    post_norm.check(config)
    first = config.count("pad_token_id", 1, MAX_VOCAB, least=0) + 1
    shape = after_padding(config, read_shape(config, DEFAULT), first - 1)
    norm = layer_norm(config, "layer_norm_eps", 1e-12)
    types = config.count("type_vocab_size", 2, MAX_VOCAB)
    embed = Embed(positions=shape.context, types=types)
    spec = post_norm.encoder(shape, norm, grouped(shape, bias=True), post_norm.feed_forward(config, shape), embed)
    positions = Take("embeddings.position_embeddings", start=first, of=first + shape.context)
    weights = {**bert.WEIGHTS, "encoder.embed.positions": positions}
    family = Family("roberta", spec, weights, RENAMES, post_norm.UNUSED)
    return with_head(family, config, heads(config, shape, norm))


def heads(config: Config, shape: Shape, norm: Norm) -> Heads:
    """The first token's hidden state goes through a dense step of the classifier; there is no pooler."""
    modules = "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head"
    first = partial(pooled_labels, config, shape.hidden, Activation.TANH, "classifier.dense", "classifier.out_proj")
    return {
        "SequenceClassification": first,
        "TokenClassification": lambda: labels(config),
        "QuestionAnswering": answers,
        "MaskedLM": lambda: words(shape.hidden, Activation.GELU, norm, *modules),
    }
