"""When a measurement has been repeated often enough, and what its samples say. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tiermesh.documents.profile import Seconds
from tiermesh.documents.workflow import PERCENTILES

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class Rule:
    """Repeat until the relative `interval` is reached, between `min_repeats` and `max_repeats`."""

    interval: float
    min_repeats: int
    max_repeats: int


class Samples:
    """Times in seconds. Those of one stratum are alike; strata come in turn, as often as in real life.

    What differs between strata (a short line of text, a long one) is then no chance, and does not widen
    the interval of the mean: it follows from the spread within the strata (stratified sampling with
    proportional allocation, Cochran 1977, 5.4). Mean and spread are updated sample by sample (Welford 1962).
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.mean = 0.0
        self._strata: dict[int, tuple[int, float]] = {}
        self._squares = 0.0

    def add(self, seconds: float, stratum: int = 0) -> None:
        """One more."""
        self.seconds.append(seconds)
        self.mean += (seconds - self.mean) / len(self.seconds)
        count, mean = self._strata.get(stratum, (0, 0.0))
        moved = mean + (seconds - mean) / (count + 1)
        self._squares += (seconds - mean) * (seconds - moved)
        self._strata[stratum] = (count + 1, moved)

    @property
    def interval(self) -> float:
        """Half the width of the mean's 95 % interval, over the mean; 1 where it cannot be told."""
        n, freedom = len(self.seconds), len(self.seconds) - len(self._strata)
        if freedom < 1:
            return 1.0
        if self.mean <= 0:
            return 0.0
        return t95(freedom) * math.sqrt(max(self._squares, 0.0) / freedom / n) / self.mean

    def enough(self, rule: Rule) -> bool:
        """Whether the rule lets the repeating end."""
        n = len(self.seconds)
        return n >= rule.max_repeats or (n >= rule.min_repeats and self.interval <= rule.interval)

    def whole_rounds(self, length: int) -> Samples:
        """Those of whole rounds of `length` strata, so that none counts more than another; all, before one is whole."""
        rounds = len(self.seconds) // length
        whole = Samples()
        for index, seconds in enumerate(self.seconds[: rounds * length or None]):
            whole.add(seconds, index % length)
        return whole

    def distribution(self) -> Seconds:
        """The mean and the percentiles."""
        ordered = sorted(self.seconds)
        return Seconds(
            mean=self.mean, **{name: quantile(ordered, q) for name, q in PERCENTILES.items()}
        )


def t95(freedom: int) -> float:
    """Student's t with 95 % between -t and t; beyond the table by Abramowitz & Stegun 26.7.5."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values, linear between them."""
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
