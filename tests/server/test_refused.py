"""What a server does not answer: wrong requests, strangers, and more than it takes on. Only 4xx and 503."""

from __future__ import annotations

import json
import random
import socket
import time
from typing import Any

import pytest
from served import Running, parsed, received, running, split

import fastlm
from fastlm.server import Limits, app

Models = dict[str, fastlm.Model]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"model": "slow", "prompt": "a", "max_tokens": 4000, "ignore_eos": True}


def refused(server: Running, path: str, body: object, **headers: str) -> tuple[int, Any]:
    status, _, answer = server.post(path, body, **headers)
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    assert isinstance(answer["error"]["message"], str)
    return status, answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, {"model": "chat", "messages": HELLO, "temprature": 1}, "temprature", "unknown_parameter"),
        (CHAT, {"model": "chat"}, "messages", "missing_required_parameter"),
        (CHAT, {"messages": HELLO}, "model", "missing_required_parameter"),
        (CHAT, {"model": "chat", "messages": "Hello"}, "messages", "invalid_value"),
        (CHAT, {"model": "chat", "messages": [1]}, "messages[0]", "invalid_value"),
        (CHAT, {"model": "chat", "messages": HELLO, "max_tokens": -1}, "max_tokens", "invalid_value"),
        (CHAT, {"model": "chat", "messages": HELLO, "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", None),
        (CHAT, {"model": "chat", "messages": HELLO, "top_logprobs": 3}, "top_logprobs", "invalid_value"),
        (CHAT, {"model": "chat", "messages": HELLO, "stream": 1}, "stream", "invalid_value"),
        (CHAT, {"model": "chat", "messages": HELLO, "stream_options": {}}, None, None),
        (CHAT, {"model": "chat", "messages": HELLO, "response_format": {"type": "x"}}, "response_format", None),
        (CHAT, {"model": "chat", "messages": HELLO, "n": 65}, "n", "invalid_value"),
        (CHAT, {"model": "chat", "messages": [{"role": "user", "content": "\ud800"}]}, "messages", "invalid_value"),
        (CHAT, {"model": "chat", "messages": [{"role": "user", "content": "x" * 9000}]}, "messages", None),
        (CHAT, {"model": "chat", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, None),
        (CHAT, {"model": "box", "messages": HELLO}, "messages", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "temperature": "hot"}, "temperature", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "temperature": float("1e30")}, "temperature", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "stop": [""]}, "stop", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "stop": ["x"] * 100}, "stop", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "logit_bias": {"-1": 5}}, "logit_bias", "invalid_value"),
        (TEXT, {"model": "box", "prompt": "a", "logit_bias": {"99999": 5}}, "logit_bias", "invalid_value"),
        (TEXT, {"model": "box", "prompt": [99999]}, "prompt", "invalid_value"),
        (TEXT, {"model": "box", "prompt": [-1]}, "prompt", "invalid_value"),
        (TEXT, {"model": "box", "prompt": []}, "prompt", "invalid_value"),
        (TEXT, {"model": "box", "prompt": ["a"] * 65}, "prompt", "invalid_value"),
        (TEXT, {"model": "box", "prompt": ["a"] * 3, "n": 30}, "prompt", "invalid_value"),
        (TEXT, {"model": "box", "prompt": [["a"]]}, "prompt", "invalid_value"),
        (TEXT, {**LONG, "n": 4, "logprobs": 20}, "logprobs", "invalid_value"),
        (
            TEXT,
            {**LONG, "prompt": ["a"] * 5, "logprobs": 20, "echo": True, "max_tokens": 1},
            "logprobs",
            "invalid_value",
        ),
        (TEXT, {"model": "box", "prompt": "a", "suffix": "b"}, "suffix", "unsupported_value"),
        (TEXT, {"model": "box", "prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "echo", None),
        (TEXT, {"model": "vectors", "prompt": "a"}, "prompt", "invalid_value"),
        ("/v1/embeddings", {"model": "vectors", "input": []}, "input", "invalid_value"),
        ("/v1/embeddings", {"model": "vectors", "input": [1.5]}, "input[0]", "invalid_value"),
        ("/v1/embeddings", {"model": "vectors", "input": "a", "dimensions": 10**9}, "dimensions", "invalid_value"),
        ("/v1/embeddings", {"model": "vectors", "input": "a b " * 9000}, "input", "context_length_exceeded"),
        ("/v1/rerank", {"model": "vectors", "query": "a", "documents": ["b"]}, "documents", None),
        ("/v1/responses", {"model": "chat", "input": 5}, "input", "invalid_value"),
        ("/v1/responses", {"model": "chat", "input": "a", "tools": [{}]}, "tools", "unsupported_value"),
        ("/detokenize", {"model": "box", "tokens": ["a"]}, "tokens", "invalid_value"),
    ],
)
def test_wrong_values(server: Running, path: str, body: Any, param: str | None, code: str | None) -> None:
    if param is None and body.get("stream_options") == {}:
        assert server.post(path, body)[0] == 200
        return
    status, error = refused(server, path, body)
    assert status == 400 and error["type"] == "invalid_request_error", error
    assert param is None or error["param"] == param, error
    assert code is None or error["code"] == code, error


