"""What several tests share: the models beside the repository, and C programs built from the core's sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import CSRC, SHARED_MODELS, BuildC

BASE_FLAGS = ("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-pthread")
SANITIZERS = {
    "plain": ("-O2",),
    "address": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
}


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real models beside the repository; its absence is a failure in CI, else a skip."""
    if SHARED_MODELS.is_dir():
        return SHARED_MODELS
    if os.environ.get("CI") == "true":
        pytest.fail("../shared/models is missing; in CI the tests on real models must run")
    pytest.skip("../shared/models is not here")


@pytest.fixture(scope="session")
def stories260k(shared_models: Path) -> Path:
    folder = shared_models / "stories260k"
    assert (folder / "model.safetensors").is_file(), f"{folder} holds no model.safetensors"
    return folder


@pytest.fixture(scope="session")
def build_c(request: pytest.FixtureRequest) -> BuildC:
    """Compiles sources into one program and keeps it in pytest's cache folder until a source or flag changes."""
    folder = Path(request.config.cache.mkdir("c"))
    compiler = (os.environ.get("CC") or shutil.which("cc") or "gcc").split()
    headers = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.inc"), *Path(__file__).parent.glob("c/*.h")])

    def build(name: str, sources: Sequence[Path], *, sanitizer: str = "plain", flags: Sequence[str] = ()) -> Path:
        command = [*compiler, *BASE_FLAGS, *SANITIZERS[sanitizer], f"-I{CSRC / 'include'}", f"-I{CSRC}", *flags]
        digest = hashlib.sha256("\0".join([*command, *map(str, sources)]).encode())
        for path in [*headers, *sources]:
            digest.update(path.read_bytes())
        program = folder / f"{name}-{sanitizer}-{digest.hexdigest()[:16]}"
        if not program.exists():
            for old in folder.glob(f"{name}-{sanitizer}-*"):
                old.unlink(missing_ok=True)
            partial = folder / f"{name}.{os.getpid()}"
            subprocess.run([*command, *map(str, sources), "-lm", "-o", str(partial)], check=True)
            partial.replace(program)
        return program

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
    return build_c("libfastlm", sorted(CSRC.rglob("*.c")), flags=["-shared", "-fPIC", "-fvisibility=hidden"])
