"""The build: as many compilers at once as this process may use processors."""

from __future__ import annotations

import os
import runpy

import pytest
from support import ROOT


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_compilers_honour_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    setuptools, build = pytest.importorskip("setuptools"), pytest.importorskip("Cython.Build")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(build, "cythonize", lambda *_, **__: [])
    monkeypatch.chdir(ROOT)
    processors = runpy.run_path("setup.py")["processors"]
    usable = os.sched_getaffinity(0)
    assert processors() == len(usable)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, usable)
