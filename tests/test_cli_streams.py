"""The command line where streams are closed, full, cut off, of another encoding, or bring the prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

ELSEWHERE = sys.prefix  # not the repository, whose package is not built in place
TEXT = "Once upon a time \u2014 caf\u00e9"
Ended = subprocess.CompletedProcess[bytes]


def fastlm(*args: str | Path, data: bytes = b"", env: Mapping[str, str] | None = None) -> Ended:
    command = [sys.executable, "-m", "fastlm", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, input=data, timeout=60, cwd=ELSEWHERE, env={**os.environ, **(env or {})}
    )


def shell(line: str, **env: str) -> Ended:
    """A line of the shell, in which FASTLM stands for the command."""
    whole = line.replace("FASTLM", f"'{sys.executable}' -m fastlm")
    return subprocess.run(
        ["sh", "-c", whole], capture_output=True, timeout=60, cwd=ELSEWHERE, env={**os.environ, **env}
    )


def prompt_of(done: Ended) -> object:
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)["prompt"]


# ---- the prompt -----------------------------------------------------------------------------------------------------

SHORT = ("generate", "--json", "--max-tokens", "2")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
def test_a_prompt_from_anywhere(tmp_path: Path, start: bytes, end: str) -> None:
    """An argument, a file, and standard input, as it is; but one line end does not count, nor the mark of UTF-8."""
    file = tmp_path / "prompt.txt"
    file.write_bytes(start + (TEXT + end).encode())
    assert prompt_of(fastlm(*SHORT, "--file", file)) == TEXT
    if not start:
        assert prompt_of(fastlm(*SHORT, data=file.read_bytes())) == TEXT
        assert prompt_of(fastlm(*SHORT, "-", data=file.read_bytes())) == TEXT
        assert prompt_of(fastlm(*SHORT, "--file", "-", data=file.read_bytes())) == TEXT
    assert prompt_of(fastlm(*SHORT, TEXT, data=b"not this")) == TEXT


def test_other_line_ends_count() -> None:
    assert prompt_of(fastlm(*SHORT, data=b"a\n\nb \n\n")) == "a\n\nb \n"


def test_the_next_token_after_a_pipe() -> None:
    assert fastlm("next", "-k", "3", data=b"Once upon a").stdout == fastlm("next", "-k", "3", "Once upon a").stdout


@pytest.mark.parametrize("line", ["FASTLM {} < /dev/null", "FASTLM {} <&-", "printf '' | FASTLM {}"])
def test_no_prompt_at_all(line: str) -> None:
    assert isinstance(prompt_of(shell(line.format(" ".join(SHORT)))), list)


@pytest.mark.parametrize(
    ("args", "data", "status", "words"),
    [
        (("Once", "--file", "x"), b"", 2, "--file"),
        (("--file", "/nowhere/x"), b"", 1, "/nowhere/x: cannot be read"),
        ((), b"caf\xe9", 2, "standard input is not UTF-8"),
    ],
)
def test_no_such_prompt(args: tuple[str, ...], data: bytes, status: int, words: str) -> None:
    done = fastlm("generate", *args, data=data)
    assert done.returncode == status and words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1 and done.stdout == b""


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc\xff")
    done = fastlm("generate", "--file", tmp_path / "x")
    assert done.returncode == 2 and b"is not UTF-8 (byte 3)" in done.stderr


def test_standard_input_is_closed() -> None:
    done = shell("FASTLM generate - <&-")
    assert done.returncode == 2 and b"standard input is closed" in done.stderr


# ---- encodings ------------------------------------------------------------------------------------------------------

PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS: list[dict[str, str]] = [
    {"LC_ALL": "C"},
    PLAIN_C,
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "utf-16"},
]


@pytest.mark.parametrize("env", ENCODINGS, ids=lambda env: " ".join(env.values()))
def test_every_encoding_of_the_output(env: dict[str, str]) -> None:
    encoding = env.get("PYTHONIOENCODING", "ascii" if env == PLAIN_C else "utf-8")
    for args in (("generate", TEXT, "--max-tokens", "2"), ("next", TEXT, "-k", "2"), ("info",)):
        done = fastlm(*args, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        shown = done.stdout.decode(encoding)
        if args[0] == "generate":
            assert shown.startswith("Once upon a time") and ("caf\u00e9" in shown or "caf\\xe9" in shown)
        if args[0] == "next":
            assert 40 * "#" in shown or 40 * "\u2588" in shown
    for done in (fastlm(*SHORT, TEXT, env=env), fastlm(*SHORT, data=TEXT.encode(), env=env)):
        assert done.returncode == 0 and json.loads(done.stdout.decode(encoding))["prompt"] == TEXT


@pytest.mark.parametrize("env", ENCODINGS[:2], ids=["C", "plain C"])
def test_names_in_every_encoding(stories: Path, tmp_path: Path, env: dict[str, str]) -> None:
    name = "caf\u00e9" + "\u3042" * 70 + ".flm"  # longer than what its temporary file takes over
    done = fastlm("convert", stories, tmp_path / name, env=env)
    assert (done.returncode, done.stderr) == (0, b"") and (tmp_path / name).stat().st_size > 1 << 20


# ---- output that does not go anywhere -------------------------------------------------------------------------------

COMMANDS = [
    "generate Once --max-tokens 5",
    "generate Once --max-tokens 5 --json",
    "next Once",
    "info",
    "info --json",
    "attention Once",
]


@pytest.mark.parametrize("command", [*COMMANDS, "--help", "generate --help", "--version"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk(command: str) -> None:
    done = shell(f"FASTLM {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"fastlm: error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_standard_output_is_closed(command: str) -> None:
    done = shell(f"FASTLM {command} >&-")
    assert done.returncode == 1
    assert done.stderr.startswith(b"fastlm: error: standard output is closed") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [*COMMANDS, "--help", "generate --help", "next Once -k 3000"])
def test_a_reader_of_one_line(command: str) -> None:
    done = shell(f"FASTLM {command} | head -n 1")
    assert done.stderr == b"" and done.stdout.count(b"\n") == 1


def test_standard_error_is_closed() -> None:
    assert shell("FASTLM generate --model /nowhere 2>&-").returncode == 1
    done = shell("FASTLM generate Once --max-tokens 5 2>&-")
    assert done.returncode == 0 and done.stdout.startswith(b"Once upon")


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------

AT_AN_IMPORT = """
    import sys
    class Interrupts:
        def find_spec(self, name, path=None, target=None):
            if name == sys.argv[1]:
                raise KeyboardInterrupt
    sys.meta_path.insert(0, Interrupts())
    from fastlm.cli import main
    status = main(["generate", "Once"])
    sys.stdout.flush()
    print(status)
