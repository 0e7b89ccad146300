"""How many requests may be repeated without proof that they are lost: a retry budget.

Repeating what is merely slow makes an overload worse: each repetition takes the device time that the first attempts
lack. A budget bounds that. Source: Twitter Finagle's `RetryBudget`, which lets through a share of the requests of the
last seconds, and a floor, so that a source with few requests has some, too.
"""

from __future__ import annotations

from math import exp


class RetryBudget:
    """A balance of repetitions: `share` for each request accepted and `floor_per_s`; what is not used goes in `ttl_s`.

    So it comes to `ttl_s * (share * rate + floor_per_s)`, however long there was nothing to repeat.
    """

    def __init__(self, share: float, floor_per_s: float, ttl_s: float) -> None:
        self._share = share
        self._floor = floor_per_s * ttl_s
        self._ttl = ttl_s
        self._balance = self._floor
        self._at: float | None = None

    def deposit(self, now: float) -> None:
        """A request has been accepted."""
        self._age(now)
        self._balance += self._share

    def spend(self, now: float) -> bool:
        """Take one repetition out; False: there is none."""
        self._age(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _age(self, now: float) -> None:
        """The balance tends to the floor's."""
        since = max(now - self._at, 0.0) if self._at is not None else 0.0
        self._at = now
        self._balance = self._floor + (self._balance - self._floor) * exp(-since / self._ttl)
