"""Translators whose tokenizers are a SentencePiece model beside a vocabulary of its own: Marian and M2M100."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastlm.errors import ModelFormatError, ParameterError
from fastlm.tokenizer.building import source_of
from fastlm.tokenizer.components import Part
from fastlm.tokenizer.description import Description
from fastlm.tokenizer.files import M2M100_FILE, MARIAN_FILES
from fastlm.tokenizer.languages import M2M100, WMT21, Form, Languages
from fastlm.tokenizer.large_json import parse_large
from fastlm.tokenizer.library import Token, library_errors, make_library
from fastlm.tokenizer.segments import Segments
from fastlm.tokenizer.settings import Settings, content_of
from fastlm.tokenizer.spm import SPACE, as_sentencepiece, replace_part
from fastlm.tokenizer.spm_file import read_spm
from fastlm.tokenizer.subwords import Subwords, checked_ids
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource

VOCAB, TARGET_VOCAB = MARIAN_FILES[2:]
NAMES = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
MORE_NAMES = {**NAMES, "bos_token": "<s>", "sep_token": "</s>"}
CODES = {"m2m100": M2M100, "wmt21": WMT21}
_ENCODING = library_errors("text: the tokenizer cannot encode it", ParameterError)


def load_marian(model: ModelSource, settings: Settings) -> Tokenizer | None:
    """The tokenizer of source.spm and vocab.json; what is written may have a vocabulary of its own."""
    if model.read(MARIAN_FILES[0]) is None or model.read(VOCAB) is None:
        return None
    settings = settings.with_defaults(dict(NAMES))
    ids = _vocabulary(model, VOCAB)
    written = _vocabulary(model, TARGET_VOCAB) if settings.flag("separate_vocabs", False) else ids
    pieces = _pieces_to_ids(model, MARIAN_FILES[0], ids, _unknown(model, settings, ids))
    unknown = ids[str(settings.name("unk_token"))]

    def cut(text: str) -> list[int]:
        if text.startswith(">>") and (end := text.find("<<")) != -1:  # the language to translate to
            return [ids.get(text[: end + 2], unknown), *pieces(text[end + 2 :])]
        return pieces(text)

    special = _special(model, settings, ids)
    segments = Segments(_cutting(settings, special), cut, (), _ids_of(settings, special, "eos_token"))
    return Tokenizer(_writing(written, settings, special.values()), settings, model.describe(VOCAB), segments)


def load_m2m100(model: ModelSource, settings: Settings) -> Tokenizer | None:
    """The tokenizer of a SentencePiece model and vocab.json, behind whose ids are those of the languages."""
    if model.read(M2M100_FILE) is None or model.read(VOCAB) is None:
        return None
    settings = settings.with_defaults(dict(MORE_NAMES))
    ids = _vocabulary(model, VOCAB)
    form = _form(settings)
    languages = {code: len(ids) + i for i, code in enumerate(form.codes)}
    tokens = {i: Token(f"__{code}__") for code, i in languages.items()}
    cut = _pieces_to_ids(model, M2M100_FILE, ids, _unknown(model, settings, ids))
    special = _special(model, settings, ids)
    (end,) = _ids_of(settings, special, "eos_token")
    extra = {content_of(value) for value in settings.extra}
    looked_for = {i: token for i, token in tokens.items() if token.content in extra}
    known = Languages(languages, end, form.before, source_of(form, languages, settings))
    segments = Segments(_cutting(settings, {**special, **looked_for}), cut, *known.around(known.source))
    made = _writing(ids, settings, (*tokens.values(), *special.values()), known)
    return Tokenizer(made, settings, model.describe(VOCAB), segments)


def _form(settings: Settings) -> Form:
    name = settings.options.get("language_codes", "m2m100")
    if not isinstance(name, str) or name not in CODES:
        raise ModelFormatError(f"{settings.where}: language_codes: {name!r:.40} is not known ({', '.join(CODES)})")
    return Form(CODES[name], "en", before=True)


def _vocabulary(model: ModelSource, name: str) -> dict[str, int]:
    data, where = model.read(name), model.describe(name)
    if data is None:
        raise ModelFormatError(f"{where}: is missing")
    return checked_ids(parse_large(data, where), where)


def _unknown(model: ModelSource, settings: Settings, ids: Mapping[str, int]) -> int:
    name = settings.name("unk_token")
    if name not in ids:
        raise ModelFormatError(f"{model.describe(VOCAB)}: lacks the unknown token {name!r:.40}")
    return ids[str(name)]


def _special(model: ModelSource, settings: Settings, ids: Mapping[str, int]) -> dict[int, Token]:
    """The special tokens that the vocabulary has."""
    values = (value for value in settings.special() if content_of(value) in ids)
    found = {ids[content_of(v)]: Token(v) if isinstance(v, str) else v for v in values}
    if settings.name("eos_token") not in {token.content for token in found.values()}:
        raise ModelFormatError(f"{model.describe(VOCAB)}: lacks the eos_token {settings.name('eos_token')!r:.40}")
    return found


def _cutting(settings: Settings, tokens: dict[int, Token]) -> dict[int, Token]:
    return {} if settings.flag("split_special_tokens", False) else tokens


def _ids_of(settings: Settings, tokens: Mapping[int, Token], name: str) -> list[int]:
    return [i for i, token in tokens.items() if token.content == settings.name(name)]


def _pieces_to_ids(model: ModelSource, name: str, ids: Mapping[str, int], unknown: int) -> Callable[[str], list[int]]:
    """What turns a text into ids: by the pieces that a SentencePiece model cuts it into."""
    where = model.describe(name)
    made = as_sentencepiece(read_spm(model.read(name) or b"", where), where, by_name=True)
    with library_errors(f"{where}: not a tokenizer"):
        library = make_library(made.subwords.library_model(), made.stages, ())

    def cut(text: str) -> list[int]:
        with _ENCODING:
            pieces = library.encode(text, add_special_tokens=False).tokens
        return [ids.get(piece, unknown) for piece in pieces]

    return cut


def _writing(
    ids: dict[str, int], settings: Settings, tokens: Iterable[Token], languages: Languages | None = None
) -> Description:
    """The side that is written: pieces joined, spaces for their marks."""
    decoder: Part = {"type": "Sequence", "decoders": [replace_part(SPACE, " "), {"type": "Fuse"}]}
    stages: dict[str, Part | None] = {"normalizer": None, "pre_tokenizer": None, "post_processor": None}
    unknown = settings.name("unk_token")
    return Description(
        Subwords("WordLevel", ids, [], [], {"unk_token": unknown}),
        {**stages, "decoder": decoder},
        tuple(tokens),
        strips=True,
        languages=languages,
    )
