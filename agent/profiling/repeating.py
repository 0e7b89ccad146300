"""When a measurement has been repeated often enough, and what its samples say. Pure."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tiermesh.documents.profile import Seconds
from tiermesh.documents.workflow import PERCENTILES

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_FEWEST_FOR_A_LINE: Final = 4
_TWO_ROUNDS: Final = 2
LOOKED_AT: Final = 1.2
"""Intervals are that much wider, since repeating ends when one happens to be small (found by simulation)."""


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Repeat until the relative `interval` is reached, between `min_repeats` and `max_repeats`."""

    interval: float
    min_repeats: int
    max_repeats: int


@dataclass(frozen=True, slots=True)
class Noise:
    """What is known of the spread before the first sample: `share` of the mean, worth `weight` samples.

    Few samples that happen to lie close together then do not end a measurement too early (the conjugate prior of a
    variance; Gelman et al., Bayesian Data Analysis, 3.3).
    """

    share: float
    weight: float


UNKNOWN: Final = Noise(0.0, 0.0)
TYPICAL: Final = Noise(0.04, 2.0)
"""Batches of equal work differ by 1 to 5 % on an undisturbed machine."""


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """The mean in seconds, its standard error, and on how many degrees of freedom that rests (0: it is not known)."""

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % interval over the mean; 1 where it cannot be told."""
        if self.freedom < 1:
            return 1.0
        return LOOKED_AT * t95(self.freedom) * self.error / self.mean if self.mean > 0 else 0.0


@dataclass(slots=True)
class Samples:
    """Times in seconds of batches, each of one of several kinds (strata) that are equally frequent in real life.

    `works` says for each stratum how much work it is, in any unit. Before each stratum had its turn, the mean over all
    of them follows from the time that samples take for their work: by the quotient of the sums at first, by a line from
    four samples on (ratio and regression estimators, Cochran 1977, chapters 6 and 7). What differs between strata
    because their work does is then no chance, and does not widen the interval; where time is not as the work, it does.
    From two rounds on, work plays no part: the interval follows from the spread within the strata (5.4).
    """

    works: Sequence[float] = (1.0,)
    noise: Noise = UNKNOWN
    seconds: list[float] = field(default_factory=list[float])
    strata: list[int] = field(default_factory=list[int])

    def add(self, seconds: float, stratum: int = 0) -> None:
        """One more."""
        self.seconds.append(seconds)
        self.strata.append(stratum)

    def drop_last(self) -> None:
        """The last one does not count."""
        self.seconds.pop()
        self.strata.pop()

    @property
    def mean(self) -> float:
        """The mean over all strata, as far as it can be told."""
        return self.estimate().mean

    @property
    def interval(self) -> float:
        """See `MeanEstimate.interval`."""
        return self.estimate().interval

    def estimate(self) -> MeanEstimate:
        """The mean over all strata and how well it is known."""
        by_stratum = self._by_stratum()
        if len(self.works) == 1:
            return self._within(by_stratum)
        rounds = min(len(of_one) for of_one in by_stratum)
        if rounds >= _TWO_ROUNDS:
            return self._within(by_stratum)
        works = [self.works[stratum] for stratum in self.strata]
        if len(works) >= _FEWEST_FOR_A_LINE and max(works) > min(works):
            return self._line(works)
        return self._quotient(works)

    def means(self) -> list[float]:
        """Of each stratum, 0 where it had no turn."""
        return [statistics.fmean(of_one) if of_one else 0.0 for of_one in self._by_stratum()]

    def enough(self, rule: StoppingRule) -> bool:
        """Whether the rule lets the repeating end."""
        n = len(self.seconds)
        return n >= rule.max_repeats or (n >= rule.min_repeats and self.interval <= rule.interval)

    def distribution(self) -> Seconds:
        """The mean and the percentiles; strata that had no turn yet are taken to be spread as those that had."""
        mean = self.mean
        scale = mean / statistics.fmean(self.seconds)
        ordered = sorted(seconds * scale for seconds in self.seconds)
        return Seconds(mean=mean, **{name: quantile(ordered, q) for name, q in PERCENTILES.items()})

    def _by_stratum(self) -> list[list[float]]:
        found: list[list[float]] = [[] for _ in self.works]
        for seconds, stratum in zip(self.seconds, self.strata, strict=True):
            found[stratum].append(seconds)
        return found

    def _within(self, by_stratum: list[list[float]]) -> MeanEstimate:
        """Every stratum counts the same, however often it had its turn."""
        means = [statistics.fmean(of_one) for of_one in by_stratum if of_one]
        squares = sum(
            (seconds - mean) ** 2
            for of_one, mean in zip(by_stratum, means, strict=True)
            for seconds in of_one
        )
        mean = statistics.fmean(means)
        variance, freedom = self._variance(squares, len(self.seconds) - len(means), mean)
        parts = sum(1 / len(of_one) for of_one in by_stratum)
        return MeanEstimate(mean, math.sqrt(variance * parts) / len(means), freedom)

    def _quotient(self, works: list[float]) -> MeanEstimate:
        n, work = len(works), statistics.fmean(works)
        mean_work = statistics.fmean(self.works)
        per_work = statistics.fmean(self.seconds) / work
        squares = (
            sum((t - per_work * w) ** 2 for t, w in zip(self.seconds, works, strict=True))
            * (mean_work / work) ** 2
        )
        mean = per_work * mean_work
        variance, freedom = self._variance(squares, n - 1, mean)
        return MeanEstimate(mean, math.sqrt(variance / n), freedom)

    def _line(self, works: list[float]) -> MeanEstimate:
        """Weighted by 1 / work squared: spread is a share of the time, which is about as the work."""
        mean_work = statistics.fmean(self.works)
        weights = [(mean_work / w) ** 2 for w in works]
        whole = sum(weights)
        work = sum(map(operator.mul, weights, works)) / whole
        time = sum(map(operator.mul, weights, self.seconds)) / whole
        data = list(zip(weights, works, self.seconds, strict=True))
        spread = sum(u * (w - work) ** 2 for u, w, _ in data)
        slope = sum(u * (w - work) * (t - time) for u, w, t in data) / spread
        away = mean_work - work
        squares = sum(u * (t - time - slope * (w - work)) ** 2 for u, w, t in data)
        mean = time + slope * away
        variance, freedom = self._variance(squares, len(works) - 2, mean)
        return MeanEstimate(mean, math.sqrt(variance * (1 / whole + away**2 / spread)), freedom)

    def _variance(self, squares: float, freedom: int, mean: float) -> tuple[float, float]:
        """Of one sample, with its degrees of freedom; 0 of these while the samples themselves say nothing."""
        if freedom < 1:
            return 0.0, 0.0
        known = self.noise.weight * (self.noise.share * mean) ** 2
        total = freedom + self.noise.weight
        return (squares + known) / total, total


def t95(freedom: float) -> float:
    """Student's t with 95 % between -t and t; beyond the table by Abramowitz & Stegun 26.7.5."""
    if freedom <= len(_T95):
        return _T95[max(int(freedom), 1) - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, linear between them."""
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
