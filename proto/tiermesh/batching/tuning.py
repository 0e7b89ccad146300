"""Re-tuning a batcher at run time: the setting for what arrives now, within the bounds that the plan gave.

Plain Python over the timestamps of the last window, without NumPy or SciPy, so that a device can run it: some
milliseconds for a thousand arrivals and twenty settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tiermesh.batching.policy import follow

FEWEST_ARRIVALS: Final = 50
"""A window with fewer says too little to change anything."""
_WORTH_A_CHANGE: Final = 0.1
"""Device time, or latency, that another setting must save, as a share."""
_ROOM: Final = 0.9
"""Share of the ceiling that a new setting may use: what is measured next will not be quite this window."""


class TuningReason(Enum):
    """Why the setting is what it is."""

    TOO_FEW = "too few arrivals to judge by"
    FITS = "the setting fits the arrivals"
    MISSES = "the setting misses the latency that the plan promised"
    SAVES = "another setting saves device time"
    OVERLOAD = "no allowed setting meets the latency SLO (best effort)"
    QUICKER = "another setting is faster"


@dataclass(frozen=True, slots=True)
class Tuned:
    """A batch size and a timeout in seconds."""

    batch_size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the plan allows: batch sizes up to `largest_batch`, waits up to `longest_timeout_s`, and a ceiling.

    `latency_s` is what `quantile` of the replica's requests stay within, wait and service; None asks for the least.
    """

    largest_batch: int
    longest_timeout_s: float
    latency_s: float | None
    quantile: float = 0.95

    def settings(self) -> list[Tuned]:
        """What is tried: batch sizes 1, 2, 4, .. with no, a quarter, half and all of the longest wait."""
        sizes = [2**i for i in range(self.largest_batch.bit_length()) if 2**i < self.largest_batch]
        waits = dict.fromkeys(self.longest_timeout_s * part for part in (0.0, 0.25, 0.5, 1.0))
        return [Tuned(size, wait) for size in [*sizes, self.largest_batch] for wait in waits]


@dataclass(frozen=True, slots=True)
class Decision:
    """The setting to use from now on, and why."""

    setting: Tuned
    reason: TuningReason


@dataclass(frozen=True, slots=True)
class _Figures:
    latency_s: float
    device_seconds: float


def retune(
    arrivals: Sequence[float], seconds: Sequence[float], current: Tuned, bounds: Bounds
) -> Decision:
    """The least device time that stays within the bounds' latency on the window's arrivals.

    Args:
        arrivals: ascending timestamps of the last window, in seconds.
        seconds: the replica's time of a batch of 1, 2, .. `bounds.largest_batch`.
        current: the setting in use. It stays unless another meets a latency that it misses, or saves a tenth: of
            device time while the latency is met, and of latency while nothing meets it.
        bounds: from the plan.
    """
    if len(arrivals) < FEWEST_ARRIVALS:
        return Decision(current, TuningReason.TOO_FEW)
    now = _figures(arrivals, seconds, current, bounds.quantile)
    tried = {s: _figures(arrivals, seconds, s, bounds.quantile) for s in bounds.settings()}
    asked = 0.0 if bounds.latency_s is None else bounds.latency_s
    meeting = [s for s in tried if tried[s].latency_s <= _ROOM * asked]
    misses = now.latency_s > asked
    if not meeting:
        nearest = min(tried, key=lambda s: tried[s].latency_s)
        if misses and tried[nearest].latency_s <= (1 - _WORTH_A_CHANGE) * now.latency_s:
            reason = TuningReason.QUICKER if bounds.latency_s is None else TuningReason.OVERLOAD
            return Decision(nearest, reason)
        return Decision(current, TuningReason.FITS)
    best = min(meeting, key=lambda s: (tried[s].device_seconds, tried[s].latency_s))
    if misses:
        return Decision(best, TuningReason.MISSES)
    if tried[best].device_seconds <= (1 - _WORTH_A_CHANGE) * now.device_seconds:
        return Decision(best, TuningReason.SAVES)
    return Decision(current, TuningReason.FITS)


def _figures(
    arrivals: Sequence[float], seconds: Sequence[float], setting: Tuned, quantile: float
) -> _Figures:
    starts, sizes = follow(arrivals, seconds, setting.batch_size, setting.timeout_s)
    latencies: list[float] = []
    busy = 0.0
    for start, size in zip(starts, sizes, strict=True):
        busy += seconds[size - 1]
        end = start + seconds[size - 1]
        latencies.extend(end - time for time in arrivals[len(latencies) : len(latencies) + size])
    latencies.sort()
    rank = min(int(quantile * len(latencies)), len(latencies) - 1)
    return _Figures(latencies[rank], busy / len(latencies))
