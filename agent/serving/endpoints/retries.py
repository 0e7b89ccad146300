"""Which requests are injected again although nobody says that they are lost: budgets, and when all have halted."""

from __future__ import annotations

from math import inf
from typing import Final

from agent.serving.endpoints.budget import RetryBudget
from agent.serving.endpoints.request import Request, RetryCause

STALLED_LEAST_S: Final = 2.0
STALLED_SHARE: Final = 0.25
"""Where an aggregate takes requests in order, all others wait for the oldest; only that is repeated: when no request
has ended for much longer than usual, at most this share of its deadline."""
MOST_DOUBLED: Final = 16
"""A wait that doubles each time does so this often at most."""


class StallDetector:
    """How long it takes until the next request ends, where they end in order: whether all have come to a halt."""

    def __init__(self, deadline_s: float) -> None:
        self._most = STALLED_SHARE * deadline_s
        self._ended_at = -inf
        self._gap = 0.0
        self._halts = 0

    def ended(self, request: Request, now: float) -> None:
        """A request has ended."""
        gap = now - max(self._ended_at, request.injected_at)
        self._gap += (min(gap, self._most) - self._gap) / 8
        self._ended_at = now
        self._halts = 0

    def halts_at(self, oldest: Request) -> float:
        """When it is to be supposed that nothing moves any more."""
        patience = max(STALLED_LEAST_S, 4 * self._gap) * 2 ** min(self._halts, MOST_DOUBLED)
        return max(self._ended_at, oldest.injected_at) + min(patience, self._most)

    def repeated(self) -> None:
        """The oldest has been repeated for that: if that does not help, wait longer."""
        self._halts += 1


class Retries:
    """Which requests may be injected again without proof that they are lost, and how many were `withheld`.

    Those on a silent device are many at a time, and most of them are lost. Those of which nothing was heard are, as a
    rule, only slow: they have a small budget of their own, so that less than 1 % of all is done twice.
    """

    def __init__(self) -> None:
        self.withheld = 0
        self.are_bounded = True
        self._budgets = {
            RetryCause.SILENT: RetryBudget(share=0.1, floor_per_s=2.0, ttl_s=60.0),
            RetryCause.UNHEARD: RetryBudget(share=0.005, floor_per_s=0.1, ttl_s=60.0),
        }

    def accepted(self, now: float) -> None:
        """A request has been accepted."""
        for budget in self._budgets.values():
            budget.deposit(now)

    def may(self, request: Request, cause: RetryCause, now: float) -> bool:
        """Whether there is room for a repetition; it is counted then."""
        budget = self._budgets.get(cause)
        if budget is None or not self.are_bounded or budget.spend(now):
            request.withheld = False
            return True
        self.withheld += not request.withheld
        request.withheld = True
        return False
