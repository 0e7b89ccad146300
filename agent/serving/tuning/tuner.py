"""Whether a replica's batch size and timeout still fit what arrives: what is asked, and what follows from the answer.

Pure. What arrives and what batches take is noted as it happens, in constant time; the question is made of copies, so
that it can be answered in another thread; the answer changes something only when it is the same twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tiermesh.batching.tuning import FEWEST_ARRIVALS, Bounds, Decision, Tuned, retune
from tiermesh.documents.assignment import ReplicaSpec

WINDOW_S: Final = 30.0
WINDOW_ITEMS: Final = 500
"""The arrivals that are judged by: enough for a p95, and milliseconds to follow."""
HOLD_S: Final = 20.0
"""A setting is kept for so long before another takes its place."""
_LATEST: Final = 1 / 8
"""The weight of a batch in the mean time of its size."""
_MOST_TAKEN: Final = 0.9
"""Others on the device are counted to take this share of its time at most."""


class BatchTimes:
    """Mean seconds of a batch by its size: those planned with, scaled by and overlaid with those measured here."""

    def __init__(self, planned: Mapping[int, float]) -> None:
        self._planned = dict(planned)
        self._measured: dict[int, float] = {}

    def add(self, size: int, seconds: float) -> None:
        """A batch has taken so long."""
        before = self._measured.get(size, seconds)
        self._measured[size] = before + _LATEST * (seconds - before)

    def seconds(self, largest: int) -> list[float]:
        """Of a batch of 1, 2, .. `largest`: linear between known sizes; beyond them, nothing is gained or lost."""
        known = self._scaled() | self._measured
        sizes = sorted(known)
        return [_between(sizes, known, size) for size in range(1, largest + 1)] if sizes else []

    def _scaled(self) -> dict[int, float]:
        both = self._planned.keys() & self._measured.keys()
        planned = sum(self._planned[size] for size in both)
        ratio = sum(self._measured[size] for size in both) / planned if both else 1.0
        return {size: seconds * ratio for size, seconds in self._planned.items()}


def _between(sizes: list[int], known: Mapping[int, float], size: int) -> float:
    at = bisect_left(sizes, size)
    if at == len(sizes):
        return known[sizes[-1]] * size / sizes[-1]
    above = sizes[at]
    if at == 0 or above == size:
        return known[above]
    below = sizes[at - 1]
    part = (size - below) / (above - below)
    return known[below] + part * (known[above] - known[below])


@dataclass(frozen=True, slots=True)
class TuningWindow:
    """A replica's window: item arrivals in ascending seconds, batch seconds by size, and what is in use."""

    arrivals: tuple[float, ...]
    seconds: tuple[float, ...]
    current: Tuned
    bounds: Bounds

    def answer(self) -> Decision:
        """The setting that fits; takes milliseconds."""
        return retune(self.arrivals, self.seconds, self.current, self.bounds)


class Tuner:
    """One replica's window, and its patience."""

    def __init__(self, bounds: Bounds, planned: Mapping[int, float]) -> None:
        self._bounds = bounds
        self._times = BatchTimes(planned)
        self._arrivals: deque[float] = deque(maxlen=WINDOW_ITEMS)
        self._proposed: Tuned | None = None
        self._held_until = 0.0

    @classmethod
    def of(cls, spec: ReplicaSpec) -> Tuner | None:
        """None where the plan leaves no choice."""
        room = spec.room
        if spec.variant is None or room is None:
            return None
        if room.batch_size_max <= 1 and not room.batch_timeout_ms_max:
            return None
        latency = None if room.latency_p95_ms is None else room.latency_p95_ms / 1000
        bounds = Bounds(
            max(room.batch_size_max, spec.batch_size), room.batch_timeout_ms_max / 1000, latency
        )
        return cls(bounds, {batch.batch_size: batch.mean for batch in room.batches})

    def arrived(self, at: float, items: int) -> None:
        """A request of so many items has come."""
        self._arrivals.extend([at] * min(items, WINDOW_ITEMS))

    def ran(self, size: int, seconds: float) -> None:
        """A batch has run."""
        self._times.add(size, seconds)

    def question(self, current: Tuned, now: float, others: float) -> TuningWindow | None:
        """What to decide now; None while a setting is held, or too little has come.

        `others` is the share of the device's time that its other replicas take: batches are as much slower.
        """
        if now < self._held_until:
            return None
        arrivals = tuple(sorted(at for at in self._arrivals if at > now - WINDOW_S))
        seconds = self._times.seconds(self._bounds.largest_batch)
        if len(arrivals) < FEWEST_ARRIVALS or not seconds:
            self._proposed = None
            return None
        left = 1.0 - min(max(others, 0.0), _MOST_TAKEN)
        return TuningWindow(arrivals, tuple(s / left for s in seconds), current, self._bounds)

    def follow(self, decision: Decision, current: Tuned, now: float) -> Tuned | None:
        """The setting to use from now on; None to go on as it is. One proposal is chance, two alike are a drift."""
        proposed, before = decision.setting, self._proposed
        self._proposed = proposed if proposed != current else None
        if self._proposed is None or proposed != before:
            return None
        self._proposed = None
        self._held_until = now + HOLD_S
        return proposed