"""


@pytest.mark.parametrize(
    "module", ["fastlm.cli.run", "argparse", "numpy", "fastlm._core", "fastlm.train.options", "tokenizers", "json"]
)
def test_ctrl_c_while_importing(module: str) -> None:
    program = textwrap.dedent(AT_AN_IMPORT)
    done = subprocess.run([sys.executable, "-c", program, module], capture_output=True, timeout=60, cwd=ELSEWHERE)
    assert done.stderr == b"\nfastlm: interrupted\n" and done.stdout == b"130\n"


AS_NUMPY_DOES = """
    import os, signal, sys
    class Interrupts:
        def find_spec(self, name, path=None, target=None):
            if name == "numpy":
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                except KeyboardInterrupt as error:
                    raise ImportError("numpy failed to import") from error
    sys.meta_path.insert(0, Interrupts())
    from fastlm.cli import main
    print(main(["--version"]))
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot wait here")
def test_ctrl_c_that_a_library_would_turn_into_another_error() -> None:
    command = [sys.executable, "-c", textwrap.dedent(AS_NUMPY_DOES)]
    done = subprocess.run(command, capture_output=True, timeout=60, cwd=ELSEWHERE)
    assert done.stderr == b"\nfastlm: interrupted\n" and done.stdout == b"130\n"
