"""Bodies, answers and event streams over ASGI, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, TypeVar

from fastlm.server.limits import Limits
from fastlm.server.refusals import Refusal, busy

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
FAR = 8  # times too large


class Gone(Exception):
    """The client has closed its connection."""


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a header, b"" without it."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def inner_path(scope: Scope) -> str:
    """The path of a request below that at which the application is mounted."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


async def read_json(scope: Scope, receive: Receive, limits: Limits) -> Any:
    """The body of a request."""
    kind = header(scope, b"content-type").split(b";")[0].strip().lower()
    if kind != b"application/json":  # others could be sent by the pages of strangers, in a browser on this machine
        raise Refusal(415, "the header Content-Type must be application/json", code="unsupported_media_type")
    try:
        body = await asyncio.wait_for(_read(scope, receive, limits.body_bytes), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Refusal(
            408, "the request took too long to arrive", code="timeout", headers={"Connection": "close"}
        ) from None
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {str(error)[:200]}", code="invalid_json") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


async def _read(scope: Scope, receive: Receive, most: int) -> bytes:
    """What is too large is read, but not kept, so that the client sees why; unless it is far too large."""
    announced = header(scope, b"content-length")
    parts: list[bytes] = []
    size = 0
    if announced.isdigit() and int(announced[:20]) > FAR * most:
        raise _too_large(most)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size <= most:
            parts.append(part)
        if size > FAR * most or (size > most and not message.get("more_body", False)):
            raise _too_large(most)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(most: int) -> Refusal:
    text = f"the body is larger than this server takes: {most} bytes"
    return Refusal(413, text, code="request_too_large", headers={"Connection": "close"})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. It is cancelled when the client goes; that, and work that was cancelled, is Gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.cancelled() or not task.done():
            raise Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def reply(send: Send, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """Answer with a value as JSON."""
    body = JSON.encode(value).encode("utf-8", "backslashreplace")
    await reply_text(send, body, "application/json", status, headers)


async def reply_text(
    send: Send, body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with bytes of a kind."""
    fields = {"content-type": kind, "content-length": str(len(body)), "x-content-type-options": "nosniff"}
    await send({"type": "http.response.start", "status": status, "headers": _raw({**fields, **(headers or {})})})
    await send({"type": "http.response.body", "body": body})


def event(value: object, name: str | None = None) -> bytes:
    """One event of a stream."""
    data = value if isinstance(value, str) else JSON.encode(value)
    lines = f"event: {name}\n" if name else ""
    return f"{lines}data: {data}\n\n".encode("utf-8", "backslashreplace")


def framed(made: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """As `made`, which gives an event for a text: what stands around the text is written once."""
    hole = secrets.token_hex(16)
    before, after = made(hole).split(f'"{hole}"'.encode())
    return lambda text: before + JSON.encode(text).encode("utf-8", "backslashreplace") + after


async def send_events(send: Send, events: AsyncGenerator[bytes, None], seconds: float, stall_seconds: float) -> None:
    """Answer with a stream of events, which ends with an error after so many seconds.

    The task is cancelled when the client does not read an event for `stall_seconds`.
    """
    fields = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }
    with Watch(seconds, stall_seconds) as watch:
        await send({"type": "http.response.start", "status": 200, "headers": _raw(fields)})
        try:
            async for data in events:
                await watch.send(send, data)
        except asyncio.CancelledError:
            if not watch.late:
                raise
            await watch.send(send, event(too_slow(seconds).body()))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Watch:
    """Cancels the task that answers when it takes too long, or when its client does not read what is sent.

    Attributes
    ----------
    late
        Whether it took too long.
    """

    def __init__(self, seconds: float, stall_seconds: float) -> None:
        self.late = False
        self._stall_seconds = stall_seconds
        self._sending: float | None = None  # since when
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._limit = self._loop.call_later(seconds, self._end)
        self._look = self._loop.call_later(stall_seconds, self._check)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.cancel()
        self._look.cancel()

    async def send(self, send: Send, data: bytes) -> None:
        """Send a part of the body."""
        self._sending = self._loop.time()
        try:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            raise Gone from None
        finally:
            self._sending = None

    def _end(self) -> None:
        self.late = True
        self._cancel()

    def _check(self) -> None:
        waited = 0.0 if self._sending is None else self._loop.time() - self._sending
        if waited >= self._stall_seconds:
            self._cancel()
        else:
            self._look = self._loop.call_later(self._stall_seconds - waited, self._check)

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()


def too_slow(seconds: float) -> Refusal:
    return busy(f"the answer took longer than this server allows: {seconds:g} s", code="timeout")


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
