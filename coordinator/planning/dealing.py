"""Which lane each request of a simulation takes: as sources deal their requests to lanes.

A source on several devices is one process, of which each device makes a part (`agent`: `Arrivals`). Even arrivals
interleave, those of a record are dealt evenly, and Poisson arrivals fall to a device by chance: a device then sees
Poisson arrivals, not every other one of them. Within its part each device deals by a Weyl sequence of its own.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from tiermesh import ids
from tiermesh.documents.plan import Lane


@dataclass(slots=True)
class _Part:
    """The lanes of one replica of a source; `ends` are their shares, added up."""

    lanes: list[Lane]
    start: float
    ends: list[float] = field(init=False)
    dealt: int = 0

    def __post_init__(self) -> None:
        self.ends = list(accumulate(lane.share for lane in self.lanes))

    def next(self) -> Lane:
        at = (self.start + self.dealt * ids.GOLDEN) % 1.0 * self.ends[-1]
        self.dealt += 1
        return self.lanes[min(bisect_left(self.ends, at), len(self.ends) - 1)]


class Dealing:
    """Deals requests to lanes, one after the other. `source` is the stage whose replicas tell the parts apart.

    `first` (0 to 1) is where the sequence of the first part begins; the others begin by chance of the seed.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        source: str | None,
        arrivals: Literal["poisson", "constant", "shaped"],
        *,
        first: float,
        seed: int,
    ) -> None:
        self._random = random.Random(f"{seed}/parts")  # noqa: S311 - a model of traffic, not a secret
        by_replica: dict[str, list[Lane]] = {}
        for lane in lanes:
            by_replica.setdefault(lane.path.get(source or "", ""), []).append(lane)
        self._parts = [
            _Part(of, self._random.random() if number else first)
            for number, of in enumerate(by_replica.values())
        ]
        shares = [part.ends[-1] for part in self._parts]
        self._ends = list(accumulate(shares))
        self._by_chance = arrivals == "poisson"
        self._in_turn = arrivals == "constant" and max(shares) - min(shares) < 1e-9
        self._count = 0

    def next(self) -> Lane:
        """The lane of the next request."""
        return self._parts[self._part()].next() if len(self._parts) > 1 else self._parts[0].next()

    def _part(self) -> int:
        number, self._count = self._count, self._count + 1
        if self._in_turn:
            return number % len(self._parts)
        at = self._random.random() if self._by_chance else number * ids.GOLDEN % 1.0
        return min(bisect_left(self._ends, at * self._ends[-1]), len(self._ends) - 1)
