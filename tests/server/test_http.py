"""What is below the endpoints: clients that stall, connections on which nothing comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from served import Running, received

import fastlm
from fastlm.server import app, run
from fastlm.server.http import Gone, event, framed, send_events, unless_gone


async def never() -> Any:
    await asyncio.Event().wait()


def test_a_client_that_does_not_read_is_gone() -> None:
    ended = False

    async def events() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                yield b"x"
        finally:
            ended = True

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await never()

    async def stream() -> None:
        source = events()
        try:
            await send_events(send, source, 60, 0.02)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    with pytest.raises(Gone):
        asyncio.run(unless_gone(never, stream()))
    assert ended


def test_work_ends_when_its_client_goes() -> None:
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def goes() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(Gone):
        asyncio.run(unless_gone(goes, work()))
    assert cancelled == [True]


def test_silent_connections_are_closed(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.05)
    for begun in (b"", b"GET /health HTTP/1.1\r\nX-Slow: "):
        with server.raw(begun) as connection:
            assert not received(connection)
    assert server.get("/health")[0] == 200


def test_many_connections_at_a_time(server: Running) -> None:
    """Some hundred that say nothing keep nobody from being answered, and cost no threads."""
    before = threading.active_count()
    connections = [server.raw(b"POST /v1/completions HTTP/1.1\r\n") for _ in range(300)]
    time.sleep(0.05)
    assert threading.active_count() <= before + 1
    assert server.get("/health")[0] == 200
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("text", ["", "plain", 'a "quoted"\\ line\n', "\x00\x1f\u2028\U0001f600", "\ud800"])
def test_what_stands_around_a_text_is_written_once(text: str) -> None:
    def made(content: str) -> bytes:
        return event({"id": "x", "choices": [{"delta": {"content": content}, "logprobs": None}], "usage": None})

    assert framed(made)(text) == made(text)


def test_as_part_of_another_application(models: dict[str, fastlm.Model]) -> None:
    """Below a path of its own; what is no request is answered as far as there is an answer."""
    application = app(models)

    def said(scope: dict[str, Any], *messages: dict[str, Any]) -> list[Any]:
        given, sent = list(messages), []

        async def receive() -> Any:
            return given.pop(0) if given else await never()

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(application(scope, receive, send))
        return sent

    scope = {"type": "http", "method": "GET", "headers": [], "root_path": "/inner"}
    for path, status in (("/inner/health", 200), ("/inner/v1/models/box", 200), ("/inner/v1/models", 200)):
        assert said({**scope, "path": path})[0]["status"] == status
    for path, status in (("/inner/x", 404), ("/inner/health/", 404), ("/inner/v1/models/", 404), ("/inner", 404)):
        assert said({**scope, "path": path})[0]["status"] == status
    refused = said({**scope, "path": "/inner/health", "method": "DELETE"})[0]
    assert refused["status"] == 405 and (b"allow", b"GET, HEAD") in refused["headers"]
    lifespan = said({"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in lifespan] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert said({"type": "websocket"}, {"type": "websocket.connect"})[0]["type"] == "websocket.close"
