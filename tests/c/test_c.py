"""The library as a C program sees it: built by the documented lines, run under sanitizers, fed damaged files."""

import re
import subprocess

import public_model
import pytest
from support import CSRC, ROOT, UNIT_WALK_FLAGS

import fastlm
from fastlm import loading

PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\""
)
WRAP = ["-Wl,--wrap=malloc,--wrap=calloc,--wrap=mmap,--wrap=munmap,--wrap=pthread_create"]
LIBRARY = sorted(CSRC.rglob("*.c"))
HERE = ROOT / "tests" / "c"


def run(*command: object) -> str:
    """Standard output of a command that must succeed, in silence on standard error."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, errors="replace", timeout=280, check=False
    )
    assert done.returncode == 0 and not done.stderr, f"{done.returncode}\n{done.stderr[-8000:]}"
    return done.stdout


def test_embed_writes_the_published_text(documented, stories_flm):
    assert run(documented / "embed", stories_flm).startswith(PUBLISHED)
    assert run(documented / "embed", stories_flm, 4) == "Once upon a time\n"


def test_embed_writes_what_python_writes(documented):
    """The packaged model's text, from the token that begins every text."""
    with fastlm.load() as model:
        written = model.generate([public_model.END], temperature=0, max_tokens=200).text
    assert written.startswith("Once upon a time")
    assert run(documented / "embed", loading.PACKAGED) == written + "\n"


def test_embed_under_sanitizers(build_c):
    program = build_c("embed", [ROOT / "examples" / "embed.c", *LIBRARY], sanitizer="address")
    assert run(program, loading.PACKAGED, 120).startswith("Once upon a time")


@pytest.mark.parametrize("sanitizer", ["thread"], indirect=True)
def test_threads_meet_between_the_layers_of_a_source(build_c, sanitizer, deep_t5):
    """A layer's cross-attention keys are stored before the next layer's product overwrites their rows."""
    program = build_c("races_source", [HERE / "races_source.c", *LIBRARY], sanitizer=sanitizer)
    assert int(run(program, deep_t5)) == 4000


@pytest.mark.parametrize("sanitizer", ["thread"], indirect=True)
def test_sizes_are_told_while_steps_run(build_c, sanitizer, chunked_files):
    program = build_c("unit_info", [HERE / "unit_info.c", *LIBRARY], sanitizer=sanitizer)
    run(program, chunked_files["llama_float32"])


@pytest.mark.parametrize("sanitizer", ["address", "thread"], indirect=True)
@pytest.mark.parametrize("name", ["bert", "bert_int4"])
def test_texts(build_c, sanitizer, small_files, name):
    program = build_c("unit_texts", [HERE / "unit_texts.c", *LIBRARY], sanitizer=sanitizer)
    run(program, small_files[name])


@pytest.mark.parametrize("case", ["question", "copy"])
def test_shared_pages(build_c, case):
    flags = ["-Wl,--wrap=memset"]
    run(build_c("unit_shared_pages", [HERE / "unit_shared_pages.c", *LIBRARY], flags=flags), case)


