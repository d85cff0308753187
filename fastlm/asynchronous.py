"""The methods of Model for asyncio. Nothing of it is imported before the first of them is called."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastlm.encoding import Encoding
from fastlm.tokenizer.prompts import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastlm.generation import Request
    from fastlm.results import Chunk, Completion
    from fastlm.tasks.generate import Progress


class Asynchronous(Encoding):
    """No thread waits for a request: one thread of the context runs the steps of all of them.

    Cancelling a task cancels its request, within a step. Requests of tasks and of threads share steps.
    """

    async def agenerate(self, prompt: Prompt | Request, **params: Any) -> Completion:
        """As `generate`, for a task to await; `cancel` is an error, since cancelling the task does that.

        Raises as `generate`; StateError where the model is closed meanwhile.
        """
        from fastlm.tasks import posted

        return await posted.generate(self.engine, prompt, params)

    def astream(self, prompt: Prompt | Request, **params: Any) -> AsyncGenerator[Chunk, None]:
        """As `stream`, an asynchronous generator: `async for`. Errors of arguments come with the first piece.

        Leaving it early cancels at once where it is closed (`contextlib.aclosing`), else when it is collected.
        """
        from fastlm.tasks import posted

        return posted.stream(self.engine, prompt, params)

    async def achat(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Completion:
        """As `chat`, for a task to await."""
        from fastlm.tasks import posted
        from fastlm.tasks.chat import variables_of

        variables = variables_of(tools, documents, template_kwargs)
        return await posted.chat(self.engine, messages, variables, params, tool_choice)

    async def abatch(
        self, prompts: Iterable[Prompt | Request], *, progress: Progress | None = None, **params: Any
    ) -> list[Completion]:
        """As `batch`, for a task to await; prompts are counted as they end."""
        from fastlm.tasks import posted

        return await posted.batch(self.engine, prompts, params, progress)

    async def aembed(self, texts: str | Iterable[str], **options: Any) -> NDArray[np.float32]:
        """As `embed`, in a thread of the loop's own few. Cancelling the task does not end what is computed already."""
        import asyncio

        return await asyncio.to_thread(self.embed, texts, **options)
