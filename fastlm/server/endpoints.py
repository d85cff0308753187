"""From HTTP to the functions that answer, and back: errors, limits and clients that go, alike for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from fastlm.errors import FastlmError
from fastlm.server.http import Gone, Message, Receive, Scope, Send, read_json, reply, send_events, too_slow, unless_gone
from fastlm.server.refusals import Refusal, refusal_of
from fastlm.server.service import Service

log = logging.getLogger("fastlm.server")
Answer = dict[str, Any] | AsyncGenerator[bytes, None]
Handler = Callable[[Service, Any], Coroutine[Any, Any, Answer]]
GONE = 499  # what is counted where a client did not wait for the answer


class Post:
    """An endpoint that takes a JSON object, and answers with one or with a stream of events."""

    def __init__(self, path: str, service: Service, handler: Handler) -> None:
        self.path = path
        self._service = service
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._service.limits
        body = await read_json(scope, receive, limits)
        with self._service.place(scope):
            await unless_gone(receive, self._answer(self._service.of(scope), body, send))

    async def _answer(self, service: Service, body: Any, send: Send) -> None:
        limits = service.limits
        try:
            answer = await asyncio.wait_for(self._handler(service, body), limits.seconds)
        except asyncio.TimeoutError:
            raise too_slow(limits.seconds) from None
        if isinstance(answer, dict):
            await reply(send, answer)
            return
        try:
            await send_events(send, answer, limits.seconds, limits.stall_seconds)
        finally:
            await answer.aclose()


class Door:
    """Every request comes through here: who may ask, what is counted, and how errors are answered.

    Parameters
    ----------
    app
        The ASGI application behind it.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._service.check(scope)
                await self._app(scope, receive, counting)
            except Exception as error:
                refusal = _refusal(error)
                if status:  # the answer has begun: all that can be said is that it is not whole
                    raise Gone from error
                await reply(counting, refusal.body(), refusal.status, refusal.headers)
        except Gone:
            status = GONE
        finally:
            path = getattr(scope.get("endpoint"), "path", "other")
            self._service.metrics.answered(path, status or GONE, time.monotonic() - begun)


def _refusal(error: Exception) -> Refusal:
    """The answer to an error; what nobody expected is told to the log, not to the client."""
    if isinstance(error, Gone):
        raise error
    if isinstance(error, Refusal):
        return error
    if isinstance(error, FastlmError):
        return refusal_of(error, ())
    log.error("an error that nobody expected", exc_info=error)
    return Refusal(500, "an error in the server", kind="server_error", code="server_error")
