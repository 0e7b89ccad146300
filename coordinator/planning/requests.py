"""How requests come: the arrivals of a problem's sources, as seen at any share and by any stage.

A replica sees a share of the requests, dealt as sources deal them to lanes; where a law needs a process, a share p of
a MAP stands for it, (D0 + (1 - p) D1, p D1). What is drawn has fixed seeds: plans are compared on the same arrivals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from tiermesh import ids
from tiermesh.documents.problem import Arrivals, Problem

SEED: Final = 20_201_115
MOST_DRAWN: Final = 300_000
"""Requests drawn for a replica with a small share, unless fewer than `FEWEST` of them were its own."""
MOST_DEALT: Final = 3_000_000
FEWEST: Final = 200
RECORDED: Final = 120_000
LONGEST: Final = 7
"""Beyond this burstiness it would take too long; what is followed has the right rate at least."""


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a workflow: `rate_rps` per second, evenly, as a process, or as `record` (ascending seconds).

    Even arrivals have neither process nor record.
    """

    rate_rps: float
    process: MarkovianArrivals | None = None
    record: tuple[float, ...] = ()

    @classmethod
    def of(cls, problem: Problem, rate_rps: float | None = None) -> Requests:
        """Those of a problem, at its own rate or another.

        Each request begins at every source, so the arrivals are those of one of them: of the first that is more
        than Poisson, else even ones if all are.
        """
        sources = [s for s in problem.stages if s.kind == "source"]
        rate = rate_rps or max(s.rate_rps or 0.0 for s in sources)
        for source in sources:
            if isinstance(source.arrivals, Arrivals):
                return cls._shaped(source.arrivals, rate)
        if all(source.arrivals == "constant" for source in sources):
            return cls(rate)
        return cls(rate, MarkovianArrivals.poisson(rate))

    @classmethod
    def _shaped(cls, arrivals: Arrivals, rate: float) -> Requests:
        if arrivals.map is not None:
            given = MarkovianArrivals(np.array(arrivals.map.D0), np.array(arrivals.map.D1))
            return cls(rate, given.at_rate(rate))
        times = np.array(arrivals.trace_s)
        scale = (len(times) - 1) / (times[-1] - times[0]) / rate
        return cls(rate, None, tuple(((times - times[0]) * scale).tolist()))

    def __hash__(self) -> int:
        """By what they are, so that equal requests of two problems are one question."""
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        """Equal processes at equal rates."""
        return isinstance(other, Requests) and self._key == other._key

    @cached_property
    def _key(self) -> tuple[object, ...]:
        process = self.process
        shape = None if process is None else (process.d0.tobytes(), process.d1.tobytes())
        return self.rate_rps, shape, self.record

    @property
    def memoryless(self) -> bool:
        """Whether they are Poisson."""
        return self.process is not None and self.process.phases == 1

    @cached_property
    def as_process(self) -> MarkovianArrivals:
        """The process, or the one fitted to the record; even arrivals count as Poisson, since lanes thin them."""
        if self.process is not None:
            return self.process
        if self.record:
            from coordinator.planning.batching.fitting import Timestamps, fit

            return fit(Timestamps.read(self.record)).process.at_rate(self.rate_rps)
        return MarkovianArrivals.poisson(self.rate_rps)

    @property
    def unevenness(self) -> int:
        """How many times as many must be followed as of Poisson arrivals before figures settle; 1 to `LONGEST`."""
        if self.process is not None:
            return math.ceil(min(max(self.process.dispersion, 1.0), LONGEST) - 1e-9)
        return LONGEST if self.record else 1

    def times(self, count: int, generator: np.random.Generator) -> Floats:
        """`count` arrivals in ascending seconds; a record that ends begins again.

        Bursty processes rarely bring their mean rate within what can be followed: their clock is set right.
        """
        if self.process is not None:
            times = self.process.sample(count, generator)
            wrong = 1.0 if self.memoryless else (count - 1) / self.rate_rps / span(times)
            return times * wrong
        if not self.record:
            return np.arange(1, count + 1) / self.rate_rps
        return _again(np.array(self.record), count, 1 / self.rate_rps)

    def dealt(self, share: float, count: int) -> tuple[Floats, Floats]:
        """About `count` of the requests that a lane with a share gets: their times, and positions from 0 to `share`.

        Sources deal requests to lanes by a Weyl sequence, and so does this: in a row they fall as evenly as can be.
        """
        whole = math.ceil(count / share)
        whole = min(whole, max(MOST_DRAWN, math.ceil(FEWEST / share)), MOST_DEALT)
        positions = np.arange(whole) * ids.GOLDEN % 1.0
        kept = positions < share
        kept[:2] = True  # nothing can be followed that never comes
        return self._drawn(whole)[kept], positions[kept]

    def _drawn(self, count: int) -> Floats:
        if self.process is None or self.memoryless:
            return self.times(count, np.random.default_rng(SEED))
        record = _unit_record(Requests(1.0, self.process.at_rate(1.0)))
        return _again(record, count, 1.0) / self.rate_rps

    def at(self, share: float, items: float, count: int) -> Floats:
        """When about `count` items come to a replica with a share of the requests, of `items` (mean) each."""
        times, _ = self.dealt(min(share, 1.0), max(math.ceil(count / items), 2))
        return with_items(times, items, np.random.default_rng(SEED))


@lru_cache(maxsize=16)
def _unit_record(requests: Requests) -> Floats:
    """A long record of a process at one request per second: drawing it takes longer than following it."""
    return requests.times(RECORDED, np.random.default_rng(SEED))


def _again(record: Floats, count: int, gap_s: float) -> Floats:
    """A record as often as it takes for `count` times, with a gap in between."""
    rounds = np.arange(math.ceil(count / len(record)))
    starts = rounds * (record[-1] - record[0] + gap_s)
    return (starts[:, None] + (record - record[0])[None, :]).ravel()[:count]


def with_items(times: Floats, items: float, generator: np.random.Generator) -> Floats:
    """The times of requests' items, of which each has `items` on average: some none where that is below one."""
    if items < 1:
        kept = generator.random(len(times)) < items
        kept[:2] = True
        return times[kept]
    return repeated(times, items, generator)


def repeated(times: Floats, items: float, generator: np.random.Generator) -> Floats:
    """Each time as often as a request has items: their mean, rounded by chance."""
    whole = math.floor(items)
    if items == whole:
        return np.repeat(times, whole)
    return np.repeat(times, whole + (generator.random(len(times)) < items - whole))


def span(times: Sequence[float] | Floats) -> float:
    """Seconds from the first to the last; above zero."""
    return max(float(times[-1] - times[0]), 1e-300)
