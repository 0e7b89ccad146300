"""Whether requests miss the latency SLO faster than its error budget allows. Pure: samples in, burn rates out.

`latency: {p95: 3 s}` has an error budget of 5 %: so many requests may take longer, or fail. The burn rate is the share
that do, over the budget. It matters when it is high over a long window and over a short one: the long one makes it
matter, the short one says that it still goes on (Beyer et al., The Site Reliability Workbook 2018, chapter 5).
It must be significant, too: by Chernoff's bound of the binomial tail, misses within the budget look like this in one
of many months. They come in clusters, so only as many count as are independent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from coordinator.replanning.load import dispersion_of
from tiermesh.documents.workflow import PERCENTILES
from tiermesh.v1 import telemetry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Pair:
    """Windows in seconds, and the burn rate that both must reach."""

    long_s: float
    short_s: float
    burn: float


PAIRS: Final = (Pair(60, 10, 6.0), Pair(600, 60, 2.0), Pair(3_600, 600, 1.2))
MOST_MISSED: Final = 0.6
"""Where the budget is large (of a p50), this share of misses is enough for any pair."""
CLUSTER: Final = 4.0
"""Misses come in clusters of so many at least: those that one busy period makes."""
LOOKS: Final = 30.0
"""Windows overlap: within each there is as much to see as in so many that do not."""
LONGER: Final = 1.05
"""Agents count in buckets: a window may be this much longer than it says."""
GRACE_S: Final = 10.0
"""After a commit caches are cold; what was accepted before it ends meanwhile."""
GRACE_MAX_S: Final = 120.0
BLOCK_S: Final = 10.0
BLOCKS: Final = 360
NEWEST_S: Final = 10.0
FEWEST: Final = 20
"""So many requests in the newest window tell whether it still goes on."""
WHOLE_RUN: Final = 0.0


@dataclass(frozen=True, slots=True)
class SloCounts:
    """Requests that ended, and those of them within the SLO, by its percentiles."""

    ended: int = 0
    within: Mapping[str, int] = field(default_factory=dict[str, int])

    def __add__(self, other: SloCounts) -> SloCounts:
        """Of both."""
        return self._with(other, 1)

    def __sub__(self, other: SloCounts) -> SloCounts:
        """What came since `other`."""
        return self._with(other, -1)

    def _with(self, other: SloCounts, sign: int) -> SloCounts:
        names = self.within.keys() | other.within.keys()
        within = {n: self.within.get(n, 0) + sign * other.within.get(n, 0) for n in names}
        return SloCounts(self.ended + sign * other.ended, within)

    def missed(self, percentile: str) -> int:
        """Those that took longer, or failed."""
        return self.ended - self.within.get(percentile, 0)

    def burn(self, percentile: str) -> float:
        """The share that missed over the share that may."""
        return self.missed(percentile) / max(self.ended, 1) / budget(percentile)


def budget(percentile: str) -> float:
    """The share of requests that may miss a percentile's limit: 0.05 of p95."""
    return 1 - PERCENTILES[percentile]


@dataclass(frozen=True, slots=True)
class Burn:
    """An error budget that burns too fast: what ended in the last `seconds`, and what missed the limit of it."""

    percentile: str
    limit_s: float
    seconds: float
    ended: int
    missed: int

    @property
    def rate(self) -> float:
        """Times the share of misses that is allowed."""
        return self.missed / self.ended / budget(self.percentile)

    def __str__(self) -> str:
        """As people are told."""
        return (
            f"{self.missed / self.ended:.0%} of {self.ended} requests in {self.seconds:.0f} s missed "
            f"{self.percentile} {self.limit_s:g} s, {budget(self.percentile):.0%} may: burn rate {self.rate:.1f}"
        )


