"""Durations over a moving window of a minute, as a histogram that adds up with those of others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tiermesh.histogram import Cells, Histogram, bucket_of, of_cells

WINDOW_S: Final = 60.0
SLICES: Final = 30
"""Of the window, dropped whole: it is longer than it says by one in so many at most."""
_SLICE_S: Final = WINDOW_S / SLICES
_KEPT: Final = 2_048


@dataclass(slots=True)
class _Slice:
    """What ended within one part of the window."""

    number: int
    cells: Cells = field(default_factory=dict[int | None, int])


class DurationWindow:
    """What has ended within the last minute; times and durations in seconds.

    `add` is called for each batch and request, so it only appends: buckets are found several times a second, when
    the histogram is read.
    """

    def __init__(self) -> None:
        self._added: list[tuple[float, float]] = []
        self._kept: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._slices: deque[_Slice] = deque()
        self._total: Cells = {}

    def add(self, duration_s: float, now: float) -> None:
        """Note what took so long and has ended now."""
        self._added.append((now, duration_s))
        if len(self._added) >= _KEPT:
            self._sort_in()

    @property
    def kept(self) -> tuple[tuple[float, float], ...]:
        """The last 2,048: when, and how long; older ones may be among them than those within the window."""
        self._sort_in()
        return tuple(self._kept)

    def rate(self, now: float, over_s: float = 10.0) -> float:
        """How many ended a second within the last `over_s` seconds, or since the oldest that is kept."""
        self._sort_in()
        recent = [at for at, _ in self._kept if at > now - over_s]
        if len(recent) < 2:
            return len(recent) / over_s
        span = over_s if len(recent) < len(self._kept) else now - recent[0]
        return len(recent) / max(span, 1e-3)

    def histogram(self, now: float) -> Histogram:
        """The durations of the window."""
        self._sort_in()
        self._drop(int(now // _SLICE_S) - SLICES)
        return of_cells(self._total)

    def _sort_in(self) -> None:
        """Count what was added since the last time."""
        total = self._total
        for at, duration in self._added:
            number = int(at // _SLICE_S)
            if not self._slices or self._slices[-1].number < number:
                self._slices.append(_Slice(number))
            cells, bucket = self._slices[-1].cells, bucket_of(duration)
            cells[bucket] = cells.get(bucket, 0) + 1
            total[bucket] = total.get(bucket, 0) + 1
        self._kept.extend(self._added)
        self._added.clear()

    def _drop(self, before: int) -> None:
        """Take the slices before one off the total."""
        while self._slices and self._slices[0].number < before:
            for bucket, count in self._slices.popleft().cells.items():
                self._total[bucket] -= count
                if not self._total[bucket]:
                    del self._total[bucket]
