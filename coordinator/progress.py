"""What is being done for whom, while it is being done. The command line, the demo and the TUI show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Transfer:
    """Artifacts on their way to a device: bytes that are there and needed, how fast they come, and from whom.

    `source` is a device's name, empty for this coordinator.
    """

    bytes_there: int
    bytes_needed: int
    bytes_per_s: float = 0.0
    source: str = ""

    @property
    def done(self) -> float:
        """How much of it is there, 0 to 1."""
        return self.bytes_there / self.bytes_needed if self.bytes_needed else 1.0


@dataclass(frozen=True, slots=True)
class WorkCounts:
    """How many pieces of work of one kind are done, of a device and of all; seconds left, None where unknown."""

    done: int
    total: int
    left_s: float | None
    device_done: int
    device_total: int
    device_left_s: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` is 0 to 1; `subject` names the piece of work, `doing` is a word for people.

    `transfer` is given while artifacts are brought to the device, `tally` where there are many pieces of work.
    """

    device: str
    subject: str
    done: float
    doing: str = ""
    transfer: Transfer | None = None
    tally: WorkCounts | None = None


Report: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A report to nobody."""
