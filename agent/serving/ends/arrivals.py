"""When a source's requests are due, and how many there are: a pure function of the request's index.

Nothing is drawn from a shared stream of random numbers, so a source that is started again goes on with the same
arrivals at the index where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from math import floor, log

from tiermesh.documents.assignment import SourceSpec
from tiermesh.errors import InvalidDocument


class Arrivals:
    """The arrivals at one replica of a source, which makes the `share` (from, to) of the source's requests.

    `trace` are the times of `arrivals: trace`, in seconds from the start, of the whole source.

    Raises:
        InvalidDocument: a trace without times, or whose times do not grow.
    """

    def __init__(
        self,
        spec: SourceSpec,
        files: int,
        share: tuple[float, float] = (0.0, 1.0),
        trace: Sequence[float] = (),
    ) -> None:
        self._spec = spec
        self._share = share[1] - share[0]
        self._trace: tuple[float, ...] = _check_trace(trace) if spec.arrivals == "trace" else ()
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
            return self._trace[-1] / len(self._trace) / self._share
        return 1.0 / ((self._spec.rate_rps or 1.0) * self._share)

    def _count(self, files: int, share: tuple[float, float]) -> int | None:
        """How many requests there are; None for a source that repeats for ever."""
        if files == 0:
            return 0
        total = self._spec.count
        if self._spec.arrivals == "trace" and not self._spec.repeat:
            total = min(total if total is not None else len(self._trace), len(self._trace))
        if total is None:
            return None if self._spec.repeat else files
        mine = floor(total * share[1] + 1e-9) - floor(total * share[0] + 1e-9)
        return mine if self._spec.repeat or self._spec.count is not None else min(mine, files)

    def gap(self, index: int) -> float:
        """Seconds from the arrival before to the `index`-th (from 0)."""
        if self._spec.arrivals == "trace":
            place = index % len(self._trace)
            if place:
                return (self._trace[place] - self._trace[place - 1]) / self._share
            return self._trace[0] / self._share
        mean = self.mean_gap
        if self._spec.arrivals == "constant":
            return mean if index else 0.0
        digest = hashlib.blake2b(f"{self._spec.seed}\0{index}".encode(), digest_size=8).digest()
        return -mean * log((int.from_bytes(digest, "little") + 1) / (2**64 + 1))


def _check_trace(trace: Sequence[float]) -> tuple[float, ...]:
    if not trace or any(b < a for a, b in pairwise(trace)) or trace[0] < 0:
        raise InvalidDocument(
            "the trace of arrivals cannot be used",
            why="it has no times" if not trace else "its times do not grow from 0 on",
            fix="Write one time in seconds a line, in order",
        )
    return tuple(trace)
