"""How many requests a source may accept: a window of requests in flight, and a rate."""

from __future__ import annotations

from math import inf
from typing import Final

from tiermesh import limits

BURST_S: Final = 1.0
"""Where a source is paced, this much of a second's requests may come at once."""
_FIRST_WINDOW: Final = 64
_LEAST_WINDOW: Final = 4


class InFlightWindow:
    """How many requests may be in flight.

    The window grows by one with each confirmed request. When requests take more than a quarter of their deadline it
    becomes what is in flight, and shrinks: a source that offers more than the mesh can do is slowed, instead of all its
    requests being late.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline = deadline_s
        self._window = float(_FIRST_WINDOW)

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return int(self._window)

    def confirmed(self, seconds: float, in_flight: int) -> None:
        """A request has ended after so many seconds since it was accepted; so many are in flight still."""
        if seconds > self._deadline / 4:
            # A window that was never used up says nothing of what the mesh can do.
            self._window = max(min(self._window, in_flight + 1) - 0.5, _LEAST_WINDOW)
        else:
            self._window = min(self._window + 1, limits.SOURCE_INFLIGHT_REQUESTS)


class RateLimiter:
    """Lets through at most `rate_rps`, and bursts of `BURST_S`: a token bucket, kept as the time that it is paid until.

    Source: the generic cell rate algorithm, as virtual scheduling (ITU-T I.371).
    """

    def __init__(self, rate_rps: float | None) -> None:
        self.rate_rps = rate_rps
        self._paid = -inf

    @property
    def next_at(self) -> float:
        """When the next one may pass."""
        return self._paid - BURST_S

    def passed(self, now: float) -> None:
        """One has passed."""
        if self.rate_rps is not None:
            self._paid = max(self._paid, now) + 1 / self.rate_rps
