"""Whether requests come faster or slower than planned: a sequential test on counts. Pure.

For each kind of change there is a CUSUM chart (Page 1954) of the log-likelihood ratio of Poisson counts. One that
starts at zero passes h with probability exp(-h) at most, so that h follows from the time between false alarms: once
in `Policy.false_alarm_s`, at any rate. For arrivals that are burstier it is h times their spread: that of the planned
process (`bursts`), or their dispersion where they are burstier than planned (quasi-likelihood). What a chart adds up
reaches back as far as the change, whether that takes six seconds or an hour: the window is one of counts.

No test that errs so rarely is much faster: a change is found h / D seconds after it at the soonest on average (Lorden
1971), D being the divergence of the true rate from the planned one per second. Measured with Poisson arrivals: two
false alarms in 600 simulated days (120 of each rate, both at 1/s), and as median seconds to the alarm in 200 runs

    planned   x0.5   x1.3   x1.5   x2    x3
    0.2/s     1005   1325   500    170   70
    1/s       220    329    111    36    14
    4/s       64     98     32     10    4
    20/s      15     23     7      3     1
    200/s     2      3      1      1     1

(`python -m tests.simulation.replanning.steady` measures it again; tests hold bounds.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import NormalDist
from typing import Final

BIN_S: Final = 1.0
BIN_REQUESTS: Final = 2.0
"""Counts are looked at once in `BIN_S`, and where fewer come once so many are planned to have."""
BINS: Final = 4_096
"""As many are remembered, for the dispersion."""
SCALES: Final = (1, 4, 16, 64)
"""The lengths in bins at which the dispersion is estimated; the largest counts."""
FEWEST_PAIRS: Final = 12
SETTLED: Final = FEWEST_PAIRS * SCALES[-1]
WIDER: Final = 3.0
"""Standard errors by which arrivals must be more dispersed than planned before that is believed."""
RECENT: Final = 400
"""A rate is estimated from the newest requests, about so many (of Poisson arrivals), since the change."""
CAP: Final = 1.5
CALM: Final = 0.5
"""A chart stops at `CAP` times its threshold, and a change is over when it is back at `CALM` times the threshold."""
LEVEL: Final = 0.95
ALIKE: Final = (0.7, 2.0)
"""Bins of so many times the length are compared with others."""


@dataclass(frozen=True, slots=True)
class RateEstimate:
    """An estimated rate in requests per second, its 95 % credible interval, and what it comes from."""

    rps: float
    low: float
    high: float
    requests: float
    seconds: float

    def __str__(self) -> str:
        """As people are told."""
        return f"{self.rps:.3g}/s (95 % interval {self.low:.3g} to {self.high:.3g})"


def rate_of(requests: float, seconds: float, dispersion: float = 1.0) -> RateEstimate:
    """The rate of counts, as a Gamma-Poisson posterior with the prior of Jeffreys.

    `dispersion` is the variance of counts over their mean: so many times fewer independent requests tell. Quantiles
    are those of Wilson and Hilferty (1931).
    """
    shape = max(requests, 0.0) / dispersion + 0.5
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, half = 1 - 1 / (9 * shape), z / (3 * math.sqrt(shape))
    scale = shape * dispersion / seconds
    low, high = (scale * max(middle + sign * half, 0.0) ** 3 for sign in (-1, 1))
    return RateEstimate(max(requests, 0.0) / seconds, low, high, requests, seconds)


@dataclass(frozen=True, slots=True)
class LoadEstimate:
    """The load as it is: the rate that was planned for, and the one since the last change, or of late.

    `changed` when the test says so; `dispersion` is the one that the test reckoned with.
    """

    planned_rps: float
    rate: RateEstimate
    changed: bool = False
    dispersion: float = 1.0

    @property
    def ratio(self) -> float:
        """Offered over planned."""
        return self.rate.rps / self.planned_rps

    def planning_rps(self, headroom: float) -> float:
        """What to plan for: `headroom` times the estimate, or the upper end of its interval where that is more."""
        return max(self.rate.rps * headroom, self.rate.high)

    def __str__(self) -> str:
        """As people are told."""
        return f"load {self.rate}, planned {self.planned_rps:.3g}/s"


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is tested for, as ratios to the planned rate: from `normal` to `changed`.

    `normal` is the nearest that is not worth acting on. It takes up `share` of the false alarms that are allowed.
    """

    normal: float
    changed: float
    share: float

    @property
    def weight(self) -> float:
        """What a request adds to the chart."""
        return math.log(self.changed / self.normal)

    @property
    def allowance(self) -> float:
        """What each request that was planned takes off it."""
        return self.changed - self.normal

    @property
    def drift(self) -> float:
        """What the chart falls per planned request while nothing has changed."""
        return self.allowance - self.normal * self.weight


CHANGES: Final = (
    Change(1.0, 1.5, 0.4),
    Change(1.0, 2.0, 0.3),
    Change(1.1, 1.3, 0.1),
    Change(0.8, 0.65, 0.1),
    Change(0.8, 0.4, 0.1),
)
"""More load endangers the SLO, less only costs: most of the false alarms that are allowed go to finding more soon.
Rates from 0.8 to 1.1 times the planned one are not worth acting on; one slightly above is found late."""


@dataclass(slots=True)
class _Chart:
    weight: float
    allowance_rps: float
    threshold: float
    value: float = 0.0
    since: int = 0
    """The bin that it has been above zero since."""
    wider: float = 0.0
    """Times the planned dispersion that arrivals have; 0 while that is not asked."""
    out: bool = False


