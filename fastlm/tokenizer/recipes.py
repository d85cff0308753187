"""What `tokenizer_class` stands for, as transformers 5 builds it: the stages around a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastlm.tokenizer.components import Part
from fastlm.tokenizer.files import BPE_FILES, SPM_FILES, WORD_PIECE_FILES
from fastlm.tokenizer.languages import Form
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.settings import Settings
from fastlm.tokenizer.spm import SPACE, bpe_as_it_is, replace_part
from fastlm.tokenizer.spm_file import SentencePiece
from fastlm.tokenizer.subwords import Subwords

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Stages = dict[str, Part | None]
Names = tuple[str | None, str | None, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a class makes a tokenizer of a vocabulary.

    Attributes
    ----------
    kind
        Of the model: "BPE", "WordPiece" or "Unigram".
    files
        Of a folder without tokenizer.json; empty: none are read.
    arrange
        What makes the model of the SentencePiece model that is the only one of these files.
    defaults
        Special tokens where files name none.
    adjust
        What the class changes in the settings.
    repeats
        Whether it adds the special tokens a second time, without properties.
    model
        Options of the library's model.
    stages
        Normalizer, pre-tokenizer and decoder. It sees those of the tokenizer.json.
    around
        Names of the tokens around a text, and how a second one stands (`classes.PAIRS`); "flags": as add_bos_token and
        add_eos_token say; "file": as the tokenizer.json's post-processor says, else so.
    languages
        Those that its special tokens are for.
    file_stands
        Whether a tokenizer.json is taken as it is.
    replacements, strips
        See `Description`.
    """

    kind: str = "BPE"
    files: tuple[str, ...] = BPE_FILES
    arrange: Callable[[SentencePiece, Settings], Subwords] | None = None
    defaults: Mapping[str, str | None]
    adjust: Callable[[Settings], Settings] = lambda settings: settings
    repeats: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    stages: Callable[[Settings, Stages], Stages]
    around: str | Names = "file"
    languages: Form | None = None
    file_stands: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    strips: bool = False


# ---- parts ----------------------------------------------------------------------------------------


def _byte_level(space: bool, use_regex: bool = True) -> Part:
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": use_regex}


def sequence(members: str, *parts: Part) -> Part:
    return {"type": "Sequence", members: list(parts)}


