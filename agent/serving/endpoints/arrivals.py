"""When a source's requests are due, and how many there are: a pure function of the request's index.

Nothing is drawn from a shared stream of random numbers, so a source that is started again goes on with the same
arrivals at the index where it stopped.

A source on several devices is one process, of which each device makes a part. Parts that coincided would be bursts
that nobody asked for: even arrivals interleave, Poisson arrivals are independent (superposed, they are Poisson
again), and the times of a trace are dealt, each to one device.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import floor, isfinite, log
from typing import Final

from tiermesh import ids
from tiermesh.documents.assignment import SourceSpec
from tiermesh.errors import InvalidDocument

_SHORTEST_S: Final = 1e-6
"""A trace that is over at once still has a rate."""
_ROUNDING: Final = 1e-9
"""Shares are sums of decimals; what they miss of 1 must not lose an arrival."""


class ArrivalSchedule:
    """The arrivals at one replica of a source, which makes the `share` (from, to) of the source's requests.

    `trace` are the times of `arrivals: trace`, in seconds from the start, of the whole source.

    Raises:
        InvalidDocument: a trace without times, whose times do not grow or are not finite, or of 0 s that is to repeat.
    """

    def __init__(
        self,
        spec: SourceSpec,
        files: int,
        share: tuple[float, float] = (0.0, 1.0),
        trace: Sequence[float] = (),
    ) -> None:
        self._spec = spec
        self._start = share[0]
        self._share = share[1] - share[0]
        self._trace: tuple[float, ...] = (
            _check_trace(trace, repeat=spec.repeat) if spec.arrivals == "trace" else ()
        )
        self._mine = _dealt(len(self._trace), share)
        self.count = self._count(files, share)

    @property
    def admit_rps(self) -> float | None:
        """How many a second may be accepted here; None: as they come."""
        admit = self._spec.admit_rps
        return admit * self._share if admit is not None else None

    @property
    def mean_gap(self) -> float:
        """Seconds between two arrivals, on average."""
        if self._trace:
            return max(self._trace[-1], _SHORTEST_S) / len(self._trace) / self._share
        return 1.0 / ((self._spec.rate_rps or 1.0) * self._share)

    def _count(self, files: int, share: tuple[float, float]) -> int | None:
        """How many requests there are; None for a source that repeats forever."""
        if files == 0 or (self._trace and not self._mine):
            return 0
        total = self._spec.count
        if self._trace and not self._spec.repeat:
            total = min(total if total is not None else len(self._trace), len(self._trace))
        if total is None:
            return None if self._spec.repeat else files
        mine = self._below(total, share)
        return mine if self._spec.repeat or self._spec.count is not None else min(mine, files)

    def _below(self, total: int, share: tuple[float, float]) -> int:
        """How many of the first `total` requests of the source are made here."""
        if self._trace:
            rounds, rest = divmod(total, len(self._trace))
            return rounds * len(self._mine) + bisect_left(self._mine, rest)
        return floor(total * share[1] + 1e-9) - floor(total * share[0] + 1e-9)

    def gap(self, index: int) -> float:
        """Seconds from the arrival before to the `index`-th (from 0)."""
        if self._trace:
            return self._recorded(index) - (self._recorded(index - 1) if index else 0.0)
        mean = self.mean_gap
        if self._spec.arrivals == "constant":
            # With equal shares, m devices make requests m gaps apart, each device one gap after the one before.
            return mean if index else mean * self._start
        digest = hashlib.blake2b(f"{self._key}\0{index}".encode(), digest_size=8).digest()
        return -mean * log((int.from_bytes(digest, "little") + 1) / (2**64 + 1))

    @property
    def _key(self) -> str:
        """What the arrivals of this part are drawn from: independent of those of the other parts."""
        return f"{self._spec.seed}\0{self._start:.9f}" if self._start else f"{self._spec.seed}"

    def _recorded(self, index: int) -> float:
        """When the `index`-th request of this part is due; the trace begins again when it ends."""
        rounds, place = divmod(index, len(self._mine))
        return rounds * self._trace[-1] + self._trace[self._mine[place]]


def _dealt(times: int, share: tuple[float, float]) -> tuple[int, ...]:
    """Which of so many recorded arrivals are made in this share, as evenly among the parts as can be.

    Positions are a Weyl sequence, as for lanes, and parts cut [0, 1), so each arrival falls into one of them.
    """
    low, high = share[0], share[1] if share[1] < 1 - _ROUNDING else 1.0
    return tuple(i for i in range(times) if low <= i * ids.GOLDEN % 1.0 < high)


def _check_trace(trace: Sequence[float], *, repeat: bool) -> tuple[float, ...]:
    why = _unusable(trace, repeat=repeat)
    if why is not None:
        raise InvalidDocument(
            "the trace of arrivals cannot be used",
            why=why,
            fix="Write one time in seconds a line, in order",
        )
    return tuple(trace)


def _unusable(trace: Sequence[float], *, repeat: bool) -> str | None:
    """Why a trace cannot be followed, or None."""
    if not trace:
        return "it has no times"
    if not all(map(isfinite, trace)):
        return "its times are not all finite numbers"
    if trace[0] < 0 or any(b < a for a, b in pairwise(trace)):
        return "its times do not grow from 0 on"
    if repeat and trace[-1] == 0:
        # Each round would be due at once, and the next one with it, for ever.
        return "it lasts 0 s, which cannot be repeated"
    return None
