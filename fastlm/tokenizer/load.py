"""The tokenizer of a model, from whichever files it has."""

from __future__ import annotations

from dataclasses import replace

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.added import check_normalizing
from fastlm.tokenizer.classes import build_as_written, build_class, recipe_of
from fastlm.tokenizer.description import Description, read_description
from fastlm.tokenizer.large_json import parse_large
from fastlm.tokenizer.recipes import BPE_FILES, RECIPES, WORD_PIECE_FILES, Recipe
from fastlm.tokenizer.sentences import adapted
from fastlm.tokenizer.settings import ADDED, CONFIG, SPECIAL, Settings, read_settings
from fastlm.tokenizer.streaming import CLEAN_UP
from fastlm.tokenizer.subwords import Subwords, check_merges, checked_ids, merges_of_lines
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource

WHOLE = "tokenizer.json"
TOKENIZER_FILES = (WHOLE, CONFIG, SPECIAL, ADDED, *BPE_FILES, *WORD_PIECE_FILES)
UNREAD = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", "source.spm", "tiktoken.model")


def load_tokenizer(model: ModelSource) -> Tokenizer | None:
    """The tokenizer of a model, from tokenizer.json, vocab.json and merges.txt, or vocab.txt; None: it has none.

    Raises
    ------
    ModelFormatError
        A file is malformed.
    """
    data = model.read(WHOLE)
    if data is None:
        return _from_vocabulary(model)
    where = model.describe(WHOLE)
    file, numbered = read_description(data, where)
    settings = read_settings(model, numbered)
    recipe = recipe_of(model, settings, file.stages)
    padding = {"pad_token": file.pad} if file.pad else {}
    if recipe is None or recipe.kind != file.subwords.kind:
        settings = settings.with_defaults(padding)
        return _finished(model, build_as_written(file, settings), settings, where)
    settings = settings.with_defaults({**padding, **recipe.defaults})
    return _finished(model, build_class(recipe, file, file.subwords, settings), settings, where)


def missing_tokenizer(model: ModelSource) -> str:
    """Why a model has no tokenizer, for an error text."""
    name = next((name for name in UNREAD if model.read(name) is not None), None)
    if name is None:
        return f"this model has no tokenizer ({WHOLE} is missing)"
    return (
        f"{model.describe(name)}: a tokenizer of this kind is not read yet; write {WHOLE} beside it once, with "
        "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


def _from_vocabulary(model: ModelSource) -> Tokenizer | None:
    settings = read_settings(model, {})
    recipe = recipe_of(model, settings, None)
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
    return _finished(model, build_class(recipe, None, subwords, settings), settings, where)


def _has(model: ModelSource, recipe: Recipe) -> bool:
    return bool(recipe.files) and all(model.read(name) is not None for name in recipe.files)


def _finished(model: ModelSource, made: Description, settings: Settings, where: str) -> Tokenizer:
    tidies = settings.flag("clean_up_tokenization_spaces", False)
    forced = settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    if tidies and (made.subwords.kind != "BPE" or forced):
        made = replace(made, replacements=(*made.replacements, *CLEAN_UP))
    made = adapted(model, made)
    check_normalizing(made, where)
    return Tokenizer(made, settings, where)


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
