"""Model: a loaded checkpoint and what can be done with it. Wires tokenizer, parameters and the C core together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from fastlm import _core
from fastlm.arch.spec import ModelSpec
from fastlm.arguments import items, shown, whole
from fastlm.errors import Cancelled, ParameterError, StateError, UnsupportedError
from fastlm.generation import Parameters, Request, not_honoured, resolve
from fastlm.results import Chunk, Completion
from fastlm.running import Flags, Run
from fastlm.session import Session
from fastlm.tasks.forward import Outputs, Wanted, best_tokens, run_forward
from fastlm.tasks.score import loglikelihood, perplexity
from fastlm.tokenizer.chat import ChatTemplate
from fastlm.tokenizer.prompts import Prompt, Prompts
from fastlm.tokenizer.tokenizer import Tokenizer
from fastlm.weights.source import ModelSource


@dataclass(frozen=True, slots=True)
class Parts:
    """What `load` hands to a Model."""

    core: _core.Model
    context: _core.Context
    spec: ModelSpec
    config: Mapping[str, object]
    generation_config: Mapping[str, object]
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    source: ModelSource


class Model:
    """A loaded model, from `fastlm.load`. Its methods may be called from several threads at once."""

    def __init__(self, parts: Parts) -> None:
        self._core = parts.core
        self._context = parts.context
        self._info = parts.core.info()
        self._generation_config = parts.generation_config
        self._template = parts.template
        self._source = parts.source
        self.bos = self._info["bos"]
        self.spec = parts.spec
        self.kind = parts.spec.kind
        self.config = parts.config
        self.tokenizer = parts.tokenizer
        self._prompts = Prompts(parts.tokenizer, self.vocab)
        self._closed = False
        if ignored := not_honoured(parts.generation_config):
            import logging  # here, because it costs every import of fastlm several milliseconds

            text = "generation_config.json: this version does not honour %s"
            logging.getLogger("fastlm").warning(text, ", ".join(ignored))

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info, closed = self._info, ", closed" if self._closed else ""
        return (
            f"<fastlm.Model {self.config.get('model_type')} ({self.kind}), {info['parameters']:,} parameters, "
            f"{info['format']}{closed}>"
        )

    def close(self) -> None:
        """Free the weights once running calls have ended; the model cannot be used any more."""
        self._closed = True
        self._core.close()

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return int(self._info["context"] or 0)

    @property
    def vocab(self) -> int:
        """Rows of the logits."""
        return int(self._info["vocab"] or 0)

    def memory(self) -> dict[str, int]:
        """Bytes: weights, step buffers, KV pages per token, and the most that KV pages may take."""
        info = self._core.info()
        names = ("weight_bytes", "scratch_bytes", "kv_bytes_per_token", "kv_bytes")
        return {name: int(info[name] or 0) for name in names}

    # ---- prompts and parameters -----------------------------------------------------------------

    def _parameters(self, params: Mapping[str, Any]) -> Parameters:
        if self._closed:
            raise StateError("the model is closed")
        return resolve(params, self._generation_config, self.vocab)

    def _run(self, prompt: Prompt, p: Parameters) -> Run:
        """A request on a session of its own."""
        if self.kind == "encoder":
            raise UnsupportedError("an encoder writes no text: use forward()")
        ids = self._prompts.ids(prompt)
        echo = self._prompts.echo(prompt, ids, p.echo)
        session = self._core.session()
        if self.kind == "decoder":
            return Run(session, ids, p, self.tokenizer, echo)
        start = [self._decoder_start()]
        try:
            session.encode(np.array(ids, np.int32), p.cancel)
        except Cancelled:
            return Run(None, start, p, self.tokenizer, echo, len(ids))
        return Run(session, start, p, self.tokenizer, echo, len(ids))

    def _decoder_start(self) -> int:
        start = self._info["decoder_start"]
        if start is None:
            raise ParameterError(
                "config.json names no decoder_start_token_id in the vocabulary: the decoder has nothing to start from"
            )
        return int(start)

    # ---- generation -----------------------------------------------------------------------------

    def generate(self, prompt: Prompt | Request, **params: Any) -> Completion:
        """Write on from a prompt.

        Parameters
        ----------
        prompt
            Text (special tokens are added as the tokenizer says), token ids (taken as given), or a `Request`.
        **params
            max_tokens (256), temperature (0 is greedy), top_k, top_p, min_p, typical_p, repetition_penalty,
            presence_penalty, frequency_penalty (both over written tokens), no_repeat_ngram_size, n, seed, stop
            (strings), stop_token_ids, min_tokens, ignore_eos, logit_bias ({id: value}), logprobs (k), echo, cancel (an
            object with is_set()). None means absent; then generation_config.json counts, then off.

        Raises
        ------
        ParameterError
            A parameter is unknown, out of range, or cannot be honoured.
        ContextLengthError
            The prompt is longer than the context.
        """
        return self.batch([prompt], **params)[0]

    def stream(self, prompt: Prompt | Request, **params: Any) -> Iterator[Chunk]:
        """As `generate`, piece by piece: whole code points that add up to the text. Closing the iterator cancels."""
        prompt, p = self._one(prompt, params)
        if p.n != 1:
            raise ParameterError("n: a stream has one text; call stream n times or use generate")
        return self._run(prompt, p).chunks()

    def batch(self, prompts: Iterable[Prompt | Request], **params: Any) -> list[Completion]:
        """Generate for many prompts together, in shared steps; the results are those of separate calls, in order."""
        runs: list[Run] = []
        sizes: list[int] = []
        try:
            for item in items(prompts, "prompts", "a list of prompts (generate() takes a single one)"):
                prompt, p = self._one(item, params)
                fresh = self._several(prompt, p) if p.n > 1 else [self._run(prompt, p)]
                runs += fresh
                sizes.append(len(fresh))
            flags = Flags(flagged for run in runs for flagged in run.flags.flagged)
            for run in runs:
                run.flags = flags
            done = [run.completion() for run in runs]
        finally:
            for run in runs:
                run.close()
        groups, at = [], 0
        for size in sizes:
            first, *others = done[at : at + size]
            groups.append(replace(first, alternatives=tuple(others)) if others else first)
            at += size
        return groups

    def _one(self, prompt: Prompt | Request, params: Mapping[str, Any]) -> tuple[Prompt, Parameters]:
        if isinstance(prompt, Request):
            return prompt.prompt, self._parameters({**params, **prompt.params})
        return prompt, self._parameters(params)

    def _several(self, prompt: Prompt, p: Parameters) -> list[Run]:
        """n requests with seeds of their own on forks of one sequence, whose prompt is read once."""
        if self.kind != "decoder":
            return [self._run(prompt, replace(p, seed=(p.seed + i) % 2**64, n=1)) for i in range(p.n)]
        ids = self._prompts.ids(prompt)
        echo = self._prompts.echo(prompt, ids, p.echo)
        first = self._core.session()
        forks: list[_core.Session | None] = [None] * p.n
        try:
            if len(ids) > 1:
                _core.forward(self._core, [_core.Item(first, np.array(ids[:-1], np.int32), rows=0)], p.cancel)
            forks = [first, *(first.fork() for _ in range(p.n - 1))]
        except Cancelled:
            pass
        return [
            Run(fork, ids[-1:], replace(p, seed=(p.seed + i) % 2**64, n=1), self.tokenizer, echo, len(ids))
            for i, fork in enumerate(forks)
        ]

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, template_kwargs: Mapping[str, Any] | None = None, **params: Any
    ) -> Completion:
        """Answer a conversation ({"role": ..., "content": ...} each) by the model's chat template."""
        variables = {} if template_kwargs is None else template_kwargs
        if not isinstance(variables, Mapping):
            raise ParameterError(f"template_kwargs must be a mapping, not {shown(variables)}")
        return self.generate(self.chat_prompt(messages, **variables), **params)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Token ids of a conversation, ready for the answer; the template writes all special tokens itself."""
        tokenizer = self._prompts.tokenizer()
        if self._template is None:
            raise UnsupportedError("this model has no chat template: use generate() with a prompt of your own")
        return tokenizer.encode(self._template.render(messages, **variables), special=False)

    def session(self) -> Session:
        """A sequence that keeps its state between calls."""
        if self._closed:
            raise StateError("the model is closed")
        return Session(self, self._core.session())

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
        """
        wanted = Wanted(logits, attentions, hidden_states)
        return run_forward(self._core, self.spec, self._prompts, ids, decoder_ids, token_type_ids, wanted)

    def next_tokens(self, prompt: Prompt, k: int = 10) -> list[tuple[int, str, float]]:
        """The k most probable next tokens: (id, text, probability), best first."""
        k = whole(k, "k", 1, self.vocab)
        if self.kind != "decoder":
            raise UnsupportedError(f"next_tokens: this model is an {self.kind}")
        return best_tokens(self.forward(self._prompts.ids(prompt), logits="last"), k, self.tokenizer)

    def loglikelihood(self, text: Prompt, *, continuation: Prompt | None = None) -> float:
        """Natural log-probability of a text, or of a continuation after it (with the space between them, if any)."""
        ids = self._prompts.ids(text, name="text")
        after = None if continuation is None else self._prompts.ids(continuation, start=False, name="continuation")
        return loglikelihood(self._core, ids, after, self.vocab, self.context)

    def perplexity(self, text: Prompt, *, window: int | None = None, stride: int | None = None) -> float:
        """exp of the mean negative log-likelihood per token, over windows of a long text.

        window: tokens that a window sees (default: the context); stride: from one to the next (default: half of it).
        """
        ids = self._prompts.ids(text, name="text")
        return math.exp(perplexity(self._core, ids, self.vocab, self.context, window, stride))
