"""Classes whose vocabulary is a SentencePiece model: how they put its pieces in order, and the stages around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastlm.errors import ModelFormatError
from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.languages import MBART, MBART50, NLLB, Form
from fastlm.tokenizer.library import Token
from fastlm.tokenizer.recipes import ROBERTA, UNKNOWN, Recipe, Stages, mask_with_space, metaspace, sequence
from fastlm.tokenizer.settings import Settings, content_of
from fastlm.tokenizer.spm import as_it_is, replace_part, scored, unigram
from fastlm.tokenizer.spm_file import SentencePiece
from fastlm.tokenizer.subwords import Subwords

MAX_EXTRA = 10_000

# ---- stages ---------------------------------------------------------------------------------------


def _charsmap(given: Stages) -> list[Part]:
    maps = [part for part in parts_of("normalizer", given.get("normalizer")) if part["type"] == "Precompiled"]
    return maps[:1]


def _words(given: list[Part], scheme: str) -> Stages:
    """Words, each with a space before it."""
    return {
        "normalizer": given[0] if given else None,
        "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace(scheme)),
        "decoder": metaspace(scheme),
    }


def _t5(settings: Settings, given: Stages) -> Stages:
    return _words(_charsmap(given), "always")


def _xlm_roberta(settings: Settings, given: Stages) -> Stages:
    return _words(_charsmap(given), "always" if settings.flag("add_prefix_space", True) else "never")


def _mbart(settings: Settings, given: Stages) -> Stages:
    return _words([], "always")


def _spaces(settings: Settings, given: Stages, before: tuple[Part, ...] = (), always: bool = True) -> Stages:
    """Runs of spaces are one; a space begins a piece. always: also where there is no map of characters."""
    maps = _charsmap(given)
    parts = [*(maps or before), *([replace_part(" {2,}", " ", "Regex")] if maps or always else [])]
    return {
        "normalizer": sequence("normalizers", *parts) if parts else None,
        "pre_tokenizer": metaspace("always"),
        "decoder": metaspace("always"),
    }


def _nllb(settings: Settings, given: Stages) -> Stages:
    return _spaces(settings, given, always=False)


def _pegasus(settings: Settings, given: Stages) -> Stages:
    return _spaces(settings, given, before=(replace_part(r"\n", " ", "Regex"),))


def _deberta(settings: Settings, given: Stages) -> Stages:
    lower: list[Part] = [{"type": "Lowercase"}] if settings.flag("do_lower_case", False) else []
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    blanks = replace_part(r"\s{2,}|[\n\r\t]", " ", "Regex")
    scheme = "always" if settings.flag("add_prefix_space", True) else "first"
    marks: list[Part] = [{"type": "Punctuation", "behavior": "Isolated"}]
    marks = marks if settings.flag("split_by_punct", False) else []
    return {
        "normalizer": sequence("normalizers", *lower, blanks, {"type": "NFC"}, strip),
        "pre_tokenizer": sequence("pretokenizers", *marks, metaspace(scheme)),
        "decoder": metaspace(scheme),
    }


# ---- order of pieces ------------------------------------------------------------------------------


def _extra_ids(settings: Settings, default: int = 100) -> int:
    count = settings.options.get("extra_ids", default)
    if type(count) is not int or not 0 <= count <= MAX_EXTRA:
        raise ModelFormatError(f"{settings.where}: extra_ids must be a whole number up to {MAX_EXTRA:,}")
    return count


def _with_sentinels(spm: SentencePiece, settings: Settings) -> Subwords:
    """T5's <extra_id_0> and so on, the last first."""
    return unigram([*scored(spm), *((f"<extra_id_{i}>", 0.0) for i in reversed(range(_extra_ids(settings))))])


def _behind_fairseq(*codes: str, mask: bool = True) -> Callable[[SentencePiece, Settings], Subwords]:
    """fairseq's four tokens in the place of the first three pieces; codes, and a mask, behind all."""

    def arrange(spm: SentencePiece, settings: Settings) -> Subwords:
        first = [settings.name(f"{name}_token") or f"<{name}>" for name in ("bos", "pad", "eos", "unk")]
        last = [*codes, *([settings.name("mask_token") or "<mask>"] if mask else [])]
        zeros = [(piece, 0.0) for piece in first]
        return unigram([*zeros, *scored(spm)[3:], *((piece, 0.0) for piece in last)])

    return arrange


def _nllb_ids(spm: SentencePiece, settings: Settings) -> Subwords:
    first = [settings.name(f"{name}_token") or f"<{name}>" for name in ("bos", "pad", "eos", "unk")]
    pieces = dict.fromkeys([*first, *spm.pieces])
    return Subwords("BPE", {piece: i for i, piece in enumerate(pieces)}, [], spm.merges(), {})


def _offset(settings: Settings) -> int:
    offset = settings.options.get("offset", 103)
    if type(offset) is not int or not 0 <= offset <= MAX_EXTRA:
        raise ModelFormatError(f"{settings.where}: offset must be a whole number up to {MAX_EXTRA:,}")
    return offset


