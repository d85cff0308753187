"""Control groups with a quota: what joins one gets no more processor time than that."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .worker import Unavailable

PERIOD = 100_000  # microseconds, the usual one: that of containers
PATIENCE = 2.0  # seconds until a group is free of the processes that have ended


def homes(mounts: str, own: str) -> list[tuple[Path, int]]:
    """Folders where this process might make groups, and the version of each, from /proc/self/mounts and cgroup.

    A container's own path may not be mounted in it; then the root of the mount is its group.
    """
    paths = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    found = []
    for line in mounts.splitlines():
        _, mount, kind, options, *_ = line.split()
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "cpu" in options.split(",") else 0
        if version:
            path = paths.get("" if version == 2 else "cpu", "/").strip("/")
            found += [(folder, version) for folder in dict.fromkeys((Path(mount) / path, Path(mount)))]
    return sorted(found, key=lambda home: -home[1])


def limit(group: Path, version: int, processors: float) -> None:
    """OSError: that is not permitted, or the controller is elsewhere."""
    quota = round(processors * PERIOD)
    if version == 1:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
        return
    if not (group / "cpu.max").exists():
        (group.parent / "cgroup.subtree_control").write_text("+cpu")
    (group / "cpu.max").write_text(f"{quota} {PERIOD}")


@contextlib.contextmanager
def group(processors: float) -> Iterator[Path]:
    """A fresh group with so many processors' time. All that joined it must have ended when it is left."""
    made = _make(processors)
    try:
        yield made
    finally:
        _remove(made)


def _make(processors: float) -> Path:
    try:
        found = homes(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text())
    except OSError:
        raise Unavailable("this system has no control groups") from None
    reason = "no controller of processor time is mounted"
    for home, version in found:
        made = home / f"fastlm-busy-{os.getpid()}"
        try:
            made.mkdir()
        except OSError as error:
            reason = f"no rights to make a control group ({error.strerror})"
            continue
        try:
            limit(made, version, processors)
        except OSError as error:
            made.rmdir()
            reason = f"no rights to set a quota ({error.strerror})"
            continue
        return made
    raise Unavailable(reason)


def _remove(made: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            made.rmdir()
            return
        time.sleep(0.01)
    made.rmdir()
