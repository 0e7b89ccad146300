"""What steers the requests of one source over its lanes in one generation."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

from agent.serving.steering.floor import Floor
from agent.serving.steering.rule import EQUAL, EVERY_S, LaneRule, SteeringRule
from agent.serving.steering.watch import RATE_S, LaneWatch


class Steering:
    """Lanes are numbered as in `lanes`. `slo_s` is the latency SLO, `at_least` the accuracy floor.

    `planned_rps` is the rate at this source that the plan was made for.
    """

    def __init__(
        self,
        lanes: Sequence[LaneRule],
        *,
        slo_s: float | None = None,
        planned_rps: float | None = None,
        at_least: float | None = None,
        accuracy: bool = True,
    ) -> None:
        self.floor = Floor([lane.accuracy for lane in lanes], at_least)
        self.rule = SteeringRule(lanes, self.floor, accuracy=accuracy)
        self.watches = [LaneWatch(slo_s) for _ in lanes]
        self._lane_of: dict[str, int] = {}
        self._planned_rps = planned_rps
        self._stepped = -inf

    @property
    def shares(self) -> list[float]:
        """The share of each lane now."""
        return self.rule.shares

    def allowed(self, lane: int) -> int:
        """The lane of a request that would take `lane`: another where shares were moved and the floor asks for it."""
        if not self.rule.is_moved or self.floor.allows(lane):
            return lane
        ends = self.rule.lanes[lane].ends
        better = [
            i
            for i, share in enumerate(self.shares)
            if share > EQUAL and self.rule.lanes[i].ends == ends and self.floor.allows(i)
        ]
        return max(better, key=lambda i: self.shares[i], default=lane)

    def sent(self, request: str, lane: int, now: float) -> None:
        """A request has been sent over a lane, for the first time or again."""
        before = self._lane_of.get(request)
        if before is not None:
            self.watches[before].gone(request)
        self.floor.sent(lane, before)
        self._lane_of[request] = lane
        self.watches[lane].sent(request, now)

    def ended(self, request: str, now: float) -> None:
        """A request has ended."""
        lane = self._lane_of.pop(request, None)
        if lane is None:
            return
        watch = self.watches[lane]
        calm = not self.rule.is_moved and watch.overdue(now) <= watch.too_many(now)
        watch.back(request, now, learn=calm)

    def tick(self, now: float) -> None:
        """Look at the lanes, if it is time to."""
        if now - self._stepped >= EVERY_S:
            self._stepped = now
            self.rule.load = self._load(now)
            self.rule.step(self.watches, now)

    def _load(self, now: float) -> float:
        """How many times the planned rate is sent, as far as that is sure (two standard deviations); at least 1."""
        if self._planned_rps is None:
            return 1.0
        sent = sum(watch.rate_rps(now) for watch in self.watches) * RATE_S
        return max((sent - 2 * sqrt(sent)) / (RATE_S * self._planned_rps), 1.0)
