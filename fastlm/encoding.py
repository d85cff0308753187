"""What a model makes of whole texts: vectors, labels, answers, probabilities. `Model` has these methods.

Each imports its task when it is called: programs that only write text load none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastlm.engine import Engine
from fastlm.tokenizer.prompts import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastlm.tasks.labels import Label, Span
    from fastlm.tasks.rerank import Ranked
    from fastlm.tasks.spans import Filled

Progress = Callable[[int, int | None], None]


class Encoding:
    """Texts are read whole; nothing is written on."""

    engine: Engine

    def _with(self, adapter: str | None) -> Engine:
        if adapter is None:
            return self.engine
        from fastlm.generation import adapter_name

        return self.engine.adapted(adapter_name(adapter))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this checkpoint is for, such as ("generate", "chat", "embed") or ("classify", "embed")."""
        return self.engine.tasks

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        pooling: str | Sequence[str] = "auto",
        normalize: bool | str = "auto",
        dimensions: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
        adapter: str | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts: float32 (n, D), or (D,) of one text alone.

        Parameters
        ----------
        texts
            A text, or any number of them; an iterator is read piece by piece.
        prompt_name
            Of the folder's prompts, that which is put before each text.
        pooling
            "mean" of the tokens' hidden states, "max", "cls" (the first), "lasttoken", "mean_sqrt_len_tokens" or
            "weightedmean", or a list of them, whose vectors are put together; "auto": what the folder of
            sentence-transformers says, else the mean. What its other modules make of it comes behind.
        normalize
            Whether vectors have length 1; "auto": what that folder says, else yes.
        dimensions
            How many numbers of each vector to keep, from its beginning (Kusupati et al. 2022); None: what that folder
            says, else all.
        truncate
            Cut off what is longer than the folder of sentence-transformers says, or than the context. Otherwise a
            longer text is an error.
        progress
            Called with (texts done, texts in all or None).
        adapter
            The name of a loaded adapter to run with.

        Raises
        ------
        ContextLengthError
            A text has more tokens than the model can read.
        ParameterError, UnsupportedError
            An argument is out of range, or this model gives no vectors.
        """
        from fastlm.tasks.embed import embed

        return embed(
            self._with(adapter),
            texts,
            prompt_name=prompt_name,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            truncate=truncate,
            progress=progress,
        )

    def embed_sparse(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        top_k: int | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
        adapter: str | None = None,
    ) -> list[dict[str, float]]:
        """Weights of the vocabulary's words for each text, the heaviest first, as SPLADE makes them.

        Parameters
        ----------
        top_k
            How many words to keep of each text; None: all whose weight is above 0.

        The others are as of `embed`. Raises as `embed`; UnsupportedError where the folder lists no SpladePooling.
        """
        from fastlm.tasks.sparse import embed_sparse

        return embed_sparse(
            self._with(adapter), texts, prompt_name=prompt_name, top_k=top_k, truncate=truncate, progress=progress
        )

    def embed_tokens(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        truncate: bool = False,
        progress: Progress | None = None,
        adapter: str | None = None,
    ) -> list[NDArray[np.float32]]:
        """Vectors of the tokens of each text, float32 (tokens, D), for `fastlm.max_sim`: late interaction.

        Parameters
        ----------
        prompt_name
            "query", or "document" (the default, unless the folder says otherwise): what the texts are.

        The others are as of `embed`. Raises as `embed`; UnsupportedError where the folder has no modules for it.
        """
        from fastlm.tasks.late import embed_tokens

        engine = self._with(adapter)
        return embed_tokens(engine, texts, prompt_name=prompt_name, truncate=truncate, progress=progress)

    def classify(
        self,
        texts: Iterable[Any],
        *,
        labels: Sequence[str] | None = None,
        top_k: int | None = None,
        adapter: str | None = None,
    ) -> list[list[Label]]:
        """Labels of texts or pairs of texts, best first.

        Parameters
        ----------
        labels
            Others than the head's own, told apart by natural-language inference (a head that knows entailment).
        top_k
            How many to give for each text; None: all.
        adapter
            As of `embed`; so in all that follows.

        Raises UnsupportedError where the checkpoint has no such head, and ContextLengthError.
        """
        from fastlm.tasks.labels import classify

        return classify(self._with(adapter), texts, labels, top_k)

    def tag(self, text: str, *, adapter: str | None = None) -> list[Span]:
        """Names and whatever else the head finds in a text, in order: label, score, text[start:end].

        A word is what its first piece is; neighbours of one kind (B-X, I-X) are one span. Raises as `classify`.
        """
        from fastlm.tasks.labels import tag

        return tag(self._with(adapter), text)

    def fill_mask(self, text: str, top_k: int = 5, *, adapter: str | None = None) -> list[Filled] | list[list[Filled]]:
        """What may stand for the mask token in a text, best first; for several of them, a list for each."""
        from fastlm.tasks.spans import fill_mask

        return fill_mask(self._with(adapter), text, top_k)

    def answer(
        self, question: str, context: str, top_k: int = 1, *, no_answer: bool = False, adapter: str | None = None
    ) -> list[Span]:
        """The best spans of the context that answer a question: score, context[start:end]. Raises as `classify`.

        With `no_answer`, an empty span, text "", competes with them: how much a model that was trained to say so says
        that the context holds no answer.
        """
        from fastlm.tasks.spans import answer

        return answer(self._with(adapter), question, context, top_k, no_answer)

    def rerank(
        self,
        query: str,
        docs: Iterable[str],
        *,
        top_n: int | None = None,
        prompt_name: str | None = None,
        adapter: str | None = None,
    ) -> list[Ranked]:
        """Documents by how well they answer a query, best first, as sentence-transformers' CrossEncoder scores them.

        The model is a cross-encoder, or a decoder whose folder lists a LogitScore. `prompt_name` is as of `embed`.
        Raises as `classify`.
        """
        from fastlm.tasks.rerank import rerank

        return rerank(self._with(adapter), query, docs, top_n, prompt_name)

    def next_tokens(self, prompt: Prompt, k: int = 10, *, adapter: str | None = None) -> list[tuple[int, str, float]]:
        """The k most probable next tokens: (id, text, probability), best first."""
        from fastlm.tasks.forward import next_tokens

        return next_tokens(self._with(adapter), prompt, k)

    def loglikelihood(self, text: Prompt, *, continuation: Prompt | None = None, adapter: str | None = None) -> float:
        """Natural log-probability of a text, or of a continuation after it (with the space between them, if any)."""
        from fastlm.tasks.score import loglikelihood

        return loglikelihood(self._with(adapter), text, continuation)

    def perplexity(
        self, text: Prompt, *, window: int | None = None, stride: int | None = None, adapter: str | None = None
    ) -> float:
        """exp of the mean negative log-likelihood per token, over windows of a long text.

        window: tokens that a window sees (default: the context); stride: from one to the next (default: half of it).
        """
        from fastlm.tasks.score import perplexity

        return perplexity(self._with(adapter), text, window, stride)