def test_unknown_models_paths_and_methods(server: Running) -> None:
    status, error = refused(server, CHAT, {"model": "gpt-4", "messages": HELLO})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert refused(server, "/v1/nothing", {})[0] == refused(server, "/v1/completions/", {})[0] == 404
    assert server.get(CHAT)[0] == 405
    assert server.get("/../../etc/passwd")[0] == 404 and server.get("/v1/models/..%2f..%2fetc%2fpasswd")[0] == 404


BODIES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'{"a":' * 30_000, b"9" * 9000]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_none(server: Running, body: bytes) -> None:
    assert refused(server, CHAT, body)[0] == 400


def test_bodies_of_other_types_or_sizes(server: Running) -> None:
    assert refused(server, CHAT, b"{}", Content_Type="text/plain")[0] == 415
    assert refused(server, CHAT, json.dumps({"model": "x" * 200_000}).encode())[0] == 413
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with server.raw(f"{head}Content-Length: 99999999999\r\n\r\n".encode()) as connection:
        assert split(connection.recv(1 << 16))[0] == 413  # before anything of it is read
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with server.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 4 + b"0\r\n\r\n") as connection:
        assert split(connection.recv(1 << 16))[0] == 413


def test_bytes_that_are_no_http(server: Running) -> None:
    """Floods of headers, noise: refused, or the connection is closed."""
    flood = b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)) + b"\r\n"
    for data in (
        flood,
        b"\x16\x03\x01" * 2000,
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        with server.raw() as connection:
            try:
                connection.sendall(data)
                answer = received(connection)
            except OSError:  # it was closed before all was sent
                answer = b""
        assert not answer or split(answer)[0] in (400, 431)
    assert server.get("/health")[0] == 200


def test_random_requests(server: Running) -> None:
    """Bodies with parts replaced by whatever JSON has: answered or refused, and nothing is left behind."""
    rng = random.Random(1)
    base: dict[str, list[Any]] = {
        CHAT: [{"model": "chat", "messages": HELLO, "max_tokens": 2, "logprobs": True, "top_logprobs": 1, "n": 2}],
        TEXT: [{"model": "box", "prompt": "a", "max_tokens": 2, "stop": ["x"], "logit_bias": {"5": 1}, "seed": 1}],
        "/v1/embeddings": [{"model": "vectors", "input": ["who"], "dimensions": 4, "encoding_format": "base64"}],
        "/v1/responses": [{"model": "chat", "input": "a", "max_output_tokens": 2, "temperature": 1}],
        "/tokenize": [{"model": "box", "prompt": "a", "add_special_tokens": False}],
    }
    junk: list[Any] = [None, True, -1, 0, 2**63, 1e308, "", "\x00", "é" * 50, [], {}, [[]], {"a": {}}, [None], -0.5]
    seen = set()
    for _ in range(300):
        path = rng.choice(list(base))
        body = json.loads(json.dumps(base[path][0]))
        for name in rng.sample(sorted(body), rng.randint(1, 2)):
            body[name] = rng.choice(junk)
        status, _, answer = server.post(path, body)
        seen.add(status)
        assert status in (200, 400, 404), (path, body, answer)
    assert seen >= {200, 400}


def test_keys_hosts_and_origins(models: Models) -> None:
    options: Any = {"api_keys": ["secret", "other"], "hosts": ["localhost", "[::1]"], "cors": ["https://example.org"]}
    with running(app(models["box"], **options)) as server:
        body = {"model": "fastlm", "prompt": "a", "max_tokens": 1}
        for key in ("", "Bearer wrong", "Basic secret", "Bearer secret2", "Bearer \xff"):
            status, error = refused(server, TEXT, body, Authorization=key)
            assert (status, error["code"]) == (401, "invalid_api_key")
        assert server.get("/metrics")[0] == 401 and server.get("/v1/models")[0] == 401
        assert server.get("/health")[0] == 200 and server.get("/")[0] == 200
        for key in ("Bearer secret", "bearer other"):
            assert server.post(TEXT, body, Authorization=key)[0] == 200
        assert server.get("/health", Host="evil.example")[0] == 403
        assert server.get("/health", Host="[::1]:99")[0] == 200
        allowed = server.get("/health", Origin="https://example.org")[1]
        assert allowed["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-origin" not in server.get("/health", Origin="https://evil.example")[1]
    with running(app(models["box"])) as server:
        assert "access-control-allow-origin" not in server.get("/health", Origin="https://example.org")[1]


def begun(server: Running, body: object, path: str = TEXT) -> socket.socket:
    """A connection whose answer has begun."""
    text = json.dumps({**LONG, "stream": True, **body}).encode()  # type: ignore[dict-item]
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    connection = server.raw(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
    assert connection.recv(9) == b"HTTP/1.1 "
    return connection


def test_more_than_it_takes_on(models: Models) -> None:
    limits = Limits(requests=2, requests_each=2)
    with running(app(models, limits=limits)) as server, begun(server, {}), begun(server, {}):
        status, headers, answer = server.post(TEXT, LONG)
        assert status == 503 and headers["retry-after"] == "1" and answer["error"]["code"] == "overloaded"
        assert server.get("/health")[0] == 200
    with running(app(models, limits=Limits(requests_each=1))) as server, begun(server, {}):
        status, headers, answer = server.post(TEXT, LONG)
        assert status == 429 and headers["retry-after"] == "1" and answer["error"]["code"] == "rate_limit_exceeded"
    with running(app(models, limits=Limits(seconds=0.2, prompt_tokens=5, max_tokens=4000))) as server:
        status, headers, answer = server.post(TEXT, LONG)
        assert status == 503 and "retry-after" in headers and answer["error"]["code"] == "timeout"
        with begun(server, {}) as connection:
            end = received(connection)
        assert b'"code":"timeout"' in end and b"[DONE]" not in end and end.endswith(b"0\r\n\r\n")
        status, error = refused(server, TEXT, {**LONG, "prompt": "a" * 9})
        assert status == 400 and error["code"] == "context_length_exceeded"
        assert refused(server, TEXT, {**LONG, "max_tokens": 4001})[0] == 400


def test_a_slow_client_is_refused(models: Models) -> None:
    with running(app(models, limits=Limits(body_seconds=0.1))) as server:
        head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        with server.raw(head.encode()) as connection:
            status, _, answer = parsed(received(connection))
            assert status == 408 and answer["error"]["code"] == "timeout"


def settled(model: fastlm.Model) -> int:
    """Steps of its context, once no more are run."""
    counters = model.engine.context.counters
    before, now = -1, int(counters()["forwards"])  # type: ignore[arg-type]
    while before != now:
        time.sleep(0.1)
        before, now = now, int(counters()["forwards"])  # type: ignore[arg-type]
    return now


@pytest.mark.parametrize("way", ["close", "reset", "half", "unread"])
@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_go(server: Running, models: Models, way: str, stream: bool) -> None:
    """Their requests are cancelled; a neighbour's text is what it is alone."""
    if way == "unread" and not stream:
        return
    before = settled(models["slow"])
    text = json.dumps({**LONG, "stream": stream}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    connection = server.raw(head.encode() + text)
    while models["slow"].engine.context.counters()["forwards"] < before + 3:  # type: ignore[operator]
        time.sleep(0.005)
    if way == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    if way == "half":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    answer = server.post(TEXT, {"model": "box", "prompt": "Once", "max_tokens": 10, "temperature": 0})[2]
    assert answer["choices"][0]["text"] == models["box"].generate("Once", max_tokens=10, temperature=0).text
    assert settled(models["slow"]) - before < 1000  # of 4000
    connection.close()


def test_stopping_lets_answers_end(models: Models) -> None:
    with running(app(models)) as server:
        with begun(server, {"max_tokens": 60}) as connection:
            server.stop()
            rest = received(connection)
        assert b"data: [DONE]" in rest and rest.count(b'"finish_reason":"length"') == 1
        with pytest.raises(OSError):
            server.raw()


def test_no_cross_talk(server: Running, models: Models) -> None:
    """Many at a time, each with a prompt of its own, streamed and not: each gets its solo text."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(i: int) -> tuple[str, str]:
        body = {"model": "box", "prompt": f"Canary {i} said", "max_tokens": 20, "temperature": 0.9, "seed": i}
        if i % 2:
            text = server.post(TEXT, body)[2]["choices"][0]["text"]
        else:
            data = json.dumps({**body, "stream": True}).encode()
            head = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
            with server.raw(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data) as connection:
                answer = received(connection).decode()
            events = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
            text = "".join(json.loads(event)["choices"][0]["text"] for event in events)
        own = models["box"].generate(body["prompt"], max_tokens=20, temperature=0.9, seed=i).text
        return text, own

    with ThreadPoolExecutor(16) as pool:
        assert all(text == own for text, own in pool.map(ask, range(64)))
