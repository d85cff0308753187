"""The tokenizer of a model, from whichever files it has."""

from __future__ import annotations

from dataclasses import replace

from fastlm.tokenizer.classes import read_named, recipe_called, recipe_of
from fastlm.tokenizer.description import Description, read_description
from fastlm.tokenizer.files import BPE_FILES, UNREAD, WHOLE
from fastlm.tokenizer.finish import finished
from fastlm.tokenizer.settings import Settings, read_settings
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource


def load_tokenizer(model: ModelSource) -> Tokenizer | None:
    """The tokenizer of a model, from tokenizer.json or the files of older classes; None: it has none that is read.

    Raises
    ------
    ModelFormatError
        A file is malformed.
    """
    data = model.read(WHOLE)
    if data is None:
        from fastlm.tokenizer.older import from_vocabulary

        return from_vocabulary(model, read_settings(model, {}))
    where = model.describe(WHOLE)
    file, numbered = read_description(data, where)
    settings = read_settings(model, numbered)
    named = read_named(model, settings)
    recipe = recipe_of(named, file.stages)
    padding = {"pad_token": file.pad} if file.pad else {}
    if recipe is None or recipe.kind != file.subwords.kind:
        settings = settings.with_defaults(padding)
        made = _as_written(file, settings)
        if (known := recipe_called(named.meant)) is not None:
            from fastlm.tokenizer.building import with_languages

            made = with_languages(made, known.languages, settings)
        return finished(model, made, settings, where)
    from fastlm.tokenizer.building import build_class

    settings = settings.with_defaults({**padding, **recipe.defaults})
    return finished(model, build_class(recipe, file, file.subwords, settings), settings, where)


def _as_written(file: Description, settings: Settings) -> Description:
    """The tokenizer of a tokenizer.json, with the tokens that the files beside it name."""
    tokens = (*file.tokens, *settings.tokens_to_add(file.tokens))
    return replace(file, tokens=tokens, splits_special=settings.flag("split_special_tokens", False))


def missing_tokenizer(model: ModelSource) -> str:
    """Why a model has no tokenizer, for an error text."""
    name = next((name for name in UNREAD if model.read(name) is not None), None)
    if name is None and model.read(BPE_FILES[0]) is not None:
        return f"{model.describe(BPE_FILES[0])}: a tokenizer of this kind is not read"
    if name is None:
        return f"this model has no tokenizer ({WHOLE} is missing)"
    return (
        f"{model.describe(name)}: a tokenizer of this kind is not read yet; write {WHOLE} beside it once, with "
        "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )
