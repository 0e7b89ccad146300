"""How long a batch takes, by chance: quantile functions from a profile's percentiles, with the measured mean.

Profiles tell percentiles from the median up. Were the faster half of the batches taken to be as long as the median,
drawn times would be longer than the measured mean, by a sixth for lines of text of several widths.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from tiermesh.documents.problem import BatchTime
from tiermesh.documents.workflow import PERCENTILES

Curve: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Levels from 0 to 1, and seconds, both ascending: a quantile function, linear in between."""


def curve(batch: BatchTime) -> Curve:
    """The quantile function that has the percentiles and the mean of a batch; the mean alone where none is known.

    What the percentiles leave open are the two ends. The lower one is stretched where the mean is less than they say,
    the upper one where it is more.
    """
    known = sorted((PERCENTILES[name], value) for name, value in batch.percentiles.items())
    if not known:
        return (0.0, 1.0), (batch.mean, batch.mean)
    levels = (0.0, *(level for level, _ in known), 1.0)
    inner: list[float] = []
    for _, seconds in known:
        inner.append(max(seconds, inner[-1] if inner else 0.0))
    values = (inner[0], *inner, inner[-1])
    missing = batch.mean - _mean(levels, values)
    low = max(inner[0] + min(2 * missing / levels[1], 0.0), 0.0)
    high = inner[-1] + max(2 * missing / (1 - levels[-2]), 0.0)
    return levels, (low, *inner, high)


def deviation(batch: BatchTime) -> float:
    """The standard deviation of a batch's time, in seconds."""
    levels, values = curve(batch)
    ends = zip(pairwise(levels), pairwise(values), strict=True)
    square = sum((b - a) * (x * x + x * y + y * y) / 3 for (a, b), (x, y) in ends)
    return math.sqrt(max(square - _mean(levels, values) ** 2, 0.0))


def at(of: Curve, level: float) -> float:
    """Seconds at a level from 0 to 1."""
    levels, values = of
    upper = min(max(bisect_left(levels, level), 1), len(levels) - 1)
    below, above = levels[upper - 1], levels[upper]
    part = (level - below) / (above - below)
    return values[upper - 1] + part * (values[upper] - values[upper - 1])


def _mean(levels: Sequence[float], values: Sequence[float]) -> float:
    ends = zip(pairwise(levels), pairwise(values), strict=True)
    return sum((b - a) * (low + high) / 2 for (a, b), (low, high) in ends)
