"""A server in a thread of the tests' process, and plain sockets that speak to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Running:
    """A server in a thread of this process."""

    def __init__(self, application: Any, listening: socket.socket) -> None:
        from fastlm.server.run import server_of

        self.address = listening.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = server_of(application)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def raw(self, data: bytes = b"") -> socket.socket:
        """A connection on which these bytes were sent."""
        connection = socket.create_connection(self.address, timeout=20)
        connection.sendall(data)
        return connection

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of an answer."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Host": "localhost", "Content_Type": "application/json", "Content_Length": str(len(text)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())
        with self.raw(f"POST {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + text) as connection:
            return parsed(received(connection))

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = {"Host": "localhost", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        with self.raw(f"GET {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode()) as connection:
            return split(received(connection))


def received(connection: socket.socket) -> bytes:
    """All that is sent until the end."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}, body


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    status, headers, body = split(answer)
    return status, headers, json.loads(body)


@contextmanager
def running(application: Any) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Running(application, listening)
        try:
            yield server
        finally:
            server.stop()
