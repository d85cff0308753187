"""From HTTP to the functions that answer, and back: errors, limits and clients that go, alike for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from fastlm.errors import FastlmError
from fastlm.server.http import (
    Gone,
    Message,
    Receive,
    Scope,
    Send,
    inner_path,
    read_json,
    reply,
    send_events,
    too_slow,
    unless_gone,
)
from fastlm.server.refusals import Refusal, refusal_of
from fastlm.server.service import Service

log = logging.getLogger("fastlm.server")
Answer = dict[str, Any] | AsyncGenerator[bytes, None]
Handler = Callable[[Service, Any], Coroutine[Any, Any, Answer]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
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


class Endpoint(Protocol):
    """What answers at a path."""

    path: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Paths:
    """Which path leads where; a path that ends in a stroke goes for all below it."""

    def __init__(self, posts: Mapping[str, Endpoint], gets: Mapping[str, Endpoint]) -> None:
        self._posts = posts
        self._gets = gets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = inner_path(scope)
        post, get = self._posts.get(path), self._get(path)
        if post is None and get is None:
            raise Refusal(404, "there is nothing at this path")
        found = {"POST": post, "GET": get, "HEAD": get}.get(scope["method"])
        if found is None:
            allowed = "POST" if post is not None else "GET, HEAD"
            raise Refusal(405, "this path does not take this method", headers={"Allow": allowed})
        scope["endpoint"] = found
        await found(scope, receive, send)

    def _get(self, path: str) -> Endpoint | None:
        above = (
            one for start, one in self._gets.items() if start[-2:-1] and start[-1] == "/" and path.startswith(start)
        )
        return self._gets.get(path) or next(above, None)


class Door:
    """Every request comes through here: who may ask, what is counted, and how errors are answered.

    Parameters
    ----------
    app
        The ASGI application behind it.
    """

    def __init__(self, app: Application, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(scope, receive, send)
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


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    """A server that begins or ends, for which there is nothing to do; a WebSocket, which is not taken."""
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
    await receive()
    await send({"type": "websocket.close", "code": 1000})


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
