"""The application under uvicorn, with bounds for what comes before a request is whole."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES = 1 << 15  # of a request line and its headers
HEADER_SECONDS = 20.0  # in which they must arrive
CONNECTIONS = 1024
STOP_SECONDS = 120  # that answers may take to end when the server is stopped


class Careful(H11Protocol):  # type: ignore[misc]
    """Closes connections on which no request arrives, or one that is malformed in its midst."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, where nothing was answered yet; who is about to answer learns that nobody hears it."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()


def server_of(application: Any) -> uvicorn.Server:
    """What runs the application; `run(sockets=[...])` ends when its `should_exit` is set, or by a signal."""
    config = uvicorn.Config(
        application,
        http=Careful,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(config)


def serve(application: Any, host: str, port: int, begun: Callable[[str], None]) -> None:
    """Listen and answer; begun: called with the address once it does.

    Raises
    ------
    OSError
        The address is taken, or not this machine's.
    """
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        shown = f"[{host}]" if ":" in host else host
        begun(f"http://{shown}:{listening.getsockname()[1]}")
        gc.collect()
        gc.freeze()  # models and modules stay: collections need not look at them
        server_of(application).run(sockets=[listening])