def _split(pattern: str, behavior: str, invert: bool = False, kind: str = "Regex") -> Part:
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def metaspace(scheme: str, split: bool = True) -> Part:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def _pieces_decoder(strips: bool) -> Part:
    parts = [replace_part(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return sequence("decoders", *parts, *([strip] if strips else []))


# ---- stages of the classes ------------------------------------------------------------------------


def _gpt2(settings: Settings, given: Stages) -> Stages:
    return {"pre_tokenizer": _byte_level(settings.flag("add_prefix_space", False)), "decoder": _byte_level(True)}


def _blenderbot(settings: Settings, given: Stages) -> Stages:
    return {"pre_tokenizer": _byte_level(settings.flag("add_prefix_space", True)), "decoder": _byte_level(True)}


def _gpt_neox(settings: Settings, given: Stages) -> Stages:
    return {**_gpt2(settings, given), "normalizer": {"type": "NFC"}}


def _qwen(pattern: str) -> Callable[[Settings, Stages], Stages]:
    def stages(settings: Settings, given: Stages) -> Stages:
        bytes_ = _byte_level(settings.flag("add_prefix_space", False), use_regex=False)
        return {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": sequence("pretokenizers", _split(pattern, "Isolated"), bytes_),
            "decoder": _byte_level(True),
        }

    return stages


def _llama(settings: Settings, given: Stages) -> Stages:
    space = settings.flag("add_prefix_space", True)
    scheme = "never" if not space else "always" if settings.flag("legacy", False) else "first"
    return {"pre_tokenizer": metaspace(scheme, split=False), "decoder": _pieces_decoder(space)}


def _code_llama(settings: Settings, given: Stages) -> Stages:
    scheme = "first" if settings.flag("add_prefix_space", True) else "never"
    return {"pre_tokenizer": metaspace(scheme, split=False), "decoder": _pieces_decoder(True)}


def _gemma(settings: Settings, given: Stages) -> Stages:
    return {
        "normalizer": replace_part(" ", SPACE),
        "pre_tokenizer": _split(" ", "MergedWithPrevious", kind="String"),
        "decoder": _pieces_decoder(False),
    }


def _bert(settings: Settings, given: Stages) -> Stages:
    accents = settings.options.get("strip_accents")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars", True),
            "strip_accents": None if accents is None else settings.flag("strip_accents", False),
            "lowercase": settings.flag("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def _openai_gpt(settings: Settings, given: Stages) -> Stages:
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    return {
        "normalizer": {**normalizer, "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
    }


def _clip(settings: Settings, given: Stages) -> Stages:
    spaces = replace_part(r"\s+", " ", "Regex")
    return {
        "normalizer": sequence("normalizers", {"type": "NFC"}, spaces, {"type": "Lowercase"}),
        "pre_tokenizer": sequence("pretokenizers", _split(CLIP, "Removed", invert=True), _byte_level(False)),
        "decoder": _byte_level(True),
    }


# ---- settings of the classes ----------------------------------------------------------------------


def mask_with_space(settings: Settings) -> Settings:
    """MPNet's mask takes the spaces before it."""
    mask = settings.named.get("mask_token")
    if not isinstance(mask, str):
        return settings
    return replace(settings, named={**settings.named, "mask_token": Token(mask, lstrip=True)})


# ---- the table ------------------------------------------------------------------------------------

_END: dict[str, str | None] = {
    **dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "pad_token": None,  # whatever the tokenizer.json says
}
_QWEN = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_SENTENCE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ROBERTA = {**_SENTENCE, "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}
_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_GEMMA = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_MPNET = {**ROBERTA, "unk_token": "[UNK]"}
_INFILLING = {f"{name}_token": f"{SPACE}<{name[:3].upper()}>" for name in ("prefix", "middle", "suffix", "eot")}
_INFILLING |= {"fill_token": "<FILL_ME>"}
UNKNOWN = "unk_token"  # an option of the model whose value is the token of this name

_GPT2_CLASS = Recipe(defaults=_END, stages=_gpt2)
_ROBERTA_CLASS = Recipe(defaults=ROBERTA, stages=_gpt2, around=("cls_token", "sep_token", "doubled"))
_BERT_CLASS = Recipe(
    kind="WordPiece",
    files=WORD_PIECE_FILES,
    defaults=_BERT,
    model={"unk_token": UNKNOWN},
    stages=_bert,
    around=("cls_token", "sep_token", "typed"),
)
_LLAMA_CLASS = Recipe(
    files=SPM_FILES,
    arrange=bpe_as_it_is,
    defaults=_SENTENCE,
    model={"fuse_unk": True, "byte_fallback": True},
    stages=_llama,
)

RECIPES: dict[str, Recipe] = {
    **dict.fromkeys(("GPT2", "CodeGen"), _GPT2_CLASS),
    **dict.fromkeys(("Roberta", "Bart", "LED", "Longformer", "Mvp"), _ROBERTA_CLASS),
    "Blenderbot": Recipe(defaults=ROBERTA, adjust=mask_with_space, stages=_blenderbot),
    "GPTNeoX": Recipe(defaults={**_END, "pad_token": "<|padding|>"}, stages=_gpt_neox, around="flags"),
    "Qwen2": Recipe(defaults=_QWEN, stages=_qwen(QWEN2), repeats=True),
    "Qwen3_5": Recipe(defaults=_QWEN, stages=_qwen(QWEN3_5)),
    **dict.fromkeys(("Llama", "Phi3"), _LLAMA_CLASS),
    "CodeLlama": Recipe(
        files=SPM_FILES,
        arrange=bpe_as_it_is,
        defaults={**_SENTENCE, **_INFILLING},
        model={"fuse_unk": True, "byte_fallback": True, "unk_token": UNKNOWN},
        stages=_code_llama,
    ),
    "Gemma": Recipe(
        files=SPM_FILES,
        arrange=bpe_as_it_is,
        defaults=_GEMMA,
        model={"fuse_unk": True, "byte_fallback": True, "unk_token": UNKNOWN},
        stages=_gemma,
    ),
    **dict.fromkeys(("Bert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert"), _BERT_CLASS),
    "MPNet": replace(_BERT_CLASS, defaults=_MPNET, adjust=mask_with_space, around=_ROBERTA_CLASS.around),
    "OpenAIGPT": Recipe(
        defaults={"unk_token": "<unk>"},
        model={"end_of_word_suffix": "</w>", "unk_token": UNKNOWN},
        stages=_openai_gpt,
    ),
    "CLIP": Recipe(
        defaults={**_END, "bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"},
        model={"end_of_word_suffix": "</w>", "unk_token": UNKNOWN},
        stages=_clip,
        around=("bos_token", "eos_token", "doubled"),
        replacements=(("</w>", " "),),
        strips=True,
    ),
}
