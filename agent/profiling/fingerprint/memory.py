"""Memory that this device may use: the machine's, or less inside a memory cgroup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from agent.host_facts import HostFacts
from agent.profiling.fingerprint import reading


def total_bytes(proc: Path, sys: Path, facts: HostFacts) -> int:
    """The machine's memory, or the least limit of the cgroups that this process is in; 0 where neither is known."""
    found = facts.memory()
    machine = [found.total_bytes] if found is not None else []
    return min([*machine, *_limits(proc, sys / "fs/cgroup")], default=0)


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    for line in reading.text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _up(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _up(cgroups / "memory", path, "memory.limit_in_bytes")


def _up(root: Path, path: str, name: str) -> Iterator[int]:
    """The limits of a cgroup and of all above it; `max`, no limit, is no number."""
    group = PurePosixPath(path)
    for folder in (group, *group.parents):
        limit = reading.number(root / folder.relative_to("/") / name)
        if limit:
            yield limit
