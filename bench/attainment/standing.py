"""What stands by on simulated devices: the coordinator brings it there and has it loaded, ahead of a loss."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from tiermesh.documents.assignment import Assignment
from tiermesh.v1 import control_pb2 as pb


class Standing:
    """The sessions with all devices, as far as standing by goes. `loaded` is by device, stage and variant."""

    def __init__(self) -> None:
        self.calls = count(1)
        self._of: dict[str, set[tuple[str, str, str | None]]] = {}

    @property
    def loaded(self) -> set[tuple[str, str, str | None]]:
        """All that stands by."""
        return set[tuple[str, str, str | None]]().union(*self._of.values())

    def to(self, device: str) -> Session:
        """The session with a device."""
        return Session(self, device)

    def load(self, device: str, assignment: Assignment) -> None:
        """A device has these replicas loaded, in place of those before."""
        self._of[device] = {
            (device, r.stage, r.variant.name if r.variant is not None else None)
            for r in assignment.replicas
        }


class Session:
    """A session with one device."""

    def __init__(self, standing: Standing, device: str) -> None:
        self._standing = standing
        self._device = device

    async def ask(self, command: pb.Command, *_: Any, **__: Any) -> None:
        """Carry a command out."""
        assignment = msgspec.json.decode(command.standby.assignment, type=Assignment)
        self._standing.load(self._device, assignment)


class Distribution:
    """Artifacts are everywhere."""

    async def bring(self, *_: Any, **__: Any) -> None:
        """Nothing has to be brought."""


class Folder:
    """Artifacts lie nowhere: nobody reads them."""

    def path_of(self, digest: str) -> Path:
        """Where one would be."""
        return Path(digest)
