"""How much processor time this device may take: CPU quotas of the cgroups that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from agent.profiling.fingerprint import reading

_V2_ROOTS: Final = (".", "unified")
_V1_ROOTS: Final = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
_V2_WORDS: Final = 2


def cores(proc: Path, sys: Path) -> float | None:
    """Cores' worth of time that all processes of the tightest cgroup may take together; None without a quota.

    Own cgroup and all above it, `cpu.max` (cgroup v2) and `cpu.cfs_quota_us` (v1). A process that is in a cgroup
    namespace sees those above its root no more.
    """
    return min(_quotas(proc, sys / "fs/cgroup"), default=None)


def _quotas(proc: Path, mounted: Path) -> Iterator[float]:
    for line in reading.text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for root in _V2_ROOTS:
                yield from _found(_v2(folder) for folder in _up(mounted / root, path))
        elif "cpu" in controllers.split(","):
            for root in dict.fromkeys((controllers, *_V1_ROOTS)):
                yield from _found(_v1(folder) for folder in _up(mounted / root, path))


def _found(quotas: Iterator[float | None]) -> Iterator[float]:
    return (quota for quota in quotas if quota is not None)


def _up(root: Path, path: str) -> Iterator[Path]:
    """A cgroup and all above it."""
    group = PurePosixPath(path)
    for folder in (group, *group.parents):
        yield root / folder.relative_to("/")


def _v2(folder: Path) -> float | None:
    words = reading.text(folder / "cpu.max").split()
    if len(words) != _V2_WORDS or not all(word.isdigit() for word in words):
        return None  # "max 100000": no quota; or no such file
    quota, period = map(int, words)
    return quota / period if quota > 0 and period > 0 else None


def _v1(folder: Path) -> float | None:
    quota = reading.number(folder / "cpu.cfs_quota_us")
    period = reading.number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None  # -1: no quota
