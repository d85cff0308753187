"""Files that are no model, cannot be read or were cut short, and what `load` is asked for beside the path."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import TINY, Shape, add_byte_tokenizer, save_llama
from refusals import BYTES, forget_peak, little_work, peak_bytes, refused

import fastlm
from fastlm.errors import (
    FastlmError,
    ModelFileError,
    ModelFormatError,
    ModelMemoryError,
    ParameterError,
    UnsupportedError,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_llama(tmp_path / "model")


# ---- files ---------------------------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path: Path) -> None:
    with refused(ModelFileError, str(tmp_path / "nowhere")):
        fastlm.load(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["", "a\0b", 7, 3.5, b"", [], object()], ids=lambda path: type(path).__name__)
def test_no_path(path: Any) -> None:
    with refused(ParameterError, "path"):
        fastlm.load(path)


def test_no_model_folder(tmp_path: Path) -> None:
    with refused(ModelFormatError, str(tmp_path), "not a model folder", CONFIG, WEIGHTS):
        fastlm.load(tmp_path)


def test_a_folder_of_pickles(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(TINY.config()))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02c__builtin__\nprint\n")
    with refused(UnsupportedError, "pytorch_model.bin", "save_pretrained"):
        fastlm.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"GGUF" + bytes(60), bytes(4096)], ids=["empty", "text", "gguf", "0"]
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.flm"
    path.write_bytes(content)
    with refused(ModelFormatError, str(path)):
        fastlm.load(path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("what", ["folder", "pipe", "dangling", "unreadable"])
def test_a_file_that_cannot_be_read(folder: Path, name: str, what: str) -> None:
    path = folder / name
    if what == "unreadable":
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    else:
        path.unlink()
    if what == "folder":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    if what == "dangling":
        path.symlink_to(folder / "gone")
    with refused(ModelFileError, str(path)):
        fastlm.load(folder)


def test_weights_that_were_cut_short(folder: Path) -> None:
    path = folder / WEIGHTS
    size = path.stat().st_size
    for left in (0, 4, 8, 100, size // 2, size - 1):
        path.write_bytes(path.read_bytes()[:left] if left < size else b"")
        with refused(ModelFormatError, WEIGHTS):
            fastlm.load(folder)
        save_llama(folder)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": "1.0", "model": 5}', b"\xff" * 100])
def test_a_tokenizer_that_is_none(folder: Path, text: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(text)
    with refused(ModelFormatError, str(folder / "tokenizer.json")):
        fastlm.load(folder)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = add_byte_tokenizer(save_llama(tmp_path))
    with refused(ModelFormatError, "tokenizer", "256", "99"):
        fastlm.load(folder)


# ---- what load is asked for ----------------------------------------------------------------------------------------

LOADS: list[tuple[str, Any, type[FastlmError]]] = [
    ("dtype", "float23", ParameterError),
    ("dtype", 32, ParameterError),
    ("dtype", "int3", ParameterError),
    ("threads", 0, ParameterError),
    ("threads", -1, ParameterError),
    ("threads", 10**9, ParameterError),
    ("threads", 2.0, ParameterError),
    ("context", 0, ParameterError),
    ("context", -5, ParameterError),
    ("context", 2**31, ParameterError),
    ("context", 2**70, ParameterError),
    ("context", "8k", ParameterError),
    ("kv_dtype", "int7", ParameterError),
]


@pytest.mark.parametrize(("name", "value", "kind"), LOADS, ids=[f"{n}={v}" for n, v, _ in LOADS])
def test_arguments_of_load(folder: Path, name: str, value: Any, kind: type[FastlmError]) -> None:
    with refused(kind, name):
        fastlm.load(folder, **{name: value})


def test_an_absurd_context_takes_no_memory(tmp_path: Path) -> None:
    """Address space is reserved for it, and pages of it are used as they are needed."""
    folder = save_llama(tmp_path, replace(TINY, context=1 << 27))
    gc.collect()
    forget_peak()
    before = peak_bytes()
    try:
        with little_work():
            tokens = fastlm.load(folder).generate([1], max_tokens=5).token_ids
    except ModelMemoryError as error:
        assert "context" in str(error)
    else:
        assert len(tokens) == 5
    assert peak_bytes() - before < BYTES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space")
def test_an_absurd_context_where_memory_is_limited(tmp_path: Path) -> None:
    """64 KiB of keys and values per token: a million tokens do not fit into 16 GB of address space."""
    folder = save_llama(tmp_path, Shape(64, layers=128, heads=1, kv_heads=1, width=8, vocab=9, context=1 << 20))
    program = (
        "import resource, sys, fastlm\n"
        f"m = fastlm.load({str(folder)!r}, context=64)\n"
        "m.generate([1], max_tokens=3)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))\n"
        "try:\n"
        f"    fastlm.load({str(folder)!r})\n"
        "except MemoryError as error:\n"
        "    print(type(error).__name__, error)\n"
        "print(len(m.generate([1], max_tokens=3).token_ids))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    message, n = result.stdout.splitlines()
    assert message.startswith("ModelMemoryError cannot reserve") and "context" in message and n == "3"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space")
def test_memory_that_the_system_lacks_for_a_file(tmp_path: Path) -> None:
    """It is not the file that is wrong."""
    program = (
        "import resource\n"
        "from pathlib import Path\n"
        "from fastlm import _core, loading\n"
        "context, path = _core.Context(1), str(loading.PACKAGED).encode()\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + (1 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    _core.Model.open(context, path)\n"
        "except MemoryError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert result.stdout.startswith("ModelMemoryError ") and result.stdout.count("box.flm") == 1
    assert "cannot be opened: Cannot allocate memory" in result.stdout
