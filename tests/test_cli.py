"""The command line, as a user runs it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import public_model
import pytest
from models import save_llama

BEGINNING = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\""
)


ELSEWHERE = sys.prefix  # not the repository, whose package is not built in place


def fastlm(*args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastlm", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, check=check, timeout=60, stdin=subprocess.DEVNULL, cwd=ELSEWHERE
    )


def test_generate_writes_the_published_text(stories260k: Path) -> None:
    done = fastlm("generate", "--model", stories260k, "--temperature", "0", "--max-tokens", "200")
    assert done.stdout.startswith(BEGINNING)
    assert done.stderr == ""


def test_generate_repeats_the_prompt_and_goes_on(stories: Path) -> None:
    done = fastlm("generate", "Once upon", "--model", stories, "--max-tokens", "10")
    assert done.stdout.startswith("Once upon a time, there was a little")


def test_generate_json(stories: Path) -> None:
    done = json.loads(fastlm("generate", "Once", "--model", stories, "--max-tokens", "7", "--json").stdout)
    assert done["prompt"] == "Once"
    assert len(done["token_ids"]) == 7
    assert done["finish_reason"] == "length"


def test_stop_and_seed(stories: Path) -> None:
    options = ("--model", stories, "--max-tokens", "60", "--temperature", "1", "--seed", "5")
    first, second = (fastlm("generate", "Lily", *options).stdout for _ in range(2))
    assert first == second
    assert fastlm("generate", "Once upon a time", "--model", stories, "--stop", "Lily").stdout.endswith("named \n")


def test_convert_then_generate(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.flm"
    fastlm("convert", stories, out)
    done = fastlm("generate", "--model", out, "--max-tokens", "200")
    assert done.stdout.startswith(public_model.BEGINNING)


def test_convert_to_a_home_that_is_none(stories: Path, tmp_path: Path) -> None:
    """The name that was written is the one that is measured."""
    command = [sys.executable, "-m", "fastlm", "convert", str(stories), "~nobody-of-this-name.flm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "~nobody-of-this-name.flm").stat().st_size
    assert done.stdout == f"~nobody-of-this-name.flm: {size:,} bytes\n"


def test_next_shows_bars(stories: Path) -> None:
    lines = fastlm("next", "Once upon a", "--model", stories, "-k", "3").stdout.splitlines()
    assert len(lines) == 3
    assert "' time'" in lines[0]
    assert lines[0].count("\u2588") == 40
    rows = json.loads(fastlm("next", "Once upon a", "--model", stories, "-k", str(public_model.VOCAB), "--json").stdout)
    assert sum(row["probability"] for row in rows) == pytest.approx(1.0)


def test_info_counts_every_parameter(stories: Path) -> None:
    found = json.loads(fastlm("info", stories, "--json").stdout)
    assert found["parameters"] == public_model.PARAMETERS
    assert sum(part["parameters"] for part in found["parts"].values()) == public_model.PARAMETERS
    assert sum(part["bytes"] for part in found["parts"].values()) == found["memory"]["weight_bytes"]
    assert f"{public_model.PARAMETERS:,} parameters" in fastlm("info", stories).stdout


def test_an_encoder_decoder_writes_its_answer_alone(tmp_path: Path) -> None:
    golden = Path(__file__).with_name("golden") / "t5"
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden / name, tmp_path)
    description = {"model": {"type": "BPE", "vocab": {chr(33 + i): i for i in range(90)}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **description}))
    done = fastlm("generate", "abc", "--model", tmp_path, "--max-tokens", "4", "--json")
    assert json.loads(done.stdout)["prompt"] == "abc"
    assert (
        fastlm("generate", "abc", "--model", tmp_path, "--max-tokens", "4").stdout
        == json.loads(done.stdout)["text"] + "\n"
    )
    beams = (
        "generate",
        "abc",
        "--model",
        tmp_path,
        "--max-tokens",
        "4",
        "--num-beams",
        "3",
        "--early-stopping",
        "never",
    )
    best = json.loads(fastlm(*beams, "--json").stdout)
    assert best["score"] < 0 and fastlm(*beams).stdout == best["text"] + "\n"


def test_models_without_a_tokenizer(tmp_path: Path) -> None:
    folder, packed = save_llama(tmp_path / "model"), tmp_path / "model.flm"
    done = fastlm("convert", folder, packed)
    assert done.stderr == (
        "fastlm: this model has no tokenizer (tokenizer.json is missing): "
        f"{packed} takes and gives token ids, not text\n"
    )
    for path in (folder, packed):
        assert "no tokenizer: it takes and gives token ids, not text" in fastlm("info", path).stdout
        assert json.loads(fastlm("info", path, "--json").stdout)["tokenizer"] is False
    assert "no tokenizer" not in fastlm("info").stdout


def test_a_prompt_that_is_the_name_of_a_file(stories: Path, tmp_path: Path) -> None:
    file, packed = tmp_path / "story.txt", tmp_path / "model.flm"
    file.touch(), packed.touch()
    for command in ("generate", "next"):
        for path, what in ((tmp_path, "folder; did you mean --model"), (file, "file; did you mean --file")):
            done = fastlm(command, path, *(("--max-tokens", "1") if command == "generate" else ()))
            assert done.stderr == f"fastlm: the text is the name of a {what} {path}?\n"
    assert f"--model {packed}?" in fastlm("generate", packed, "--max-tokens", "1").stderr
    for text in ("Once", "", "x" * 5000, "a/b", "-"):
        assert "the name of" not in fastlm("generate", text, "--max-tokens", "1", check=False).stderr
    assert fastlm("generate", file, "--model", stories, "--max-tokens", "1").stderr == ""


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (("generate", "--model", "/nowhere"), 1, "/nowhere"),
        (("generate", "--model", "MODEL", "--top-p", "7"), 2, "top_p"),
        (("chat", "--model", "MODEL"), 1, "no chat template"),
        (("next", "--model", "MODEL", "-k", "0"), 2, "k must be"),
        (("unknown",), 2, "unknown"),
        (("info", "--dtype", "int8"), 2, "dtype: the packaged model has one format only"),
    ],
)
def test_exit_status(stories: Path, args: tuple[str, ...], status: int, text: str) -> None:
    done = fastlm(*(str(stories) if a == "MODEL" else a for a in args), check=False)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def endless(stories: Path, tmp_path: Path) -> Path:
    """The model, with a context that takes seconds to fill."""
    for path in stories.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = {**json.loads((stories / "config.json").read_text()), "max_position_embeddings": 100_000}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_interrupt_ends_cleanly(endless: Path) -> None:
    command = [sys.executable, "-m", "fastlm", "generate", "--model", str(endless), "--ignore-eos"]
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--max-tokens", "90000", "--temperature", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ELSEWHERE,
        )
        assert process.stdout is not None
        process.stdout.read(100)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert errors == b"\nfastlm: interrupted\n"


def test_reader_that_goes_away(stories: Path) -> None:
    command = f"{sys.executable} -m fastlm generate --model {stories} --max-tokens 400 --ignore-eos | head -c 10"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, cwd=ELSEWHERE)
    assert done.stdout == "Once upon "
    assert done.stderr == ""
