"""The last steps to a tokenizer, whatever its files: what settings and folders of sentence-transformers change."""

from __future__ import annotations

from dataclasses import replace

from fastlm.tokenizer.added import check_normalizing
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.sentences import adapted
from fastlm.tokenizer.settings import Settings
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource


def finished(model: ModelSource, made: Description, settings: Settings, where: str) -> Tokenizer:
    """The tokenizer of a description; `where` is the file that it is from."""
    tidies = settings.flag("clean_up_tokenization_spaces", False)
    forced = settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    if tidies and (made.subwords.kind != "BPE" or forced):
        from fastlm.tokenizer.streaming import CLEAN_UP

        made = replace(made, replacements=(*made.replacements, *CLEAN_UP))
    made = adapted(model, made)
    check_normalizing(made, where)
    return Tokenizer(made, settings, where)
