"""The arrivals of the next hour, from those up to now: the last hour's shape at a rate that follows the trend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from coordinator.planning.batching.arrivals import MarkovianArrivals

_DAMPINGS: Final = (0.0, 0.5, 1.0)
"""How much of the last change of the log-rate is expected again: none, half, all of it."""

_LARGEST_CHANGE: Final = float(np.log(2))
"""No more than a doubling or halving is extrapolated."""


def forecast(history: Sequence[MarkovianArrivals]) -> MarkovianArrivals:
    """The process expected after `history` (oldest first, at least one hour).

    Of the dampings, the one that would have erred least on the history is used; with fewer than three hours, none.
    """
    logs = np.log([process.rate for process in history])
    expected = float(np.exp(logs[-1] + _damping(logs.tolist()) * _last_change(logs.tolist())))
    return history[-1].at_rate(expected)


def _damping(logs: Sequence[float]) -> float:
    def error(damping: float) -> float:
        hits = range(2, len(logs))
        return sum(abs(logs[i - 1] + damping * (logs[i - 1] - logs[i - 2]) - logs[i]) for i in hits)

    return min(_DAMPINGS, key=error)


def _last_change(logs: Sequence[float]) -> float:
    change = logs[-1] - logs[-2] if len(logs) > 1 else 0.0
    return min(max(change, -_LARGEST_CHANGE), _LARGEST_CHANGE)
