"""The library as a C program sees it: built by the documented lines, run under sanitizers, fed damaged files."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\""
)
WRAP = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=mmap,--wrap=pthread_create"


@pytest.fixture(scope="session")
def documented(tmp_path_factory, run) -> Path:
    """A copy of the sources with libfastlm.so and embed, built by the lines of docs/embedding.md."""
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copytree(ROOT / "examples", folder / "examples")
    lines = re.findall(r"^cc .*$", (ROOT / "docs" / "embedding.md").read_text(), re.MULTILINE)
    assert len(lines) == 2
    if shutil.which("cc") is None:
        pytest.skip("cc is missing")
    for line in lines:
        run(["sh", "-c", line], cwd=folder)
    return folder


def test_embed_writes_the_published_text(documented, stories_flm, run):
    text = run([str(documented / "embed"), str(stories_flm)])
    assert text.startswith(PUBLISHED)
    assert run([str(documented / "embed"), str(stories_flm), "4"]) == "Once upon a time\n"


def test_embed_under_sanitizers(sanitized, stories_flm, run):
    text = run([str(sanitized("examples/embed.c")), str(stories_flm), "120"])
    assert text.startswith(PUBLISHED[:200])


def test_embed_reports_what_is_wrong(documented, tmp_path):
    (tmp_path / "x.flm").write_bytes(b"text" * 100)
    for path, text in [("x.flm", "x.flm: is not a .flm file"), ("none.flm", "none.flm: cannot be opened")]:
        done = subprocess.run([documented / "embed", tmp_path / path], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and text in done.stderr


def test_abi(sanitized, run):
    run([str(sanitized("tests/c/abi_test.c"))])


def test_library_exports_the_header_and_cannot_end_the_process(documented, run):
    header = (ROOT / "csrc" / "include" / "fastlm.h").read_text()
    public = set(re.findall(r"^FLM_API [^(]*?(flm_\w+)\(", header, re.MULTILINE))
    symbols = run(["nm", "-D", str(documented / "libfastlm.so")]).split("\n")
    exported = {line.split()[-1] for line in symbols if " T " in line}
    assert exported - {"_init", "_fini"} == public and len(public) > 30
    imported = {line.split()[-1].split("@")[0] for line in symbols if " U " in line}
    forbidden = {"abort", "exit", "_exit", "quick_exit", "__assert_fail", "raise", "kill", "printf", "puts", "putchar"}
    assert not imported & (forbidden | {"fprintf", "perror", "fwrite", "__printf_chk", "__fprintf_chk"})
    assert "pthread_create" in imported


def test_damaged_files(sanitized, small_files, tmp_path, run):
    program = sanitized("tests/c/fuzz_flm.c", WRAP)
    text = run([str(program), "fuzz", str(tmp_path / "damaged.flm"), "12000", "7", *map(str, small_files.values())])
    counts = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", text)}
    assert counts["format"] > 4000 and counts["opened"] > 1000 and counts["ok"] > 500 and counts["numeric"] > 50, text
    assert sum(n for name, n in counts.items() if name != "opened") == 12_000


def test_every_allocation_may_fail(sanitized, small_files, run):
    program = sanitized("tests/c/fuzz_flm.c", WRAP)
    text = run([str(program), "memory", *map(str, small_files.values())])
    assert min(map(int, re.findall(r"\d+", text))) > 20
