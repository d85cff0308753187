"""The tokenizer of a folder without tokenizer.json: from vocab.txt, vocab.json, or a SentencePiece model."""

from __future__ import annotations

import re
from dataclasses import replace

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.building import build_class, with_languages
from fastlm.tokenizer.byt5 import make_byt5
from fastlm.tokenizer.classes import read_named, recipe_of
from fastlm.tokenizer.files import BPE_FILES, MODEL_FILES
from fastlm.tokenizer.finish import finished
from fastlm.tokenizer.large_json import parse_large
from fastlm.tokenizer.recipes import RECIPES, Recipe
from fastlm.tokenizer.settings import Settings
from fastlm.tokenizer.spm import added_tokens, as_sentencepiece, charsmap_part
from fastlm.tokenizer.spm_file import BPE, SentencePiece, read_spm
from fastlm.tokenizer.subwords import Subwords, check_merges, checked_ids, merges_of_lines
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.tokenizer.translators import load_m2m100, load_marian
from fastlm.weights.source import ModelSource

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")  # the first line of another kind of files
TRANSLATORS = {"Marian": load_marian, "M2M100": load_m2m100}


def from_vocabulary(model: ModelSource, settings: Settings) -> Tokenizer | None:
    """The tokenizer, as its class makes it; None: there are no files that are read."""
    named = read_named(model, settings)
    name = named.meant
    if name == "ByT5":
        return make_byt5(settings)
    if name == "BlenderbotSmall":
        return None
    if name in TRANSLATORS:
        return TRANSLATORS[name](model, settings)
    recipe = recipe_of(named, None)
    if found := _sentencepiece(model, recipe):
        return _from_sentencepiece(model, recipe, settings, *found)
    if recipe is None or not _has(model, recipe):
        others = (RECIPES["GPT2"], RECIPES["Bert"])
        recipe = next((other for other in others if model.read(other.files[0]) is not None), None)
    if recipe is None:
        return None
    first, *_ = recipe.files
    data = model.read(first) or b""
    where = model.describe(first)
    if recipe.kind == "WordPiece":
        subwords = Subwords("WordPiece", _lines_to_ids(data, where), [], [], {})
    else:
        ids = checked_ids(parse_large(data, where), where)
        subwords = Subwords("BPE", ids, [], _merges(model, ids), {})
    settings = settings.with_defaults(recipe.defaults)
    return finished(model, build_class(recipe, None, subwords, settings), settings, where)


def _sentencepiece(model: ModelSource, recipe: Recipe | None) -> tuple[SentencePiece, str] | None:
    """The SentencePiece model of a class, or of no class that is known, and where it is."""
    names = (recipe.files if recipe.arrange else ()) if recipe else MODEL_FILES
    for name in names:
        data = model.read(name)
        if data is not None and not TIKTOKEN.match(data):
            return read_spm(data, model.describe(name)), model.describe(name)
    return None


def _from_sentencepiece(
    model: ModelSource, recipe: Recipe | None, settings: Settings, spm: SentencePiece, where: str
) -> Tokenizer:
    settings = replace(settings, extra=(*added_tokens(spm), *settings.extra))
    if recipe is None or recipe.arrange is None:
        made = as_sentencepiece(spm, where)
        return finished(model, replace(made, tokens=tuple(settings.tokens_to_add(()))), settings, where)
    if (recipe.kind == "BPE") != (spm.kind == BPE):
        raise ModelFormatError(f"{where}: its class takes a {recipe.kind} model, and it holds another kind")
    settings = settings.with_defaults(recipe.defaults)
    subwords = recipe.arrange(spm, settings)
    made = build_class(recipe, None, subwords, settings, {"normalizer": charsmap_part(spm)})
    return finished(model, with_languages(made, recipe.languages, settings), settings, where)


def _has(model: ModelSource, recipe: Recipe) -> bool:
    return bool(recipe.files) and all(model.read(name) is not None for name in recipe.files)


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{where}: not UTF-8 text (byte {error.start})") from None


def _lines_to_ids(data: bytes, where: str) -> dict[str, int]:
    """vocab.txt: a piece on each line; of equal ones, the last counts."""
    lines = _text(data, where).split("\n")
    return {line.rstrip(): i for i, line in enumerate(lines[:-1] if not lines[-1] else lines)}


def _merges(model: ModelSource, ids: dict[str, int]) -> list[tuple[str, str]]:
    name = BPE_FILES[1]
    where = model.describe(name)
    data = model.read(name)
    if not data:
        raise ModelFormatError(f"{model.describe(BPE_FILES[0])}: needs {name} beside it")
    lines = [line.removesuffix("\r") for line in _text(data, where).split("\n")]
    merges = merges_of_lines([line for line in lines if line and not line.startswith("#version")], where)
    check_merges(merges, ids, where)
    return merges
