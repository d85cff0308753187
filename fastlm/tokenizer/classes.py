"""Which class a model's tokenizer is of, and the tokenizer that it makes of files.

As transformers 5 does, whose AutoTokenizer is the standard for token ids: of a tokenizer.json, a class that recipes.py
knows takes the vocabulary, the merges, the added tokens and the post-processor, and makes the other stages itself; any
other class takes the whole file as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.description import Description, is_byte_level
from fastlm.tokenizer.languages import Form, Languages
from fastlm.tokenizer.library import STAGES, Token
from fastlm.tokenizer.recipes import RECIPES, UNKNOWN, Recipe, Stages
from fastlm.tokenizer.settings import Settings, content_of
from fastlm.tokenizer.spm_recipes import SPM_RECIPES
from fastlm.tokenizer.subwords import Subwords, known_unknown, word_piece
from fastlm.weights.source import ModelSource

# fmt: off
# Of a model_type: the class that transformers registers for it. Of others it is what the files say.
OF_MODEL = {
    **dict.fromkeys((
        "bert", "convbert", "distilbert", "electra", "ernie", "layoutlm", "megatron-bert", "mobilebert", "nezha",
        "nomic_bert", "retribert", "squeezebert",
    ), "Bert"),
    **dict.fromkeys(("codegen", "dbrx", "gpt2", "gpt_neo", "gptj", "jais2", "opt", "phi", "starcoder2"), "GPT2"),
    **dict.fromkeys(("bart", "data2vec-text", "ibert", "longformer", "roberta", "roberta-prelayernorm"), "Roberta"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl"), "Qwen2"),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp"), "Qwen3_5"),
    **dict.fromkeys(("falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv"), "GPTNeoX"),
    **dict.fromkeys((
        "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma", "t5gemma",
    ), "Gemma"),
    **dict.fromkeys(("mt5", "switch_transformers", "t5"), "T5"),
    **dict.fromkeys(("gte", "jina_embeddings_v3", "xlm-roberta", "xmod"), "XLMRoberta"),
    **dict.fromkeys(("nllb", "nllb-moe"), "Nllb"),
    "blenderbot": "Blenderbot", "blenderbot-small": "BlenderbotSmall", "byt5": "ByT5", "clip": "CLIP",
    "deberta-v2": "DebertaV2", "led": "LED", "m2m_100": "M2M100", "marian": "Marian", "mbart": "MBart",
    "mbart50": "MBart50", "mpnet": "MPNet", "openai-gpt": "OpenAIGPT", "pegasus": "Pegasus",
}
# Of these, the file stands whatever class it names.
AS_WRITTEN = {
    "bigbird_pegasus", "ernie4_5", "ernie4_5_moe", "flex_olmo", "glm", "glm4", "glm4_moe", "glm4_moe_lite",
    "gpt_bigcode", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared", "hyperclovax", "internlm2",
    "internlm3", "jamba", "kimi_k25", "kimi_linear", "mimo_v2_flash", "minicpm3", "minimax_m2", "ministral",
    "ministral3", "mistral", "mistral3", "mixtral", "modernbert", "modernbert-decoder", "nemotron", "nystromformer",
    "olmo2", "olmo3", "olmo_hybrid", "pegasus_x", "persimmon", "phi3", "phimoe", "smolvlm", "stablelm", "umt5",
    "xlm-roberta-xl",
}
# Of these, transformers takes its own class, whatever tokenizer_config.json says.
OWN_CLASS = {"qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"}
# fmt: on
ALL = {**RECIPES, **SPM_RECIPES}


def class_of(model: ModelSource, settings: Settings) -> str:
    """The class of a model's tokenizer, without what all of their names end in; "": nothing says which.

    Raises
    ------
    ModelFormatError
        The name of a class, or of a type of models, is no text.
    """
    named, model_type = _names(model, settings)
    registered = OF_MODEL.get(model_type) if model_type else None
    return registered or "" if named is None or model_type in OWN_CLASS else named


def _names(model: ModelSource, settings: Settings) -> tuple[str | None, str | None]:
    """The class that the files name, and the model_type."""
    config, where = model.read_json("config.json") or {}, model.describe("config.json")
    named = _text(settings.options, "tokenizer_class", settings.where) or _text(config, "tokenizer_class", where)
    return named.removesuffix("Fast").removesuffix("Tokenizer") if named else None, _text(config, "model_type", where)


def recipe_of(model: ModelSource, settings: Settings, stages: Mapping[str, Part | None] | None) -> Recipe | None:
    """The recipe of a model's tokenizer; None: the file as it is.

    Parameters
    ----------
    stages
        Of the tokenizer.json; None: there is none.

    Raises
    ------
    ModelFormatError
        The name of a class, or of a type of models, is no text.
    """
    name, model_type = _names(model, settings)
    if stages is not None:
        if name is not None and model_type in AS_WRITTEN:
            return None
        if name == "Llama" and any(p["type"] == "ByteLevel" for s in STAGES for p in parts_of(s, stages[s])):
            return None
    recipe = ALL.get(class_of(model, settings))
    return None if stages is not None and recipe is not None and recipe.file_stands else recipe


def _text(options: Mapping[str, Any], name: str, where: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise ModelFormatError(f"{where}: {name} must be a text or null, not {value!r:.60}")
    return value


def with_languages(made: Description, model: ModelSource, settings: Settings) -> Description:
    """A tokenizer with the languages of its class, one of which is the source's where nothing is said."""
    recipe = ALL.get(class_of(model, settings))
    form = recipe.languages if recipe else None
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


def build_as_written(file: Description, settings: Settings) -> Description:
    """The tokenizer of a tokenizer.json, with the tokens that the files beside it name."""
    tokens = (*file.tokens, *settings.tokens_to_add(file.tokens))
    return replace(file, tokens=tokens, splits_special=settings.flag("split_special_tokens", False))


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
