"""Requests that end the worker again and again: they are given up instead of ending it forever. Pure.

What runs when a worker dies is suspected. A suspect runs alone from then on, so that what shared its batch is cleared
at once; what comes through is cleared, and what was running at the end of `limits.POISON_ENDS` workers runs no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from tiermesh import limits

Place: TypeAlias = tuple[str, str]
"""A stage and the id of a request at it."""


class Suspects:
    """How often each was running when a worker ended. `running` is what ran when the last one did."""

    def __init__(self, counts: Mapping[Place, int], running: Iterable[Place] = ()) -> None:
        self.counts = dict(counts)
        for place in running:
            # Moved to the end: the oldest go first.
            self.counts[place] = self.counts.pop(place, 0) + 1
        for place in list(self.counts)[: -limits.SUSPECTS]:
            del self.counts[place]

    def is_suspect(self, stage: str, request: str) -> bool:
        """Whether it should run alone."""
        return (stage, request) in self.counts

    def why_not(self, stage: str, request: str) -> str:
        """Why a request must not run at a stage; empty: it may."""
        count = self.counts.get((stage, request), 0)
        if count < limits.POISON_ENDS:
            return ""
        return f"the worker ended {count} times while it ran: it is not tried again"

    def cleared(self, places: Iterable[Place]) -> bool:
        """These have come through; whether one of them was a suspect."""
        known: Final = [place for place in places if place in self.counts]
        for place in known:
            del self.counts[place]
        return bool(known)
