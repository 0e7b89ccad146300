"""What is being done for whom, while it is being done. The command line, the demo and the TUI show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` is 0 to 1; `subject` names the piece of work, `doing` is a word for people."""

    device: str
    subject: str
    done: float
    doing: str = ""


Report: TypeAlias = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A report to nobody."""
