"""What is below the endpoints: clients that stall, connections on which nothing comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from served import Running, received

from fastlm.server import run
from fastlm.server.http import Gone, send_events, unless_gone


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
