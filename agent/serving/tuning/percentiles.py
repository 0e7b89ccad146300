"""Percentiles over a moving window of measurements."""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

import msgspec

WINDOW_S: Final = 60.0
_KEPT: Final = 2_048


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds, of the last `samples` measurements within the window; zeros where there are none."""

    p50: float = 0.0
    p75: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    samples: int = 0


class Measurements:
    """The last measurements, at most 60 s and 2,048 of them. Times and values in seconds."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, value: float, now: float) -> None:
        """Note a measurement."""
        self._kept.append((now, value))

    @property
    def kept(self) -> tuple[tuple[float, float], ...]:
        """What is kept: when, and what; older ones may be among them than those within the window."""
        return tuple(self._kept)

    def rate(self, now: float, over: float = 10.0) -> float:
        """Measurements a second over the last `over` seconds, or since the oldest that is kept."""
        recent = [at for at, _ in self._kept if at > now - over]
        if len(recent) < 2:
            return len(recent) / over
        span = over if len(recent) < len(self._kept) else now - recent[0]
        return len(recent) / max(span, 1e-3)

    def percentiles(self, now: float) -> Percentiles:
        """Nearest-rank percentiles of the window."""
        values = sorted(value for at, value in self._kept if at > now - WINDOW_S)
        if not values:
            return Percentiles()
        ranks = (values[max(ceil(p * len(values)) - 1, 0)] for p in (0.5, 0.75, 0.9, 0.95, 0.99))
        return Percentiles(*ranks, samples=len(values))
