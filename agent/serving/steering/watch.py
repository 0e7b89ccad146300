"""What a source sees of a lane: what is on its way, how long requests take, and whether the lane falls behind.

A lane falls behind when more of its requests are overdue than chance explains. The delay of a queue has an exponential
tail (Cramer and Lundberg; Kingman), so that in ordinary times the number of requests that are older than a limit
exceeds `k` with a chance of about `p exp(-k / m)`: `p` is the share of requests that take longer than the limit, and
`m` the mean by which they do, times the lane's rate. Both are learned while the lane keeps up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf, log
from typing import Final

CHANCE: Final = 1e-3
"""How likely it may be, at any moment, that a lane that keeps up is taken for one that falls behind."""
STUCK_CHANCE: Final = 1e-4
"""The same for a lane on which nothing moves."""
LEAST_OVERDUE: Final = 2
"""So many are never too many."""
LEARNED: Final = 400
LEARNED_LEAST: Final = 40
LEARN_AGAIN: Final = 20
"""Latencies after which what is usual is worked out anew."""
RATE_S: Final = 8.0
RECENT_S: Final = 2.0
SHARE_OF_SLO: Final = 0.5
"""What takes less than this part of the latency SLO is in time, whatever is usual."""


@dataclass(slots=True)
class Usual:
    """How long requests of a lane take while it keeps up, in seconds.

    `limit_s` is what is too long, `over` the part that exceeds it, and `excess_s` by how much; 95 % take `most_s`.
    """

    limit_s: float = inf
    most_s: float = inf
    over: float = 0.0
    excess_s: float = 0.0


@dataclass(slots=True)
class LaneWatch:
    """One lane, as its source sees it. Times in seconds of one clock."""

    slo_s: float | None = None
    usual: Usual = field(default_factory=Usual)
    changed_at: float = -inf
    """When its share was last lessened: what was sent before tells nothing of the share that it has now."""
    seen: int = 0
    """Requests sent since, that have come back."""
    good: int = 0
    """Of these, those that took no longer than is usual."""
    _flying: dict[str, float] = field(default_factory=dict[str, float])
    _latencies: deque[float] = field(default_factory=lambda: deque[float](maxlen=LEARNED))
    _sent: deque[float] = field(default_factory=deque[float])
    _back: deque[float] = field(default_factory=deque[float])
    _since: float = inf
    _unlearned: int = 0
    _longest_gap: float = 0.0

    def __post_init__(self) -> None:
        if self.slo_s is not None:
            self.usual.limit_s = self.slo_s * SHARE_OF_SLO
            self.usual.most_s = self.usual.limit_s

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._flying)

    def sent(self, request: str, now: float) -> None:
        """A request has been sent over the lane."""
        self._flying.pop(request, None)
        if not self._flying:
            self._since = now
        self._flying[request] = now
        self._sent.append(now)

    def gone(self, request: str) -> None:
        """A request is on its way over this lane no longer."""
        self._flying.pop(request, None)

    def back(self, request: str, now: float, *, learn: bool) -> None:
        """A request has ended; `learn` from it what is usual."""
        at = self._flying.pop(request, None)
        if at is None:
            return
        if learn:
            self._longest_gap = max(now - self._since, self._longest_gap * 0.99)
            self._learn(now - at)
        self._since = now
        self._back.append(now)
        if at > self.changed_at:
            self.seen += 1
            self.good += now - at <= self.usual.most_s

    def anew(self) -> None:
        """What comes back is judged anew."""
        self.seen = self.good = 0

    def _learn(self, seconds: float) -> None:
        self._latencies.append(seconds)
        self._unlearned += 1
        if len(self._latencies) < LEARNED_LEAST or self._unlearned < LEARN_AGAIN:
            return
        self._unlearned = 0
        values = sorted(self._latencies)
        limit = most = values[int(0.95 * len(values))]
        if self.slo_s is not None:
            limit = min(max(limit, SHARE_OF_SLO * self.slo_s), self.slo_s)
        beyond = [value - limit for value in values if value > limit]
        excess = sum(beyond) / len(beyond) if beyond else 0.0
        self.usual = Usual(limit, most, len(beyond) / len(values), excess)

    def rate_rps(self, now: float) -> float:
        """Requests sent a second, lately."""
        return _within(self._sent, now, RATE_S) / RATE_S

    def kept_up(self, now: float) -> float:
        """Of what was sent in the last seconds, the part that has come back in as many."""
        sent = sum(1 for at in self._sent if at > now - RECENT_S)
        return _within(self._back, now, RECENT_S) / max(sent, 1)

    def overdue(self, now: float, since: float = -inf) -> int:
        """Requests sent after `since` that take longer than the limit."""
        count, before = 0, now - self.usual.limit_s
        for at in self._flying.values():
            if at >= before:
                break
            count += at > since
        return count

    def too_many(self, now: float) -> float:
        """How many may be overdue by chance."""
        mean = self.usual.excess_s * self.rate_rps(now)
        chance = log(self.usual.over / CHANCE) if self.usual.over > CHANCE else 0.0
        return max(LEAST_OVERDUE, mean * chance)

    def is_behind(self, now: float) -> bool:
        """Whether more are overdue than chance explains, of those sent since the share was last lessened."""
        return self.overdue(now, self.changed_at) > self.too_many(now)

    def is_stuck(self, now: float) -> bool:
        """Whether nothing comes back, for longer than chance explains, though something is overdue."""
        if self.overdue(now) < LEAST_OVERDUE:
            return False
        patience = max(log(1 / STUCK_CHANCE) / max(self.rate_rps(now), 1e-9), 2 * self._longest_gap)
        return now - self._since > min(patience, self.usual.limit_s)


def _within(times: deque[float], now: float, seconds: float) -> int:
    while times and times[0] <= now - seconds:
        times.popleft()
    return len(times)