@pytest.mark.parametrize(
    ("name", "text"), [("x.flm", "x.flm: is not a .flm file"), ("none.flm", "none.flm: cannot be opened: No such file")]
)
def test_embed_says_what_is_wrong(documented, tmp_path, name, text):
    (tmp_path / "x.flm").write_bytes(b"text" * 100)
    done = subprocess.run([documented / "embed", tmp_path / name], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and text in done.stderr


@pytest.mark.parametrize(
    "args", [(), ("m.flm", "Once upon a time"), ("m.flm", "0"), ("m.flm", ""), ("m.flm", "5", "6")]
)
def test_embed_says_how_it_is_used(documented, args):
    done = subprocess.run([documented / "embed", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: " in done.stderr and "[number of tokens]" in done.stderr


def test_abi(build_c, documented):
    flags = [f"-Wl,-rpath,{documented}"]
    run(build_c("abi_test", [HERE / "abi_test.c", documented / "libfastlm.so"], flags=flags))


def test_library_exports_the_header_and_cannot_end_the_process(documented):
    header = (CSRC / "include" / "fastlm.h").read_text()
    public = set(re.findall(r"^FLM_API [^(]*?(flm_\w+)\(", header, re.MULTILINE))
    symbols = run("nm", "-D", documented / "libfastlm.so").split("\n")
    exported = {line.split()[-1] for line in symbols if " T " in line}
    assert exported - {"_init", "_fini"} == public and len(public) > 30
    imported = {line.split()[-1].split("@")[0] for line in symbols if " U " in line}
    forbidden = {"abort", "exit", "_exit", "quick_exit", "__assert_fail", "raise", "kill", "printf", "puts", "putchar"}
    forbidden |= {"strerror", "strtok", "localtime", "gmtime", "setlocale"}  # share a buffer among all threads
    assert not imported & (forbidden | {"fprintf", "perror", "fwrite", "__printf_chk", "__fprintf_chk"})
    assert "pthread_create" in imported


RED_ZONES = ["scratch", "weights", "pages", "areas", "blocks"]


@pytest.mark.parametrize("case", RED_ZONES)
def test_overruns_are_seen(build_c, small_files, case):
    """The address sanitizer sees the first byte past a part of a block, and takes the last one as it should."""
    program = build_c("unit_red_zones", [HERE / "unit_red_zones.c", *LIBRARY], sanitizer="address")
    command = [program, case, small_files["llama"]]
    run(*command, 0)
    done = subprocess.run([*map(str, command), "1"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode != 0 and "use-after-poison" in done.stderr and "in touch" in done.stderr, done.stderr


def test_plans_keep_to_their_room(build_c, small_files):
    program = build_c("unit_plan", [HERE / "unit_plan.c", *LIBRARY], sanitizer="address")
    for name in ("llama", "moe_int4", "t5", "deberta"):
        run(program, small_files[name])


def test_damaged_files(build_c, small_files, tmp_path):
    program = build_c("fuzz_flm", [HERE / "fuzz_flm.c", *LIBRARY], sanitizer="address", flags=WRAP)
    text = run(program, "fuzz", tmp_path / "damaged.flm", 12_000, 7, *small_files.values())
    counts = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", text)}
    assert counts["format"] > 4000 and counts["opened"] > 1000 and counts["ok"] > 500 and counts["numeric"] > 50, text
    assert sum(n for name, n in counts.items() if name != "opened") == 12_000


def test_every_allocation_may_fail(build_c, small_files):
    program = build_c("fuzz_flm", [HERE / "fuzz_flm.c", *LIBRARY], sanitizer="address", flags=WRAP)
    text = run(program, "memory", *small_files.values())
    assert min(map(int, re.findall(r"\d+", text))) > 20


@pytest.mark.parametrize("name", ["llama", "moe_int4", "twins", "t5", "llama_int8"])
def test_bits_do_not_depend_on_who_takes_part(build_c, sanitizer, chunked_files, name):
    """The team changes at random at every barrier; a leader alone shares long operations in units."""
    if sanitizer != "plain" and name not in ("llama_int8", "t5"):
        pytest.skip("two of the models are enough for a sanitizer")
    program = build_c("unit_walk", [HERE / "unit_walk.c", *LIBRARY], sanitizer=sanitizer, flags=UNIT_WALK_FLAGS)
    file = chunked_files[name if "_" in name else f"{name}_float32"]
    joined, left, helped = map(int, run(program, "bits", file).split()[1::2])
    assert joined > 20 and left > 20 and helped > 20


MODEL_CASES = [
    "fallback",
    "coverage",
    "finish_again",
    "two_loaders",
    "verify_beside",
    "shares",
    "info_beside",
    "options",
]


@pytest.mark.parametrize("case", MODEL_CASES)
def test_models(build_c, sanitizer, small_files, spec_blob, case):
    if sanitizer == "thread" and case == "fallback":
        pytest.skip("the thread sanitizer cannot start threads in a forked child")
    wrap = ["-Wl,--wrap=pthread_create,--wrap=calloc,--wrap=sysconf"]
    program = build_c("unit_model", [HERE / "unit_model.c", *LIBRARY], sanitizer=sanitizer, flags=wrap)
    run(program, case, spec_blob, small_files["llama"])
