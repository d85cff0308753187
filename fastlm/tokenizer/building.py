"""The tokenizer that a class of transformers makes of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import Part
from fastlm.tokenizer.description import Description, is_byte_level
from fastlm.tokenizer.languages import Form, Languages
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.recipes import UNKNOWN, Recipe, Stages
from fastlm.tokenizer.settings import Settings, content_of
from fastlm.tokenizer.subwords import Subwords, known_unknown, word_piece


def with_languages(made: Description, form: Form | None, settings: Settings) -> Description:
    """A tokenizer with the languages of its class, one of which is the source's where nothing is said."""
    ids = {code: i for code in (form.codes if form else ()) if (i := made.id_of(code)) is not None}
    end = settings.name("eos_token") or "</s>"
    if form is None or not ids or (last := made.id_of(end)) is None:
        return made
    source, before = source_of(form, ids, settings), form.before and not settings.flag("legacy_behaviour", False)
    around = ([source], [end]) if before else ([], [end, source])
    template = _template(made, *around)
    languages = Languages(ids, last, before, source)
    return replace(made, stages={**made.stages, "post_processor": template}, languages=languages)


def source_of(form: Form, ids: Mapping[str, int], settings: Settings) -> str:
    """The language of a text where nothing is said.

    Raises
    ------
    ModelFormatError
        tokenizer_config.json names one that the vocabulary lacks.
    """
    source = settings.options.get("src_lang") or form.source
    if not isinstance(source, str) or source not in ids:
        raise ModelFormatError(f"{settings.where}: src_lang: {source!r:.40} is no language of its vocabulary")
    return source


# By the third name of Recipe.around: whether the first token stands before the second text, too; whether the last one
# does; its type. "once": around both texts together.
PAIRS = {"again": (True, False, 1), "typed": (False, False, 1), "doubled": (False, True, 0), "plain": (False, False, 0)}


def build_class(
    recipe: Recipe, file: Description | None, subwords: Subwords, settings: Settings, given: Stages | None = None
) -> Description:
    """The tokenizer that a class makes of a vocabulary, which is that of a tokenizer.json if there is one.

    given: stages that another file has.

    Raises
    ------
    ModelFormatError
        The vocabulary lacks what the class needs.
    """
    settings = recipe.adjust(settings)
    given = dict(file.stages) if file else given or {}
    stages: Stages = {"normalizer": None, "post_processor": None, **recipe.stages(settings, given)}
    tokens = settings.tokens_to_add(())
    if recipe.repeats:
        tokens += [Token(content_of(value)) for value in settings.special()]
    made = Description(
        _model(recipe, subwords, settings, is_byte_level(stages)),
        stages,
        tuple(tokens),
        recipe.replacements,
        recipe.strips,
        settings.flag("split_special_tokens", False),
    )
    if file is not None and recipe.around == "file":
        around = given.get("post_processor")
    elif isinstance(recipe.around, tuple):
        before, after = (name and settings.name(name) for name in recipe.around[:2])
        around = _around(made, before, after, recipe.around[2])
    else:
        around = flagged(made, settings if file is None else replace(settings, options={}))
    return replace(made, stages={**stages, "post_processor": around})


def flagged(made: Description, settings: Settings) -> Part | None:
    """The post-processor that add_bos_token and add_eos_token ask for; None: neither does."""
    before, after = (
        settings.name(name) if settings.flag(f"add_{name}", False) else None for name in ("bos_token", "eos_token")
    )
    return _around(made, before, after) if before or after else None


def _around(made: Description, before: str | None, after: str | None, second: str = "again") -> Part:
    """Tokens before and after a text; of a pair, what PAIRS says stands around the second text."""

    def special(content: str | None, kind: int) -> list[Part]:
        return [] if content is None else [{"SpecialToken": {"id": content, "type_id": kind}}]

    if second == "once":
        return _template(made, [before] if before else [], [after] if after else [])
    starts, doubles, kind = PAIRS[second]
    single = [*special(before, 0), {"Sequence": {"id": "A", "type_id": 0}}, *special(after, 0)]
    pair = [*single, *(special(before, kind) if starts else []), *(special(after, kind) if doubles else [])]
    pair += [{"Sequence": {"id": "B", "type_id": kind}}, *special(after, kind)]
    names = [content for content in (before, after) if content is not None]
    tokens = {name: {"id": name, "ids": [made.id_of(name)], "tokens": [name]} for name in names}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _template(made: Description, before: list[str], after: list[str]) -> Part:
    """Tokens around one text, or around two in a row."""

    def row(*texts: str) -> list[Part]:
        parts: list[Part] = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before]
        parts += [{"Sequence": {"id": text, "type_id": 0}} for text in texts]
        return [*parts, *({"SpecialToken": {"id": name, "type_id": 0}} for name in after)]

    tokens = {name: {"id": name, "ids": [made.id_of(name)], "tokens": [name]} for name in (*before, *after)}
    return {"type": "TemplateProcessing", "single": row("A"), "pair": row("A", "B"), "special_tokens": tokens}


def _model(recipe: Recipe, subwords: Subwords, settings: Settings, byte_level: bool) -> Subwords:
    options = {**recipe.model}
    if "unk_token" in options:
        options["unk_token"] = settings.name("unk_token")
    if recipe.kind == "WordPiece":
        return word_piece(subwords.ids, options["unk_token"] or "[UNK]", "vocabulary")
    if options.get("unk_id") == UNKNOWN:
        options["unk_id"] = subwords.ids.get(settings.name("unk_token") or "", subwords.size)
    if options.get("unk_id", 0) >= subwords.size:
        raise ModelFormatError(
            f"{settings.where}: a tokenizer of this class has an unknown token, and its vocabulary has not"
        )
    return replace(subwords, options=known_unknown(options, subwords.ids, byte_level, settings.where))
