"""What others took of the machine while this measured: waits for a processor, stolen time, other load.

Read where the kernel tells it: this thread's run delay, `/proc/stat` (what the hypervisor took, and what all processes
computed) and `/proc/pressure/cpu` (waits of any process).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.host_facts import host_time
from agent.run_delay import PROC, run_delay_s

TOLERATED: Final = 0.05
"""A batch that waited for a processor for more of its time is measured again."""
_MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since some moment: of this thread on a processor and waiting for one, and of the whole machine."""

    cpu_s: float
    waited_s: float | None
    busy_s: float | None
    stolen_s: float | None
    own_s: float
    pressure_s: float | None
    wall_s: float

    @staticmethod
    def take(proc: Path = PROC) -> CpuTimes:
        """How it stands now."""
        machine = host_time(proc)
        return CpuTimes(
            cpu_s=time.thread_time(),
            waited_s=run_delay_s(proc),
            busy_s=None if machine is None else machine.busy_s,
            stolen_s=None if machine is None else machine.stolen_s,
            own_s=time.process_time(),
            pressure_s=_pressure(proc),
            wall_s=time.perf_counter(),
        )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Between two readings: the share of the wanted processor time that others took, and how many cores they used.

    None where the kernel does not tell.
    """

    share: float | None
    other_cores: float | None

    @staticmethod
    def between(before: CpuTimes, after: CpuTimes) -> Disturbance:
        """What others took meanwhile: by waiting or by the hypervisor, whichever is more."""
        wall = max(after.wall_s - before.wall_s, 1e-9)
        cpu = after.cpu_s - before.cpu_s
        waits = _gone(before.waited_s, after.waited_s)
        if waits is None:
            # Any process may have waited, so this is the most that it can have been; waits of a sleeper do not count.
            pressure = _gone(before.pressure_s, after.pressure_s)
            waits = None if pressure is None else pressure * min(cpu / wall, 1.0)
        waited = None if waits is None else waits / max(waits + cpu, 1e-9)
        busy = _gone(before.busy_s, after.busy_s)
        stolen = _gone(before.stolen_s, after.stolen_s)
        own = after.own_s - before.own_s
        taken = None if stolen is None or busy is None else stolen / max(stolen + busy, 1e-9)
        known = [share for share in (waited, taken) if share is not None]
        return Disturbance(
            share=min(max(known), 1.0) if known else None,
            other_cores=None if busy is None else max(busy - own, 0.0) / wall,
        )


class DisturbanceWatch:
    """Tells of each batch whether this thread had to wait for a processor; `waited` gives the seconds so far."""

    def __init__(self, waited: Callable[[], float | None] | None = None) -> None:
        self._waited = waited or run_delay_s
        self._waits: float | None = 0.0
        self._cpu = 0.0

    def begin(self) -> None:
        """A batch begins."""
        self._waits, self._cpu = self._waited(), time.thread_time()

    def was_disturbed(self) -> bool:
        """Whether the batch that ends waited too long."""
        now = self._waited()
        if now is None or self._waits is None:
            return False
        waits, cpu = now - self._waits, time.thread_time() - self._cpu
        return waits > TOLERATED * (waits + cpu)


def _pressure(proc: Path) -> float | None:
    some = _text(proc / "pressure/cpu").partition("\n")[0]
    total = some.rpartition("total=")[2]
    return int(total) / _MICROSECONDS if some.startswith("some") and total.isdigit() else None


def _gone(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(after - before, 0.0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
