"""The accuracy floor: what may be moved to lanes that are less accurate, and what was really served."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf
from typing import Final

WINDOW: Final = 500
"""Requests over which the mean accuracy is kept: what was served above the floor before that is not made use of."""


class Floor:
    """The mean accuracy of lanes, and of what was sent over them. `at_least` None: there is no floor."""

    def __init__(self, accuracies: Sequence[float | None], at_least: float | None) -> None:
        self._accuracies = accuracies
        self._at_least = at_least
        self._credit = 0.0

    def is_known(self, lane: int) -> bool:
        """Whether requests may be moved to and from a lane."""
        return self._at_least is None or self._accuracies[lane] is not None

    def loss(self, source: int, target: int) -> float:
        """How much less accurate a lane is than another; 0 where that is not known."""
        before, after = self._accuracies[source], self._accuracies[target]
        return max(before - after, 0.0) if before is not None and after is not None else 0.0

    def gain(self, source: int, target: int) -> float:
        """How much more accurate a lane is than another; 0 where that is not known."""
        return self.loss(target, source) - self.loss(source, target)

    def slack(self, shares: Sequence[float]) -> float:
        """By how much the mean accuracy of shares may fall."""
        if self._at_least is None:
            return inf
        known = [(s, a) for s, a in zip(shares, self._accuracies, strict=True) if a is not None]
        total = fsum(share for share, _ in known)
        if not total:
            return 0.0
        return max(fsum(share * a for share, a in known) - self._at_least * total, 0.0)

    def sent(self, lane: int, before: int | None = None) -> None:
        """A request has been sent over a lane; `before`, where it had been sent over another one."""
        if before is not None:
            self._credit -= self._above(before)
        most = WINDOW * max((self._above(i) for i in range(len(self._accuracies))), default=0.0)
        self._credit = min(self._credit + self._above(lane), most)

    def allows(self, lane: int) -> bool:
        """Whether the mean of what was sent stays above the floor with one more over a lane."""
        above = self._above(lane)
        return above >= 0 or self._credit + above >= 0

    def _above(self, lane: int) -> float:
        accuracy = self._accuracies[lane]
        return accuracy - self._at_least if self._at_least is not None and accuracy else 0.0
