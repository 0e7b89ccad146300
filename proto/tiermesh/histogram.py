"""Histograms of durations that add up: the exponential histogram of OpenTelemetry's data model. Pure.

Percentiles of two sources cannot be averaged into that of both, since a percentile says nothing of how many requests
lie on either side of it. Counts per bucket can be added. Bucket i of scale s holds the durations in (b^i, b^(i+1)]
with b = 2^(2^-s); a scale less joins neighbours in pairs, exactly ("Metrics data model: ExponentialHistogram",
OpenTelemetry specification 1.x; C. Masson et al., "DDSketch", VLDB 2019, for the bound on the error).

A merge takes the finest scale that all parts have and that spans them in `BUCKETS`. That scale depends on the parts
only, and not on their order, so that merging is associative and commutative, and nothing is lost by merging twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, log2
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from tiermesh.v1 import telemetry_pb2 as pb

SCALE: Final = 5
"""The finest: 32 buckets for each doubling of a duration."""
COARSEST: Final = 3
"""At this scale `BUCKETS` span all durations from `LEAST_S` to `MOST_S`."""
BUCKETS: Final = 320
"""At most, in one histogram."""
LEAST_S: Final = 2.0**-20
"""A microsecond: what does not take longer is counted as zero."""
MOST_S: Final = 2.0**20
"""Twelve days: what takes longer is counted as that."""
COUNT_MAX: Final = 2**53
"""Of durations in a histogram from outside: more cannot be told exactly in JSON."""
PERCENTILES: Final = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}

_BITS: Final = 20
_PER_DOUBLING: Final = 2**SCALE
_FIRST: Final = -_BITS * _PER_DOUBLING


Cells: TypeAlias = dict[int | None, int]
"""Counts by bucket of the finest scale; those that count as zero are in the bucket None."""


def bucket_of(duration_s: float) -> int | None:
    """The bucket of a duration at the finest scale; None where it counts as zero."""
    if not duration_s > LEAST_S:  # also where it is no number
        return None
    # A logarithm that is rounded down to that of the least would name the bucket below the first.
    return max(ceil(log2(min(duration_s, MOST_S)) * _PER_DOUBLING) - 1, _FIRST)


class Histogram(msgspec.Struct, frozen=True):
    """Counts of durations by bucket, from bucket `offset` of `scale` on; `zero_count` took a microsecond at most.

    Estimates are off by `relative_error` at most: 1.1 % while the longest duration is within 1,000 times the shortest,
    and 4.4 % at worst.
    """

    scale: int = SCALE
    offset: int = 0
    counts: tuple[int, ...] = ()
    zero_count: int = 0

    @property
    def count(self) -> int:
        """How many durations there are."""
        return self.zero_count + sum(self.counts)

    @property
    def relative_error(self) -> float:
        """By how much an estimate is off at most, as a part of the true duration."""
        base = 2.0 ** (2.0**-self.scale)
        return (base - 1) / (base + 1)

    def percentile_s(self, share: float) -> float:
        """The duration (seconds) that a share (0 to 1) of all do not exceed, by nearest rank; 0 where there is none."""
        rank = max(ceil(share * self.count), 1) - self.zero_count
        for at, count in enumerate(self.counts, start=self.offset):
            rank_before, rank = rank, rank - count
            if rank_before > 0 >= rank:
                return self._middle_s(at)
        return 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """p50, p75, p90, p95 and p99 in milliseconds; empty where there are no durations."""
        if not self.count:
            return {}
        return {name: 1e3 * self.percentile_s(share) for name, share in PERCENTILES.items()}

    def _middle_s(self, at: int) -> float:
        """Of all values in a bucket the one that is off by the same part at both of its ends."""
        base = 2.0 ** (2.0**-self.scale)
        return 2 * base ** (at + 1) / (base + 1)


EMPTY: Final = Histogram()


def histogram(durations_s: Iterable[float]) -> Histogram:
    """The histogram of some durations, in seconds."""
    return of_cells(Counter(bucket_of(duration) for duration in durations_s))


def of_cells(cells: Mapping[int | None, int], scale: int = SCALE) -> Histogram:
    """The histogram of counts by bucket of a scale; at a coarser one where they span more than `BUCKETS`."""
    filled = {at: count for at, count in cells.items() if at is not None}
    if not filled:
        return Histogram(zero_count=cells.get(None, 0))
    least, most = min(filled), max(filled)
    shift = 0
    while (most >> shift) - (least >> shift) >= BUCKETS:
        shift += 1
    offset = least >> shift
    counts = [0] * ((most >> shift) - offset + 1)
    for at, count in filled.items():
        counts[(at >> shift) - offset] += count
    return Histogram(scale - shift, offset, tuple(counts), cells.get(None, 0))


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """What a histogram of all their durations would be."""
    parts = list(histograms)
    scale = min((one.scale for one in parts if one.counts), default=SCALE)
    cells = Counter[int | None]()
    for one in parts:
        cells[None] += one.zero_count
        for at, count in enumerate(one.counts, start=one.offset):
            if count:
                cells[at >> (one.scale - scale)] += count
    return of_cells(cells, scale)


# --- as it travels ---------------------------------------------------------------------------------------------------


def fill(message: pb.Histogram, found: Histogram) -> None:
    """Write a histogram into a message that is empty."""
    if found.counts:
        message.scale, message.offset = found.scale, found.offset
        message.counts.extend(found.counts)
    message.zero_count = found.zero_count


def read(message: pb.Histogram) -> Histogram:
    """A histogram from outside.

    Raises:
        InvalidDocument: no histogram of ours is like that: its scale, its buckets or its counts are out of range.
    """
    counts = tuple(message.counts)
    if message.zero_count + sum(counts) > COUNT_MAX:
        raise _invalid("counts", f"more than {COUNT_MAX} durations")
    if not counts:
        return Histogram(zero_count=message.zero_count)
    if not COARSEST <= message.scale <= SCALE:
        raise _invalid("scale", f"{message.scale} is not from {COARSEST} to {SCALE}")
    if len(counts) > BUCKETS:
        raise _invalid("counts", f"{len(counts)} buckets, of {BUCKETS} at most")
    most = _BITS << message.scale
    if not -most <= message.offset <= most - len(counts):
        raise _invalid("offset", f"{message.offset} with {len(counts)} buckets")
    return Histogram(message.scale, message.offset, counts, message.zero_count)


def _invalid(field: str, why: str) -> InvalidDocument:
    return InvalidDocument("a histogram from outside is not valid", why=why, path=f"$.{field}")