def _sentence_mask(settings: Settings) -> str | None:
    name = settings.options.get("mask_token_sent", "<mask_1>")
    if name is not None and not isinstance(name, str):
        raise ModelFormatError(f"{settings.where}: mask_token_sent must be a text or null")
    return name


def _behind_offset(spm: SentencePiece, settings: Settings) -> Subwords:
    """Pegasus: pad, eos, masks and tokens of pre-training in the place of the first two pieces."""
    pad, eos = (settings.name(f"{name}_token") or default for name, default in (("pad", "<pad>"), ("eos", "</s>")))
    masks = dict.fromkeys((settings.name("mask_token"), _sentence_mask(settings)))
    first = [pad, eos, *(mask for mask in masks if mask is not None)]
    unknown = [(f"<unk_{i}>", -100.0) for i in range(2, _offset(settings))]
    return unigram([*((piece, 0.0) for piece in first), *unknown, *scored(spm)[2:]])


# ---- settings -------------------------------------------------------------------------------------


def _sentinels(settings: Settings) -> Settings:
    """T5's sentinels are special tokens, where no file names special tokens of the model's own."""
    names = tuple(f"<extra_id_{i}>" for i in range(_extra_ids(settings)))
    named = any("<extra_id_" in content_of(value) for value in settings.extra)
    return replace(settings, extra=settings.extra if named else (*settings.extra, *names))


def _with_codes(codes: tuple[str, ...]) -> Callable[[Settings], Settings]:
    """Codes of languages are special tokens."""

    def adjust(settings: Settings) -> Settings:
        there = {content_of(value) for value in settings.extra}
        extra = (*settings.extra, *(Token(code) for code in codes if code not in there))
        return mask_with_space(replace(settings, extra=extra))

    return adjust


def _masks(settings: Settings) -> Settings:
    """Pegasus: the tokens of its pre-training are special."""
    sentence = _sentence_mask(settings)
    names = [*([sentence] if sentence else []), *(f"<unk_{i}>" for i in range(2, _offset(settings)))]
    return replace(settings, extra=tuple(dict.fromkeys((*settings.extra, *names))))


# ---- the table ------------------------------------------------------------------------------------

_FAIRSEQ_FILE = ("sentencepiece.bpe.model",)
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_PEGASUS = {**_T5, "mask_token": "<mask_2>"}
_DEBERTA = {
    **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}
SPM_RECIPES: dict[str, Recipe] = {
    "T5": Recipe(
        kind="Unigram",
        files=("spiece.model",),
        arrange=_with_sentinels,
        defaults=_T5,
        adjust=_sentinels,
        model={"unk_id": 2},
        stages=_t5,
        around=(None, "eos_token", "plain"),
    ),
    "XLMRoberta": Recipe(
        kind="Unigram",
        files=_FAIRSEQ_FILE,
        arrange=_behind_fairseq(),
        defaults=ROBERTA,
        model={"unk_id": 3},
        stages=_xlm_roberta,
        around=("bos_token", "eos_token", "doubled"),
    ),
    "MBart": Recipe(
        file_stands=True,
        kind="Unigram",
        files=_FAIRSEQ_FILE,
        arrange=_behind_fairseq(*MBART),
        defaults=ROBERTA,
        adjust=_with_codes(MBART),
        model={"unk_id": 3},
        stages=_mbart,
        languages=Form(MBART, "en_XX", before=False),
    ),
    "MBart50": Recipe(
        file_stands=True,
        kind="Unigram",
        files=_FAIRSEQ_FILE,
        arrange=_behind_fairseq(*MBART50),
        defaults=ROBERTA,
        adjust=_with_codes(MBART50),
        model={"unk_id": 3},
        stages=_spaces,
        languages=Form(MBART50, "en_XX", before=True),
    ),
    "Nllb": Recipe(
        file_stands=True,
        files=_FAIRSEQ_FILE,
        arrange=_nllb_ids,
        defaults=ROBERTA,
        adjust=_with_codes(NLLB),
        model={"fuse_unk": True, "byte_fallback": False, "unk_token": UNKNOWN},
        stages=_nllb,
        languages=Form(NLLB, "eng_Latn", before=True),
    ),
    "Pegasus": Recipe(
        file_stands=True,
        kind="Unigram",
        files=("spiece.model",),
        arrange=_behind_offset,
        defaults=_PEGASUS,
        adjust=_masks,
        model={"unk_id": UNKNOWN},
        stages=_pegasus,
        around=(None, "eos_token", "once"),
    ),
    "DebertaV2": Recipe(
        file_stands=True,
        kind="Unigram",
        files=("spm.model",),
        arrange=as_it_is,
        defaults=_DEBERTA,
        model={"unk_id": UNKNOWN},
        stages=_deberta,
        around=("cls_token", "sep_token", "typed"),
    ),
}
