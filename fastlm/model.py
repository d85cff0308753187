"""Model: a loaded checkpoint and what can be done with it. Each method imports its task when it is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from fastlm.asynchronous import Asynchronous
from fastlm.engine import Engine
from fastlm.errors import ParameterError
from fastlm.tokenizer.prompts import Prompt

if TYPE_CHECKING:
    from fastlm.generation import Request
    from fastlm.results import Chunk, Completion
    from fastlm.session import Session
    from fastlm.tasks.forward import Outputs
    from fastlm.tasks.generate import Progress


class Model(Asynchronous):
    """A loaded model, from `fastlm.load`. Its methods may be called from several threads at once."""

    def __init__(self, engine: Engine) -> None:
        self._adopt(engine)

    def _adopt(self, engine: Engine) -> None:
        self.engine = engine
        self.bos = engine.info["bos"]
        self.spec = engine.spec
        self.kind = engine.kind
        self.config = engine.config
        self.tokenizer = engine.tokenizer

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<fastlm.Model {self.engine}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ParameterError(
            "a Model cannot be copied or pickled: its weights and threads belong to this process. Threads may share "
            "it; other processes load it again, from a .flm file in no time and with shared memory"
        )

    def close(self) -> None:
        """Free the weights once running calls have ended; the model cannot be used any more."""
        self.engine.close()

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return self.engine.longest

    @property
    def vocab(self) -> int:
        """Rows of the logits."""
        return self.engine.vocab

    @property
    def threads(self) -> int:
        """How many threads it has; those that something else holds up stay out of steps (`Timings.threads`)."""
        return self.engine.context.threads

    def memory(self) -> dict[str, int]:
        """Bytes: weights, step buffers, KV pages per token, and the most that KV pages may take."""
        info = self.engine.core.info()
        names = ("weight_bytes", "scratch_bytes", "kv_bytes_per_token", "kv_bytes")
        return {name: int(info[name] or 0) for name in names}

    # ---- generation -----------------------------------------------------------------------------

    def generate(self, prompt: Prompt | Request, **params: Any) -> Completion:
        """Write on from a prompt.

        Parameters
        ----------
        prompt
            Text (special tokens are added as the tokenizer says), token ids (taken as given), or a `Request`.
        **params
            max_tokens (256), temperature (0 is greedy), top_k, top_p, min_p, typical_p, repetition_penalty,
            presence_penalty, frequency_penalty (both over written tokens), no_repeat_ngram_size,
            encoder_no_repeat_ngram_size, num_beams, length_penalty, early_stopping (True, False or "never"), n, seed,
            stop (strings), stop_token_ids, min_tokens, ignore_eos, forced_bos_token_id, forced_eos_token_id,
            suppress_tokens, begin_suppress_tokens, bad_words_ids, logit_bias ({id: value}), logprobs (k), attentions
            (True: what each written token looked at), echo, adapter (the name of a loaded one), draft
            (`fastlm.Draft(model)` or `fastlm.Lookup()`: the same text, sooner), source_lang and target_lang (of
            translators of several), json_schema (a dict, JSON, a dataclass or a pydantic model), regex or grammar
            (Lark): what the whole text must be (docs/structured.md), cancel (an object with is_set()). None means
            absent; then generation_config.json counts, then off. Beams and processors are those of transformers.

        Raises
        ------
        ParameterError
            A parameter is unknown, out of range, or cannot be honoured.
        ContextLengthError
            The prompt is longer than the context.
        """
        from fastlm.tasks.generate import generate

        return generate(self.engine, prompt, params)

    def stream(self, prompt: Prompt | Request, **params: Any) -> Iterator[Chunk]:
        """As `generate`, piece by piece: whole code points that add up to the text. Closing the iterator cancels."""
        from fastlm.tasks.generate import stream

        return stream(self.engine, prompt, params)

    def batch(
        self, prompts: Iterable[Prompt | Request], *, progress: Progress | None = None, **params: Any
    ) -> list[Completion]:
        """Generate for many prompts together, in shared steps; the results are those of separate calls, in order.

        An error names the prompt that it is about: prompts[3].

        Parameters
        ----------
        progress
            Called with (prompts done, prompts in all), once for each of them, in their order.
        **params
            As of `generate`; a `Request` has its own, which count before them.
        """
        from fastlm.tasks.generate import batch

        return batch(self.engine, prompts, params, progress)

    def chat(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Completion:
        """Answer a conversation by the model's chat template.

        Parameters
        ----------
        messages
            {"role": ..., "content": ...} each.
        tools, documents
            JSON schemas of functions that the answer may call, and texts ({"title": ..., "text": ...}) to answer from.
            Where the template does not read them, they are an error.
        tool_choice
            "auto" (or None): the model decides whether to call one; "none": it does not hear of them; "required", or
            the name of one: the answer is a call of any, or of that one, with arguments by its schema (by a grammar).
        template_kwargs
            What else `chat_prompt` takes: continue_final_message, chat_template, or variables of the template.
        **params
            As of `generate`.

        Raises
        ------
        ParameterError
            The template does not take these messages, or reads no such variable; or as `generate`.
        ModelFormatError
            The template is malformed.
        """
        from fastlm.tasks.chat import chat, variables_of

        variables = variables_of(tools, documents, template_kwargs)
        return chat(self.engine, messages, variables, params, tool_choice)

    def chat_prompt(self, /, messages: Sequence[Any], **variables: Any) -> list[int]:
        """Token ids of a conversation, ready for the answer; the template writes all special tokens itself.

        Parameters
        ----------
        messages
            {"role": ..., "content": ...} each; objects with such fields (dataclasses, pydantic models) will do.
        tools, documents
            As of `chat`.
        add_generation_prompt
            False: without the start of the answer.
        continue_final_message
            True: without the end of the last message, so that the answer goes on with it; or the name of the field to
            go on with, such as "reasoning_content".
        chat_template
            The name of one of the model's templates, where it has several ("tool_use" is taken where there are tools).
        **variables
            Others that the template reads, such as enable_thinking.

        Raises as `chat`.
        """
        from fastlm.tasks.chat import chat_ids

        return chat_ids(self.engine, messages, variables)

    def session(self) -> Session:
        """A sequence that keeps its state between calls."""
        from fastlm.session import Session

        return Session(self.engine, self.engine.core.session())

    # ---- adapters -------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | os.PathLike[str], *, scale: float = 1.0) -> None:
        """Load a LoRA from the folder that PEFT wrote, for calls that name it: `generate(prompt, adapter=name)`.

        The model's own weights stay as they are, in whatever format; requests with different adapters, and without,
        share steps. May be called while others run.

        Parameters
        ----------
        scale
            How much of the adapter to add; 1 is what it was trained for.

        Raises
        ------
        ModelFileError, ModelFormatError, UnsupportedError
            There is no such folder, it is malformed or of another model, or this version cannot run it.
        ParameterError
            An adapter of that name is loaded already.
        """
        from fastlm.parameters import number

        self.engine.adapters.load(self.engine, name, path, number(scale, "scale"))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. What runs with it goes on; its memory is free when nothing does any more."""
        self.engine.adapters.unload(name)

    def merge_adapter(self, name: str) -> None:
        """Add an adapter to the weights: they are read again, changed in float32 as PEFT does, and packed anew.

        Then the model is what `adapter=name` made of it, and no adapter of that name is loaded. Others are loaded
        again. Sessions, and calls that run, stay with the old weights.

        Raises
        ------
        UnsupportedError
            The model is a .flm file, or the adapter adds a bias where the model has none.
        ModelMemoryError
            There is no room for both the old and the new weights.
        """
        from fastlm.merging import with_merged

        self._adopt(with_merged(self.engine, name))

    # ---- looking inside -------------------------------------------------------------------------

    def forward(
        self,
        ids: Iterable[int],
        *,
        decoder_ids: Iterable[int] | None = None,
        token_type_ids: Iterable[int] | None = None,
        logits: str = "all",
        attentions: bool = False,
        hidden_states: bool = False,
        adapter: str | None = None,
    ) -> Outputs:
        """Run one sequence of T tokens and return its logits and whatever else is asked for.

        Parameters
        ----------
        ids
            Token ids; of an encoder-decoder: the encoder's, and `decoder_ids` are the decoder's.
        token_type_ids
            One per token, for encoders that have them.
        logits
            "all" tokens or the "last".
        attentions
            How much each token attends to each other, in every layer and head: see `Outputs`.
        adapter
            The name of a loaded adapter to run with.
        """
        from fastlm.tasks.forward import Wanted, run_forward

        wanted = Wanted(logits, attentions, hidden_states)
        return run_forward(self._with(adapter), ids, decoder_ids, token_type_ids, wanted)
