"""fastlm serve as a program: where it listens, how it ends, what it refuses; and the example."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from folder_models import save_decoder
from support import ROOT

import fastlm


@contextmanager
def serving(*args: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "fastlm", "serve", *map(str, args), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=sys.prefix)
    try:
        assert process.stderr is not None
        found = re.search(r"(http://[\d.:]+)", process.stderr.readline())
        assert found is not None
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_it_serves_several_models_and_ends_with_its_answers(tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "small")
    with serving(f"tiny={folder}", folder, "--api-key", "k") as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny", "small"]
        options = {"prompt": "a", "max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = iter(client.completions.create(model="small", **options))  # type: ignore[call-overload]
        first = next(stream)
        process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in (first, *stream)][-1] == "length"
        assert process.wait(20) == -signal.SIGTERM
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_the_example() -> None:
    with serving() as (process, url):
        command = [sys.executable, str(ROOT / "examples" / "client.py"), f"{url}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and len(done.stdout) > 50, done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("none",), "none"),
        (("a=none", "a=none"), "none"),
        (("--requests", "0"), "must be above 0"),
        (("--seconds", "nan"), "must be above 0"),
        (("--port", "65536"), "--port must be from 0 to 65535"),
        (("--host", "192.0.2.1"), "cannot be listened at"),
        (("--adapter", "none"), "expected NAME=FOLDER"),
        (("--adapter", "x:a=none"), "models: box"),
        (("--adapter", "a=none"), "none"),
    ],
)
def test_what_it_refuses(args: tuple[str, ...], text: str) -> None:
    command = [sys.executable, "-m", "fastlm", "serve", *args, "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=sys.prefix)
    assert done.returncode in (1, 2) and text in done.stderr and "Traceback" not in done.stderr


def test_without_the_extra() -> None:
    for missing in ("uvicorn", "starlette"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None; from fastlm.cli import main; sys.exit(main(['serve', 'x']))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=sys.prefix)
        assert done.returncode == 1 and "pip install 'fastlm[server]'" in done.stderr


def test_application_arguments() -> None:
    from fastlm.server import app

    with fastlm.load(threads=1) as model:
        for wrong in ({}, {"x": model}):
            with pytest.raises(fastlm.ParameterError):
                app(wrong, api_keys=[""])
