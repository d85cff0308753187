"""What several tests share: the models beside the repository, and C programs built from the core's sources."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import CSRC, SHARED_MODELS, BuildC

BASE_FLAGS = ("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread")
BASE_FLAGS += ("-DFLM_CHECKS",)  # invariants (csrc/base/invariant.h) stop the program


# Tables of kernels by preference, and a feature of the processors that have them.
TABLES = {
    "AMX": "amx_int8",
    "AVX512VNNI": "avx512_bf16",
    "AVX512": "avx512bw",
    "AVXVNNI": "avx_vnni",
    "AVX2": "avx2",
}


def _tables_left_out() -> tuple[str, ...]:
    """Sanitizers watch the kernels that are chosen here: to compile the others, too, takes minutes."""
    cpuinfo = Path("/proc/cpuinfo")
    features = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    there = [name for name, feature in TABLES.items() if feature in features]
    return tuple(f"-DFLM_ISA_{name}=0" for name in TABLES if there and name != there[0])


WATCHED = _tables_left_out()
SANITIZERS = {
    "plain": ("-O3", "-g0"),
    "address": (
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        *WATCHED,
    ),
    "thread": ("-O1", "-g", "-fsanitize=thread", *WATCHED),
}
# Of the unrolled kernels: checks of every pointer take minutes to compile, and line numbers half of the time that the
# thread sanitizer takes; the address sanitizer sees what they read, and reports name their functions.
KERNEL_SANITIZERS = {
    "plain": (),
    "address": ("-g0", "-fno-sanitize=alignment,null,object-size,pointer-overflow"),
    "thread": ("-g0",),
}


def pytest_configure() -> None:
    """Shells start background jobs with SIGINT ignored, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on models that are not published run where these are: beside the repository."""
    if SHARED_MODELS.is_dir():
        return

    def is_private(item: pytest.Item) -> bool:
        return "shared_models" in getattr(item, "fixturenames", ())

    config.hook.pytest_deselected(items=[item for item in items if is_private(item)])
    items[:] = [item for item in items if not is_private(item)]


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real models beside the repository."""
    return SHARED_MODELS


@pytest.fixture(scope="session")
def stories260k(shared_models: Path) -> Path:
    """A model whose text others have published."""
    folder = shared_models / "stories260k"
    assert (folder / "model.safetensors").is_file(), f"{folder} holds no model.safetensors"
    return folder


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model as a checkpoint folder: see public_model.py."""
    from public_model import save_public_model

    return save_public_model(tmp_path_factory.mktemp("stories"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process is in here with the same file, which is made if need be."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def build_c(request: pytest.FixtureRequest) -> BuildC:
    """Programs from objects that stay in pytest's cache folder: programs built with the same flags share them."""
    folder = Path(request.config.cache.mkdir("c"))
    compiler = (os.environ.get("CC") or shutil.which("cc") or "gcc").split()
    headers = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.inc"), *Path(__file__).parent.rglob("*.h")])
    of_headers = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in headers)

    def made(name: str, command: Sequence[str], files: Sequence[Path], extra: bytes = b"", suffix: str = "") -> Path:
        """What the command makes of the files, named after both; what it made of older ones goes."""
        kind = f"{name}-{hashlib.sha256(chr(0).join(command).encode()).hexdigest()[:8]}"
        digest = hashlib.sha256(b"".join([extra, *(path.read_bytes() for path in files)])).hexdigest()
        result = folder / f"{kind}-{digest[:16]}{suffix}"
        with locked(folder / f"{kind}.lock"):  # by one of the processes that run tests
            if result.exists():
                return result
            for old in folder.glob(f"{kind}-*{suffix}"):
                old.unlink(missing_ok=True)
            partial = folder / f"{kind}.{os.getpid()}{suffix}"
            libraries = [] if suffix == ".o" else ["-lm"]
            subprocess.run([*command, *map(str, files), *libraries, "-o", str(partial)], check=True)
            partial.replace(result)
        return result

    def build(name: str, sources: Sequence[Path], *, sanitizer: str = "plain", flags: Sequence[str] = ()) -> Path:
        linking = [flag for flag in flags if flag.startswith(("-Wl,", "-shared"))]
        general = [*SANITIZERS[sanitizer], *(flag for flag in flags if flag not in linking)]

        def compiled(source: Path) -> Path:
            own = KERNEL_SANITIZERS[sanitizer] if source.is_relative_to(CSRC / "kernels") else ()
            command = [*compiler, *BASE_FLAGS, *general, *own, f"-I{CSRC / 'include'}", f"-I{CSRC}", "-c"]
            return made(f"{source.parent.name}.{source.stem}", command, [source], of_headers, ".o")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, (source for source in sources if source.suffix == ".c")))
        objects += [source for source in sources if source.suffix != ".c"]
        return made(name, [*compiler, *BASE_FLAGS, *general, *linking], objects)

    return build


@pytest.fixture(scope="session", params=list(SANITIZERS))
def sanitizer(request: pytest.FixtureRequest, build_c: BuildC, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each sanitizer in turn; skips those whose run-time library is missing or cannot start on this kernel."""
    name: str = request.param
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        works = subprocess.run([build_c("probe", [source], sanitizer=name)], check=False).returncode == 0
    except subprocess.CalledProcessError:
        works = False
    if not works:
        pytest.skip(f"programs built with {' '.join(SANITIZERS[name])} do not run here")
    return name


@pytest.fixture(scope="session")
def libfastlm(build_c: BuildC) -> Path:
    """The whole core as a shared library; programs may be linked with it."""
    return build_c("libfastlm", sorted(CSRC.rglob("*.c")), flags=["-shared"])