@dataclass
class Attained:
    """How requests of a workflow ended since its plan serves.

    `limits_s` is the latency SLO in seconds, by percentile. Times are those of the devices' clocks.
    """

    limits_s: Mapping[str, float]
    false_alarm_s: float
    _sources: dict[tuple[str, str], _Source] = field(
        default_factory=dict[tuple[str, str], "_Source"]
    )
    _blocks: deque[tuple[float, SloCounts]] = field(default_factory=lambda: deque(maxlen=BLOCKS))

    def take(self, device: str, at: float, source: pb.SourceSample, *, serves: bool) -> None:
        """Take in what a source says; `serves` says whether its device has switched to the plan."""
        if not serves or not source.windows:
            return
        key = device, source.stage
        known = self._sources.get(key)
        windows = {window.seconds: _counts(window) for window in source.windows}
        if known is None or known.is_older(at, windows):
            waits = source.in_flight + source.waiting
            known = self._sources[key] = _Source(at, windows.get(WHOLE_RUN, SloCounts()), waits)
        known.take(at, windows)
        self._block(at)

    def _block(self, at: float) -> None:
        if not self._blocks or not 0 <= at - self._blocks[-1][0] < BLOCK_S:
            total = _sum(s.windows.get(WHOLE_RUN, SloCounts()) for s in self._sources.values())
            self._blocks.append((at, total))

    def burn(self) -> Burn | None:
        """The budget that burns too fast, of the first pair of windows that says so; None if none does."""
        goes_on = [name for name in self.limits_s if not self._is_over(name)]
        found = (self._burning(name, pair) for pair in PAIRS for name in goes_on)
        return next((burn for burn in found if burn is not None), None)

    def _burning(self, percentile: str, pair: Pair) -> Burn | None:
        short, long = self._window(pair.short_s), self._window(pair.long_s)
        long = long or self._clean(2 * pair.short_s)
        if short is None or long is None or not self._burns(percentile, pair, short[1], long[1]):
            return None
        limit_s, missed = self.limits_s[percentile], long[1].missed(percentile)
        return Burn(percentile, limit_s, long[0], long[1].ended, missed)

    def _is_over(self, percentile: str) -> bool:
        """Whether the newest requests keep the SLO: what was wrong has passed, and another plan would come too late."""
        newest = _sum(s.windows.get(NEWEST_S, SloCounts()) for s in self._sources.values())
        return newest.ended >= FEWEST and newest.burn(percentile) < 1

    def _window(self, seconds: float) -> tuple[float, SloCounts] | None:
        """What ended in a window that lies wholly after the commit and its grace."""
        least_s = LONGER * seconds
        if not self._sources or any(s.clean_s < least_s for s in self._sources.values()):
            return None
        return seconds, _sum(s.windows.get(seconds, SloCounts()) for s in self._sources.values())

    def _clean(self, least_s: float) -> tuple[float, SloCounts] | None:
        """What ended since the grace after the commit is over, where that is long enough."""
        seconds = min((s.clean_s for s in self._sources.values()), default=0.0)
        if seconds < least_s:
            return None
        return seconds, _sum(s.clean for s in self._sources.values())

    def _burns(self, percentile: str, pair: Pair, short: SloCounts, long: SloCounts) -> bool:
        allowed = budget(percentile)
        threshold = min(pair.burn, MOST_MISSED / allowed)
        if min(short.burn(percentile), long.burn(percentile)) < threshold:
            return False
        independent = long.ended / self._dispersion(percentile, pair.long_s)
        evidence = independent * _divergence(long.missed(percentile) / long.ended, allowed)
        return evidence >= math.log(LOOKS * self.false_alarm_s / pair.long_s)

    def _dispersion(self, percentile: str, long_s: float) -> float:
        """How many misses there were for one that is independent of all others, before the window in question."""
        newest = max((at for at, _ in self._blocks), default=0.0)
        totals = [total for at, total in self._blocks if at <= newest - long_s]
        missed = [
            (float((b - a).missed(percentile)), BLOCK_S)
            for a, b in pairwise(totals)
            if b.ended >= a.ended
        ]
        return dispersion_of(missed, CLUSTER)


@dataclass(slots=True)
class _Source:
    """One source on one device: the first sample under the plan, `waits` requests before it, and the newest one."""

    committed_at: float
    first: SloCounts
    waits: int
    windows: Mapping[float, SloCounts] = field(default_factory=dict[float, SloCounts])
    at: float = 0.0
    clean_at: float | None = None
    at_clean: SloCounts = SloCounts()

    def is_older(self, at: float, windows: Mapping[float, SloCounts]) -> bool:
        """Whether its counts begin again: another run, or another clock."""
        run = self.windows.get(WHOLE_RUN, SloCounts())
        return at < self.at or windows.get(WHOLE_RUN, SloCounts()).ended < run.ended

    def take(self, at: float, windows: Mapping[float, SloCounts]) -> None:
        """The grace is over once as many have ended as there were, since those that came before are among them."""
        self.at, self.windows = at, windows
        since_s = at - self.committed_at
        drained = self.whole.ended - self.first.ended >= self.waits or since_s >= GRACE_MAX_S
        if self.clean_at is None and since_s >= GRACE_S and drained:
            self.clean_at, self.at_clean = at, self.whole

    @property
    def whole(self) -> SloCounts:
        """Since the run began."""
        return self.windows.get(WHOLE_RUN, SloCounts())

    @property
    def clean_s(self) -> float:
        """Seconds since the grace is over."""
        return 0.0 if self.clean_at is None else self.at - self.clean_at

    @property
    def clean(self) -> SloCounts:
        """What ended since then."""
        return self.whole - self.at_clean


def _counts(window: pb.SloWindow) -> SloCounts:
    return SloCounts(window.ended, dict(window.within))


def _sum(counts: Iterable[SloCounts]) -> SloCounts:
    return sum(counts, SloCounts())


def _divergence(share: float, allowed: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli distributions, in nats; 0 where no more miss than are allowed."""
    if share <= allowed:
        return 0.0
    rest = 0.0 if share >= 1 else (1 - share) * math.log((1 - share) / (1 - allowed))
    return share * math.log(share / allowed) + rest
