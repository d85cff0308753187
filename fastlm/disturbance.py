"""What else used the processors while something was measured: figures of a busy machine are too low."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")  # of Linux: what each processor did, in ticks
LEAST_SECONDS = 0.2  # of a measurement: ticks are too long to say anything of a shorter one
MUCH = 0.1  # of the processors' time: worth a warning


@dataclass(frozen=True, slots=True)
class Sample:
    """What was used up to a moment.

    Attributes
    ----------
    wall
        The moment, in seconds of some clock.
    processors
        How many this process may use.
    busy
        Seconds that anybody, the host of a virtual machine too, used on them; None where the system does not tell.
    own
        Processor seconds of this process, and of its children that have ended.
    switches
        How often its threads had to leave a processor to something else.
    """

    wall: float
    processors: int
    busy: float | None
    own: float
    switches: int


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What other processes did between two samples.

    Attributes
    ----------
    share
        Of the processors' time that they took, from 0 to 1; None where that is not known.
    switches
        How often threads of this process had to leave a processor.
    """

    share: float | None
    switches: int

    @property
    def is_much(self) -> bool:
        """Whether figures suffered."""
        return self.share is not None and self.share >= MUCH

    def __str__(self) -> str:
        taken = "an unknown part" if self.share is None else f"{100 * self.share:.0f} %"
        return f"other processes took {taken} of the processors' time"


def sample() -> Sample:
    """What was used up to now."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    allowed = _allowed()
    return Sample(
        wall=time.monotonic(),
        processors=len(allowed),
        busy=_busy_seconds(allowed),
        own=sum(u.ru_utime + u.ru_stime for u in usage),
        switches=usage[0].ru_nivcsw,
    )


def between(before: Sample, after: Sample) -> Disturbance:
    """What happened from one sample to a later one."""
    return Disturbance(_share(before, after), after.switches - before.switches)


def _share(before: Sample, after: Sample) -> float | None:
    wall, own = after.wall - before.wall, after.own - before.own
    if before.busy is None or after.busy is None or before.processors != after.processors or wall < LEAST_SECONDS:
        return None
    busy = after.busy - before.busy
    if busy < own / 2:  # a sandbox, in which the system shows no processors' times
        return None
    return min(max((busy - own) / (wall * after.processors), 0.0), 1.0)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _busy_seconds(processors: Iterable[int]) -> float | None:
    try:
        return busy_seconds(STAT.read_text(encoding="ascii"), processors)
    except (OSError, ValueError):
        return None


def busy_seconds(stat: str, processors: Iterable[int]) -> float:
    """Seconds that these processors were used, by the text of /proc/stat: user, nice, system and stolen ones.

    Raises
    ------
    ValueError
        The text has not all of them.
    """
    names = {f"cpu{n}" for n in processors}
    rows = [row for line in stat.splitlines() if (row := line.split()) and row[0] in names]
    if len(rows) != len(names) or any(len(row) < 9 for row in rows):
        raise ValueError("/proc/stat lacks a processor")
    return sum(int(row[column]) for row in rows for column in (1, 2, 3, 8)) / os.sysconf("SC_CLK_TCK")
