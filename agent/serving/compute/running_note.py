"""What a worker's compute lane runs, noted where its successor finds it: in memory that outlives the process.

A mapped file costs no system call for each job, and the kernel keeps its pages when the worker is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.serving.compute.suspects import Place, Suspects

_SIZE: Final = 256 * 2**10
_LENGTH: Final = 4
_RUNNING: Final = "running"


def has_left_work(folder: Path) -> bool:
    """Whether something ran when the worker with this note ended: then that, and not the assignment, may be why."""
    try:
        with (folder / _RUNNING).open("rb") as file:
            return any(file.read(_LENGTH))
    except OSError:
        return False


class RunningNote:
    """The note and the counts, `running` and `suspects.json` in a folder. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._counts = folder / "suspects.json"
        descriptor = os.open(folder / _RUNNING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def load(self) -> Suspects:
        """What is suspected, with what was running when the worker before this one ended. The note is empty then."""
        suspects = Suspects(self._kept(), self._noted())
        self.keep(suspects)
        self.ended()
        return suspects

    def began(self, places: Iterable[Place]) -> None:
        """These run now."""
        data = msgspec.msgpack.encode(list(places))
        if len(data) > _SIZE - _LENGTH:
            return
        self._map[_LENGTH : _LENGTH + len(data)] = data
        # The length last: a note that is cut short says nothing.
        self._map[:_LENGTH] = len(data).to_bytes(_LENGTH, "little")

    def ended(self) -> None:
        """Nothing runs."""
        self._map[:_LENGTH] = bytes(_LENGTH)

    def keep(self, suspects: Suspects) -> None:
        """Write the counts down."""
        if not suspects.counts and not self._counts.exists():
            return
        rows = [[*place, count] for place, count in suspects.counts.items()]
        fresh = self._counts.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(rows))
        fresh.replace(self._counts)

    def close(self) -> None:
        """Let go of the note."""
        self._map.close()

    def _noted(self) -> list[Place]:
        size = int.from_bytes(self._map[:_LENGTH], "little")
        try:
            return msgspec.msgpack.decode(self._map[_LENGTH : _LENGTH + size], type=list[Place])
        except msgspec.MsgspecError:
            return []

    def _kept(self) -> dict[Place, int]:
        try:
            rows = msgspec.json.decode(self._counts.read_bytes(), type=list[tuple[str, str, int]])
        except (OSError, msgspec.MsgspecError):
            return {}
        return {(stage, request): count for stage, request, count in rows}