@dataclass
class LoadTest:
    """Tests the requests of one source against the rate planned for it.

    `dispersion` is that of the planned process, 1 for Poisson arrivals, and `spread` what it multiplies thresholds by,
    its dispersion if left out. What was counted before, for another plan, is taken over with `past`: bins of
    (requests, seconds), the oldest first.
    """

    planned_rps: float
    false_alarm_s: float
    dispersion: float = 1.0
    past: Iterable[tuple[float, float]] = ()
    spread: Mapping[Change, float] = field(default_factory=dict[Change, float])
    _charts: list[_Chart] = field(init=False)
    _bins: deque[tuple[float, float]] = field(init=False)
    _closed: int = 0
    _requests: float = 0.0
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        """Set the thresholds."""
        self._charts = [
            _Chart(
                c.weight,
                c.allowance * self.planned_rps,
                self._threshold(c) * self.spread.get(c, self.dispersion),
            )
            for c in CHANGES
        ]
        # Bins of another length would look like bursts.
        alike = (b for b in self.past if ALIKE[0] < b[1] / self.bin_s < ALIKE[1])
        self._bins = deque(alike, BINS)

    @property
    def bin_s(self) -> float:
        """Seconds of a bin."""
        return max(BIN_S, BIN_REQUESTS / self.planned_rps)

    def _threshold(self, change: Change) -> float:
        """Charts start anew as often as they are looked at, and as often as they fall by one, at most."""
        starts_per_s = min(1 / self.bin_s, self.planned_rps * change.drift)
        return math.log(max(self.false_alarm_s * starts_per_s / change.share, math.e))

    def add(self, requests: float, seconds: float, *, held_back: bool = False) -> None:
        """Count what was offered in the last `seconds`.

        A source that is `held_back` says nothing about less load.
        """
        self._requests += requests
        self._seconds += seconds
        if self._seconds >= self.bin_s:
            self._close(held_back)

    def _close(self, held_back: bool) -> None:
        counted = self._requests, self._seconds
        self._requests = self._seconds = 0.0
        for chart in self._charts:
            self._chart(chart, *counted, held_back=held_back)
        longer = max(counted[1] / self.bin_s, 1.0) if counted[1] > ALIKE[1] * self.bin_s else 1.0
        self._bins.append((counted[0] / longer, counted[1] / longer))
        self._closed += 1

    def _chart(self, chart: _Chart, requests: float, seconds: float, *, held_back: bool) -> None:
        step = requests * chart.weight - chart.allowance_rps * seconds
        if chart.weight < 0 and held_back and step > 0:
            return
        if chart.value == 0.0:
            chart.since, chart.wider = self._closed, 0.0
        chart.value = max(chart.value + step, 0.0)
        if chart.value == 0.0:
            chart.out = False
            return
        lasts = self._closed - chart.since
        is_due = not chart.wider or (lasts >= SETTLED and lasts % SCALES[-1] == 0)
        if chart.value > chart.threshold and is_due:
            chart.wider = self._dispersion_around(lasts) / self.dispersion
        limit = chart.threshold * max(chart.wider, 1.0)
        chart.value = min(chart.value, CAP * limit)
        chart.out = chart.value > (CALM if chart.out else 1.0) * limit

    def _dispersion_around(self, lasts: int) -> float:
        """The dispersion before what may be a change, that `lasts` so many bins; once it has settled, since then.

        It is the one planned for, or a larger one that is there for sure.
        """
        bins = list(self._bins)
        before = dispersion_of(bins[: max(len(bins) - lasts, 0)], self.dispersion)
        if lasts < SETTLED:
            return before
        return min(before, dispersion_of(bins[-lasts:], self.dispersion))

    @property
    def changed(self) -> bool:
        """Whether the load is another than planned."""
        return any(chart.out for chart in self._charts)

    def load(self) -> LoadEstimate | None:
        """The load as it is; None before anything was counted."""
        out = [chart for chart in self._charts if chart.out]
        if not self._bins:
            return None
        chart = max(out, key=lambda c: c.value / c.threshold, default=None)
        dispersion = self.dispersion * (max(chart.wider, 1.0) if chart is not None else 1.0)
        bins = self._closed - chart.since if chart is not None else len(self._bins)
        requests, seconds = self._newest(max(bins, 1), RECENT * max(dispersion, 1.0))
        rate = rate_of(requests, seconds, dispersion)
        return LoadEstimate(self.planned_rps, rate, chart is not None, dispersion)

    def _newest(self, bins: int, enough: float) -> tuple[float, float]:
        requests = seconds = 0.0
        for (more, lasted), _ in zip(reversed(self._bins), range(bins), strict=False):
            requests, seconds = requests + more, seconds + lasted
            if requests >= enough:
                break
        return requests, seconds

    def counted(self) -> list[tuple[float, float]]:
        """What the next test takes over as its `past`."""
        return list(self._bins)


def dispersion_of(bins: Sequence[tuple[float, float]], planned: float = 1.0) -> float:
    """The variance of counts over their mean, at the scale where it is largest; `planned` unless more for sure."""
    return max(planned, *(_dispersion(bins, n, planned) for n in SCALES))


def _dispersion(bins: Sequence[tuple[float, float]], scale: int, planned: float) -> float:
    """From differences of neighbours (von Neumann 1941), which a change of the rate hardly matters to."""
    whole = len(bins) // scale
    counts = [
        sum(requests for requests, _ in bins[i * scale : (i + 1) * scale]) for i in range(whole)
    ]
    pairs, mean = whole - 1, sum(counts) / max(whole, 1)
    if pairs < FEWEST_PAIRS or mean <= 0:
        return 0.0
    found = sum((b - a) ** 2 for a, b in pairwise(counts)) / (2 * pairs * mean)
    sure = found > planned * (1 + WIDER * math.sqrt(3 / pairs))
    return found if sure else 0.0
