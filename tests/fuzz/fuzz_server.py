"""A server under requests that are wrong: bodies, heads, and clients that stall, stop half-way or go.

usage: fuzz_server.py [REQUESTS [SEED [CLIENTS]]]

Every request carries a canary of its own. What must hold: an answer is 200, 4xx or 503, whatever was asked, and its
body has the form that its kind has; it holds no canary of another request; requests that are right, among the others,
get the text that the model gives alone; and afterwards the server has nothing in progress, and answers.
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from folder_models import BASES, save_decoder
from harness import mutated

import fastlm

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
CANARY = re.compile(rb"canary-[0-9a-f]{16}")
PATIENCE = 60.0  # seconds that a whole request may wait for its answer
LIMITS = ("--max-tokens", "48", "--seconds", "30")
Answers = Callable[[str, str], str]  # the text that a model gives alone: of its name and a prompt


def bodies(canary: str) -> list[tuple[str, dict[str, Any]]]:
    """Right requests for every path."""
    hello = [{"role": "system", "content": "s"}, {"role": "user", "content": f"{canary} said"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": canary}]}]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    text: dict[str, Any] = {"model": "box", "prompt": f"{canary} said", "max_tokens": 4, "temperature": 0}
    chat: dict[str, Any] = {"model": "chat", "messages": hello, "max_tokens": 4}
    drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 1, "n": 2, "stop": ["\n"], "logit_bias": {"7": -1}}
    return [
        ("/v1/completions", text),
        ("/v1/completions", {**text, "echo": True, "logprobs": 2, **drawn}),
        ("/v1/completions", {**text, "prompt": [[1, 403], [7]], **usage}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True, "logprobs": True, "top_logprobs": 1}),
        ("/v1/chat/completions", {**chat, "messages": parts, **drawn, "chat_template_kwargs": {}}),
        ("/v1/responses", {"model": "chat", "input": canary, "max_output_tokens": 4, "stream": True}),
        ("/v1/embeddings", {"model": "vectors", "input": [canary, "the animal"], "dimensions": 8}),
        ("/v1/embeddings", {"model": "vectors", "input": canary, "encoding_format": "base64"}),
        ("/v1/rerank", {"model": "scores", "query": canary, "documents": ["a", "b"], "top_n": 1}),
        ("/tokenize", {"model": "chat", "messages": hello, "return_token_strs": True}),
        ("/detokenize", {"model": "box", "tokens": [1, 403, 7]}),
    ]


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 63, 1e308, -0.0, 2**31, 2**63, 2**64, -(2**70), 10**400),
    *("", "x", "\ud800", "\x00", "a" * 300, "é漢😀", "../../etc/passwd", "{{ 7 * 7 }}", "<|endoftext|>", "</s>"),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": ""},
        [0] * 70,
        ["a"] * 70,
        [None],
        [1.5],
        [-1],
        [10**9],
        {"a": {"a": {"a": []}}},
        ["\udfff"],
    ),
]
PATHS = ("/", "//", "/v1", "/v1/models", "/v1/models/box", "/health", "/metrics", "/v1/completions/", "/%00", "*")
HEADERS = (
    *("Content-Type: text/plain", "Content-Type: application/json; charset=latin-1", "Expect: 100-continue"),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Upgrade: websocket", "Connection: Upgrade"),
    *("Host: evil.example", "Host:", "Origin: http://evil.example", "Authorization: Bearer \xff"),
    *("bad header", " folded: x", "X\x00: y", "X: " + "y" * 9000, "X: " + "y" * 70000),
)


def mutated_value(draw: random.Random, value: Any, depth: int = 0) -> Any:
    """The value with one change somewhere in it."""
    inner = isinstance(value, (dict, list)) and len(value) > 0
    if not inner or (depth and draw.random() < 0.25):
        return draw.choice(ODD)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        changed = [mutated_value(draw, value[at], depth + 1)]
        if draw.random() < 0.2:
            changed = value[at : at + 1] * draw.randrange(3)
        return [*value[:at], *changed, *value[at + 1 :]]
    name = draw.choice(list(value))
    rest = {key: old for key, old in value.items() if key != name}
    kind = draw.random()
    if kind < 0.15:
        return rest
    if kind < 0.25:
        return {**rest, draw.choice(["", name + "s", name.upper(), "x" * 300, "\ud800", "__class__"]): value[name]}
    return {**value, name: mutated_value(draw, value[name], depth + 1)}


@dataclass(slots=True)
class Sent:
    """One request, and how it is sent.

    Attributes
    ----------
    right
        The prompt and the model, where its text is known.
    whole
        Whether the server has all that it waits for, so that it must answer.
    """

    head: bytes
    body: bytes
    right: tuple[str, str] | None = None
    whole: bool = True
    way: str = "plain"


def request(draw: random.Random) -> Sent:
    """The next one: right, or wrong in one of many ways."""
    canary = f"canary-{draw.getrandbits(64):016x}"
    path, body = draw.choice(bodies(canary))
    kind = draw.choice(("right", "value", "value", "value", "bytes", "head", "head", "path", "way", "way"))
    if kind == "right":
        path, body = bodies(canary)[0]
        return _sent(path, json.dumps(body).encode(), right=("box", body["prompt"]))
    if kind == "value":
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            body = mutated_value(draw, body)
    data = json.dumps(body).encode()
    if kind == "bytes":
        data = mutated(draw, [data, *(json.dumps(one).encode() for _, one in bodies(canary))])
    if kind == "path":
        path = draw.choice(PATHS)
    if kind == "head":
        return _odd_head(draw, path, data)
    if kind == "way":
        way = draw.choice(("slow", "half", "cut", "goes", "reset", "unread"))
        return _sent(path, data, whole=way == "slow", way=way)
    return _sent(path, data)


def _sent(path: str, data: bytes, **more: Any) -> Sent:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return Sent(f"{head}Content-Length: {len(data)}\r\n\r\n".encode(), data, **more)


def _odd_head(draw: random.Random, path: str, data: bytes) -> Sent:
    """A head with other lines, in another order, or with some bytes changed. Whether it is whole is not known."""
    lines = ["Host: localhost", "Content-Type: application/json", "Connection: close", f"Content-Length: {len(data)}"]
    for _ in range(draw.randint(0, 2)):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(HEADERS))
    if draw.random() < 0.3:
        lines.pop(draw.randrange(len(lines)))
    method = draw.choice(("POST", "POST", "GET", "PUT", "BREW", ""))
    version = draw.choice(("1.1", "1.1", "1.0", "2.0", "x"))
    if draw.random() < 0.05:
        lines = lines + ["X: y"] * 5000
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode("latin-1")
    if draw.random() < 0.3:
        head = mutated(draw, [head])
    return Sent(head, data, whole=False)


@dataclass(slots=True)
class Fuzzer:
    """What all clients share: how many requests are left, and what was seen."""

    address: tuple[str, int]
    answers: Answers
    left: int
    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, clients: int) -> None:
        """Send all of them, from so many threads."""
        seeds = range(self.seed * 1000, self.seed * 1000 + clients)
        threads = [threading.Thread(target=self._client, args=(seed,), daemon=True) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed: int) -> None:
        draw = random.Random(seed)
        while self._next():
            sent = request(draw)
            try:
                self._check(sent, self._exchange(sent))
            except Exception as error:
                text = f"{type(error).__name__}: {error}\n  {sent.way} {sent.head!r:.2000} {sent.body!r:.2000}"
                with self.lock:
                    self.failures.append(text)

    def _next(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0 and len(self.failures) < 20

    def _exchange(self, sent: Sent) -> bytes:
        """What comes back, as far as this client waits for it."""
        parts: list[bytes] = []
        with socket.create_connection(self.address, timeout=PATIENCE if sent.whole else 0.5) as connection:
            try:
                _send(connection, sent)
                while sent.way != "goes" and (part := connection.recv(1 << 16)):
                    parts.append(part)
                    if sent.way in ("reset", "unread"):
                        break
            except (ConnectionError, TimeoutError):
                if sent.whole:
                    raise
            if sent.way == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return b"".join(parts)

    def _check(self, sent: Sent, answer: bytes) -> None:
        if not answer:
            assert not sent.whole, "no answer"
            self._count("none")
            return
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        assert found, f"no status: {answer!r:.200}"
        status = int(found[1])
        self._count(str(status))
        assert status in (100, 200, 503) or 400 <= status < 500, f"{status}: {answer!r:.500}"
        strangers = [canary for canary in CANARY.findall(answer) if canary not in sent.head + sent.body]
        assert not strangers, f"canaries of others: {strangers}"
        if not sent.whole:
            return
        head, _, body = answer.partition(b"\r\n\r\n")
        if status != 200:
            assert body.startswith(b"Invalid HTTP") or set(json.loads(body)) == {"error"}, f"{body!r:.300}"
        elif b"text/event-stream" in head:
            assert body.rstrip().endswith(b"0") and b"data: " in body, f"a stream that does not end: {body[-200:]!r}"
        elif b"application/json" in head:
            text = json.loads(body)
            if sent.right is not None:
                assert text["choices"][0]["text"] == self.answers(*sent.right), f"another text: {text}"
        assert sent.right is None or status in (200, 503), f"{status} for a right request: {body!r:.300}"

    def _count(self, status: str) -> None:
        with self.lock:
            self.statuses[status] += 1


def _send(connection: socket.socket, sent: Sent) -> None:
    data = sent.head + sent.body
    if sent.way == "slow":
        for at in range(0, len(data), max(1, len(data) // 5)):
            connection.sendall(data[at : at + max(1, len(data) // 5)])
            time.sleep(0.005)
        return
    connection.sendall(data[: len(data) * 2 // 3] if sent.way == "cut" else data)
    if sent.way in ("cut", "half"):
        connection.shutdown(socket.SHUT_WR)


def settled(address: tuple[str, int]) -> bool:
    """Whether nothing is in progress any more, and the server is well."""
    for _ in range(600):
        if b"\nfastlm_requests_in_progress 0\n" in _get(address, "/metrics") and b'"ok"' in _get(address, "/health"):
            return True
        time.sleep(0.1)
    return False


def _get(address: tuple[str, int], path: str) -> bytes:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)


# ---- by hand ----------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """`fastlm serve` in a process of its own."""
    models = [
        f"chat={save_decoder(folder / 'chat', TEMPLATE)}",
        f"vectors={BASES['bert'](folder / 'vectors')}",
        f"scores={BASES['label'](folder / 'scores')}",
    ]
    box = Path(fastlm.__file__).parent / "box" / "box.flm"
    command = [sys.executable, "-m", "fastlm", "serve", f"box={box}", *models, "--port", "0", "--threads", "1", *LIMITS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    assert process.stderr is not None
    lines = process.stderr
    found = re.search(r"http://([\d.]+):(\d+)", lines.readline())
    assert found is not None
    threading.Thread(target=lambda: [print(line, end="", file=sys.stderr) for line in lines], daemon=True).start()
    try:
        yield process, (found[1], int(found[2]))
    finally:
        process.terminate()
        process.wait(150)


def resident(pid: int) -> int:
    """Kilobytes that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def main() -> int:
    requests, seed, clients = (int(a) for a in (*sys.argv[1:4], *("100000", "0", "16")[len(sys.argv[1:4]) :]))
    with ExitStack() as stack:
        model = stack.enter_context(fastlm.load(threads=1))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        process, address = stack.enter_context(serving(Path(folder)))
        turn = threading.Lock()

        def alone(name: str, prompt: str) -> str:
            with turn:
                return model.generate(prompt, max_tokens=4, temperature=0).text

        begun, failures = time.monotonic(), 0
        for part in range(10):
            fuzzer = Fuzzer(address, alone, requests // 10, seed * 10 + part)
            fuzzer.run(clients)
            failures += len(fuzzer.failures)
            for failure in fuzzer.failures:
                print(failure)
            counts = ", ".join(f"{n} {status}" for status, n in sorted(fuzzer.statuses.items()))
            print(f"{time.monotonic() - begun:7.1f} s  {counts}; {resident(process.pid):,} KB", flush=True)
        well = settled(address) and process.poll() is None
        print("well" if well and not failures else f"{failures} failures, {'well' if well else 'not well'} at the end")
        return 0 if well and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
