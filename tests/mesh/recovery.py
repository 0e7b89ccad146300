"""How long the flow of results takes to come back after a fault."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import Final

WINDOW_S: Final = 0.5
STEP_S: Final = 0.05
BITES_WITHIN_S: Final = 3.0
"""A fault that has not slowed the flow by then has not slowed it."""
FULL: Final = 0.9
"""A window with this share of the requests that are made in one is at full rate; chance makes some a little short."""


def recovery_s(finished: Sequence[float], at: float, rate: float) -> float:
    """Seconds from a fault until the flow is at full rate again, after the first window that is not.

    `finished` are the times of results, `rate` is how many are made in a second. 0 where the fault did not slow the
    flow; infinity where it never came back.
    """
    times = sorted(finished)

    def is_full(since: float) -> bool:
        ended = bisect_left(times, since + WINDOW_S) - bisect_left(times, since)
        return ended >= FULL * rate * WINDOW_S

    steps = round(BITES_WITHIN_S / STEP_S)
    short = next((at + i * STEP_S for i in range(steps) if not is_full(at + i * STEP_S)), None)
    if short is None:
        return 0.0
    # The window begins with a result: one that begins earlier and is filled by what had waited would tell too little.
    later = times[bisect_left(times, short) :]
    return next((since - at for since in later if is_full(since)), inf)
