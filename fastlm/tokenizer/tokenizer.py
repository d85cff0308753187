"""Text to token ids and back, by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastlm.arguments import has_surrogate, items, token_id
from fastlm.errors import ParameterError
from fastlm.tokenizer.components import Part, parts_of
from fastlm.tokenizer.description import Description, without_first_space
from fastlm.tokenizer.library import library_errors, make_library
from fastlm.tokenizer.settings import Settings

if TYPE_CHECKING:
    import tokenizers

    from fastlm.tokenizer.languages import Languages
    from fastlm.tokenizer.reading import Reading
    from fastlm.tokenizer.segments import Segments
    from fastlm.tokenizer.stages import Pipeline
    from fastlm.tokenizer.table import PieceTable

SHORT_TEXT = 2000  # characters, or ids, for which the library keeps the interpreter's lock: a millisecond
END_OF_IDS = 1 << 32
_ENCODING = library_errors("text: the tokenizer cannot encode it", ParameterError)
_DECODING = library_errors("ids: the tokenizer cannot decode them", ParameterError)


class Tokenizer:
    """A model's tokenizer.

    Attributes
    ----------
    config
        tokenizer_config.json.
    special_tokens
        By their names: "bos_token", "eos_token" ...
    bos, pad
        Ids of two of them, or None.
    eos
        The end tokens that the tokenizer's files name.
    prints_by_table
        Whether `table` says what ids print; else text comes from `pipeline` (WordPiece and the like).
    languages
        Those that a translator's texts may be in, or None.
    """

    def __init__(
        self, description: Description, settings: Settings, where: str, segments: Segments | None = None
    ) -> None:
        self._segments = segments  # where texts are not cut by the library alone
        self.languages = description.languages
        self._description = replace(description, subwords=replace(description.subwords, merges=[]))  # which are large
        with library_errors(f"{where}: not a tokenizer"):
            self._library = self._made(description.subwords.library_model(), description.stages)
        self.config: Mapping[str, Any] = settings.options
        self.special_tokens = {name: text for name in settings.named if (text := settings.name(name)) is not None}
        self.bos, self.pad, end = (
            None if (text := self.special_tokens.get(f"{name}_token")) is None else self._library.token_to_id(text)
            for name in ("bos", "pad", "eos")
        )
        self.eos = [] if end is None else [end]
        decoder = description.stages["decoder"]
        self._decoder = parts_of("decoder", decoder) or ([{"type": "Fuse"}] if decoder else [])
        if description.skips_invalid:
            self._decoder = [{**part, "errors": "ignore"} for part in self._decoder]

    def __repr__(self) -> str:
        return f"<fastlm.Tokenizer of {self.vocab_size:,} tokens>"

    def _made(self, model: tokenizers.models.Model, stages: Mapping[str, Part | None]) -> tokenizers.Tokenizer:
        library = make_library(model, stages, self._description.tokens)
        library.encode_special_tokens = self._description.splits_special
        return library

    @cached_property
    def _pieces(self) -> list[str]:
        """The text of each id as the decoder gets it."""
        pieces, doubtful = self._description.subwords.pieces()
        asked = doubtful.union(self._library.get_added_tokens_decoder())
        pieces += [""] * (max(asked, default=-1) + 1 - len(pieces))
        for i in asked:
            pieces[i] = self._library.id_to_token(i) or ""
        return pieces

    @cached_property
    def _special(self) -> frozenset[str]:
        return frozenset(token.content for token in self._description.tokens if token.special)

    @cached_property
    def end_of_model(self) -> int:
        """The first number after the ids that the model must have rows for: not those of added tokens."""
        added = self._library.get_added_tokens_decoder()
        last = self._description.subwords.end() - 1
        while last in added:
            last -= 1
        return last + 1

    @cached_property
    def prints_by_table(self) -> bool:
        from fastlm.tokenizer.table import is_table

        made = self._description
        changed = made.strips or made.skips_invalid or made.replacements
        return not changed and is_table(self._decoder, lambda: self._pieces)

    @cached_property
    def table(self) -> PieceTable | None:
        """The id -> bytes table, made when it is first asked for: a .flm file has it already."""
        if not self.prints_by_table:
            return None
        from fastlm.tokenizer.table import piece_table

        special = [piece in self._special for piece in self._pieces]
        return piece_table(self._decoder, self._pieces, special)

    def pipeline(self) -> Pipeline:
        """A decoder in its first state, for tokens as they arrive."""
        from fastlm.tokenizer.streaming import make_pipeline

        return make_pipeline(self._decoder, self._description.replacements, self._description.strips)

    def plain(self, name: str) -> PieceTable:
        """What ids print wherever they stand. UnsupportedError: nobody can say; `name` is what wants to know."""
        from fastlm.tokenizer.table import plain_table

        return plain_table(self._decoder, self._pieces, [piece in self._special for piece in self._pieces], name)

    def plain_pipeline(self) -> Pipeline:
        """A decoder by `plain`."""
        from fastlm.tokenizer.stages import Pipeline, Printed

        return Pipeline([Printed(dict(zip(self._pieces, self.plain("text").pieces, strict=True)))])

    def piece_of(self, token: int) -> str | None:
        """What a pipeline takes for a token; None: it prints nothing."""
        piece = self._library.id_to_token(token)
        return None if piece is None or piece in self._special else str(piece)

    @cached_property
    def _going_on(self) -> tokenizers.Tokenizer:
        """The library, but for the space that it puts before a text."""
        changed = {name: without_first_space(part) for name, part in self._description.stages.items()}
        return self._library if changed == self._description.stages else self._made(self._library.model, changed)

    @property
    def vocab_size(self) -> int:
        return int(self._library.get_vocab_size())

    def encode(self, text: str, *, special: bool = True, start: bool = True) -> list[int]:
        """Token ids of a text.

        Parameters
        ----------
        special
            Add what the tokenizer adds by itself (often the beginning of sequence).
        start
            False: the text goes on after another one, so that no space is put before it where a tokenizer would.

        Raises
        ------
        ParameterError
            The text holds a lone surrogate, or the tokenizer cannot say it.
        """
        if not isinstance(text, str):
            raise ParameterError(f"text must be a string, not {type(text).__name__}")
        if has_surrogate(text):
            raise ParameterError("text holds a lone surrogate, which UTF-8 cannot say")
        if self._segments is not None:
            return self._segments.ids(text, special)
        with _ENCODING:
            library = self._library if start else self._going_on
            if len(text) <= SHORT_TEXT:
                return list(library.encode(text, add_special_tokens=special).ids)
            (found,) = library.encode_batch_fast([text], add_special_tokens=special)  # without the interpreter's lock
            return list(found.ids)

    def encode_source(self, text: str, source_lang: str) -> list[int]:
        """Ids of a text to translate, with the tokens of its language around it.

        Raises
        ------
        ParameterError
            The model knows no such language, or none at all.
        """
        before, after = self._known("source_lang").around(source_lang)
        return [*before, *self.encode(text, special=False), *after]

    def target_start(self, target_lang: str) -> int:
        """The token that a translation into a language begins with: forced_bos_token_id.

        Raises
        ------
        ParameterError
            The model knows no such language, or none at all.
        """
        return self._known("target_lang").of(target_lang, "target_lang")

    def _known(self, argument: str) -> Languages:
        if self.languages is None:
            raise ParameterError(f"{argument}: this model's tokenizer has no tokens for languages: leave it out")
        return self.languages

    @property
    def reads_pairs(self) -> bool:
        """Whether it marks where the second text of a pair begins."""
        added = self._library.num_special_tokens_to_add
        return bool(added(True) > added(False))

    def read(self, texts: Sequence[tuple[str, ...]], **options: Any) -> list[Reading]:
        """Texts and pairs of texts as an encoder reads them; see `reading.read`."""
        if self._segments is not None:
            raise ParameterError("this tokenizer is a translator's: it reads prompts only")
        from fastlm.tokenizer.reading import read

        return read(self._library, texts, **options)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; those that stand for nothing print nothing.

        Raises
        ------
        ParameterError
            One is no token id.
        """
        values = ids if type(ids) is list else list(items(ids, "ids", "a list of token ids"))
        with _DECODING:
            try:
                text = self._text(values, skip_special)
            except (OverflowError, TypeError):
                for value in values:
                    token_id(value, END_OF_IDS, "ids")
                raise
        for old, new in self._description.replacements:
            text = text.replace(old, new)
        return text.strip() if self._description.strips else text

    def _text(self, ids: list[int], skip_special: bool) -> str:
        if self._description.skips_invalid:
            pieces = map(self.piece_of if skip_special else self._library.id_to_token, ids)
            pipeline = self.pipeline()
            return pipeline.push([piece for piece in pieces if piece is not None]) + pipeline.end()
        if len(ids) <= SHORT_TEXT:
            return str(self._library.decode(ids, skip_special_tokens=skip_special))
        return str(self._library.decode_batch([ids], skip_special_tokens=skip_special)[0])

    def piece(self, token: int) -> str:
        """What one token prints by itself (a part of a code point shows as U+FFFD).

        Raises
        ------
        ParameterError
            It is no token id.
        """
        token = token_id(token, END_OF_IDS, "token")
        if self.table is not None and token < len(self.table.pieces):
            return self.table.pieces[token].decode("utf-8", "replace")
        return self.decode([token], skip_special=False)

    def name_of(self, token: int) -> str:
        """How the vocabulary writes a token; <1234> for one that it lacks."""
        found = self._library.id_to_token(token)
        return f"<{token}>" if found is None else str(found)

    def id_of(self, piece: str) -> int | None:
        """The token that is written so, or None."""
        found = self._library.token_to_id(piece)
        return None if found is None else int(found)

    def count(self, text: str) -> int:
        """Number of tokens of a text, special ones included."""
        return len(self.encode(text))

    def stop_tokens(self, stop: Sequence[str]) -> list[int]:
        """Ids of the special tokens among stop strings: they print nothing, so that no text ends with them.

        Raises
        ------
        ParameterError
            One holds a special token beside other text.
        """
        found: list[int] = []
        for text in stop:
            special = next((s for s in self._special if s in text), None)
            token = None if special is None else self._library.token_to_id(special)
            if token is not None and special == text:
                found.append(token)
            elif special is not None and self._is_read(special, text):
                raise ParameterError(
                    f"stop: {text!r:.80} holds the special token {special!r:.40}, which prints nothing: give the token "
                    f"alone, or stop_token_ids=[{self._library.token_to_id(special)}]"
                )
        return found

    def _is_read(self, special: str, text: str) -> bool:
        return self._library.token_to_id(special) in self.encode(text, special=False, start=False)
