"""Which class a model's tokenizer is of.

As transformers 5 does, whose AutoTokenizer is the standard for token ids: of a tokenizer.json, a class that recipes.py
knows takes the vocabulary, the merges, the added tokens and the post-processor, and makes the other stages itself
(building.py); any other class takes the whole file as it is. The recipes are imported for classes that have a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.library import STAGES
from fastlm.tokenizer.settings import Settings
from fastlm.weights.source import ModelSource

if TYPE_CHECKING:
    from fastlm.tokenizer.recipes import Recipe

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
NAMELESS = ("", "PreTrained")  # nothing says which, or what all classes are made from


class Named(NamedTuple):
    """What a model's files say of the class of its tokenizer.

    Attributes
    ----------
    given
        The class that they name, without what all names end in; None: they name none.
    model_type
        That of config.json.
    """

    given: str | None
    model_type: str | None

    @property
    def meant(self) -> str:
        """The class that transformers takes; "": nothing says which."""
        registered = OF_MODEL.get(self.model_type) if self.model_type else None
        return registered or "" if self.given is None or self.model_type in OWN_CLASS else self.given


def read_named(model: ModelSource, settings: Settings) -> Named:
    """The class of a model's tokenizer, as its files name it.

    Raises
    ------
    ModelFormatError
        The name of a class, or of a type of models, is no text.
    """
    config, where = model.read_json("config.json") or {}, model.describe("config.json")
    given = _text(settings.options, "tokenizer_class", settings.where) or _text(config, "tokenizer_class", where)
    name = given.removesuffix("Fast").removesuffix("Tokenizer") if given else None
    return Named(name, _text(config, "model_type", where))


def recipe_of(named: Named, stages: Mapping[str, Part | None] | None) -> Recipe | None:
    """The recipe of a model's tokenizer; None: the file as it is.

    Parameters
    ----------
    stages
        Of the tokenizer.json; None: there is none.
    """
    if stages is not None:
        if named.given is not None and named.model_type in AS_WRITTEN:
            return None
        if named.given == "Llama" and any(p["type"] == "ByteLevel" for s in STAGES for p in parts_of(s, stages[s])):
            return None
    recipe = recipe_called(named.meant)
    return None if stages is not None and recipe is not None and recipe.file_stands else recipe


def recipe_called(name: str) -> Recipe | None:
    """The recipe of a class; None: it has none."""
    if name in NAMELESS:
        return None
    from fastlm.tokenizer.recipes import RECIPES
    from fastlm.tokenizer.spm_recipes import SPM_RECIPES

    return RECIPES.get(name) or SPM_RECIPES.get(name)


def _text(options: Mapping[str, Any], name: str, where: str) -> str | None:
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise ModelFormatError(f"{where}: {name} must be a text or null, not {value!r:.60}")
    return value
