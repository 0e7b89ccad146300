"""How good the way to a device is: the time of pings on its control session, and how often that broke. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Final

PINGS: Final = 32
"""Round trips that are remembered."""
HOUR_S: Final = 3600.0
BREAKS: Final = 256
"""Breaks that are remembered; there are no more of them to tell."""
GOOD_MS: Final = 20.0
FAIR_MS: Final = 150.0


class Grade(StrEnum):
    """A link in a word."""

    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """What was measured: the median and the least of the last round trips, and the breaks of the last hour.

    A round trip begins and ends in this process: it holds what both processes take to read and to write.
    """

    rtt_ms: float
    least_ms: float
    pings: int
    reconnects: int

    @property
    def grade(self) -> Grade:
        """By its round trips; one that broke within the hour is fair at best."""
        if self.rtt_ms > FAIR_MS:
            return Grade.POOR
        return Grade.FAIR if self.rtt_ms > GOOD_MS or self.reconnects else Grade.GOOD


@dataclass(slots=True)
class Pinging:
    """The pings of one device. Times are seconds of any one clock."""

    _number: int = 0
    _sent_at: float | None = None
    _trips: deque[float] = field(default_factory=lambda: deque[float](maxlen=PINGS))
    _breaks: deque[float] = field(default_factory=lambda: deque[float](maxlen=BREAKS))

    def ping(self, now: float) -> int:
        """The number to send now; an answer to an earlier one counts no more."""
        self._number += 1
        self._sent_at = now
        return self._number

    def pong(self, number: int, now: float) -> None:
        """A number has come back."""
        if number == self._number and self._sent_at is not None:
            self._trips.append(max(now - self._sent_at, 0.0))
            self._sent_at = None

    def broke(self, now: float) -> None:
        """The connection has ended: what is on its way does not come back."""
        self._sent_at = None
        self._breaks.append(now)

    def link(self, now: float) -> LinkQuality | None:
        """What is known; None before the first round trip."""
        if not self._trips:
            return None
        return LinkQuality(
            rtt_ms=1_000 * median(self._trips),
            least_ms=1_000 * min(self._trips),
            pings=len(self._trips),
            reconnects=sum(now - at <= HOUR_S for at in self._breaks),
        )
