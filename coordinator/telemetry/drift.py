"""Whether batches take what was profiled: measured over profiled device time, with how sure that is. Pure.

A replica's telemetry counts batches and their device time by size. Of two samples one has what was done between them,
a window; `drift` compares windows with a profile, and `corrected` gives the profile that would have been right.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from msgspec.structs import replace

from tiermesh.documents.plan import Replica
from tiermesh.documents.problem import BatchTime, Problem, ProblemProfile
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.v1 import telemetry_pb2 as pb

GROUPS: Final = 20
"""Windows are pooled to so many groups at most: what one batch suffers, the next one does, too (batch means)."""
TOLERANCE: Final = 0.1
_LEVEL: Final = 0.95
NORMAL_95: Final = 1.96
UNSURE: Final = 0.25
"""Relative standard error of a ratio without an interval."""

Key: TypeAlias = tuple[str, str | None, str]
"""A stage, its variant and its device, by name."""


@dataclass(frozen=True, slots=True)
class DriftWindow:
    """What a replica did for a while: batches by size, and their device seconds by size."""

    batches: Mapping[int, int]
    seconds: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Measured over profiled device time: its estimate, an interval, and the batches that it comes from.

    It is one of 95 % unless said otherwise, and (0, inf) where fewer than two groups of windows tell.
    """

    ratio: float
    low: float
    high: float
    batches: int

    def over(self, other: float) -> Ratio:
        """The ratio to what was planned, where that was `other` times the profile."""
        return Ratio(self.ratio / other, self.low / other, self.high / other, self.batches)

    def __str__(self) -> str:
        """As people are told."""
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def sure(self) -> float:
        """Of the plausible ratios the one nearest to 1."""
        return max(self.low, 1.0) if self.ratio > 1 else min(self.high, 1.0)

    def differs(self, tolerance: float = TOLERANCE) -> bool:
        """Whether it is off 1 by more than `tolerance` for sure."""
        return self.low > 1 + tolerance or self.high < 1 / (1 + tolerance)

    @property
    def error(self) -> float:
        """Its standard error over itself; `UNSURE` where nothing is known of it."""
        if self.high == math.inf or self.ratio <= 0:
            return UNSURE
        return (self.high - self.low) / 2 / NORMAL_95 / self.ratio


@dataclass(frozen=True, slots=True)
class Drift:
    """Of all batches together, and of those of each size; None where there were none."""

    overall: Ratio | None
    by_size: Mapping[int, Ratio]

    def factor(self, size: int) -> float:
        """By which a profiled time is multiplied: the size's own where it is known well, else that of all."""
        if self.overall is None:
            return 1.0
        return self._of(size, self.overall).ratio

    def error(self, size: int) -> float:
        """The relative standard error of a profiled time that was multiplied by `factor`."""
        return 0.0 if self.overall is None else self._of(size, self.overall).error

    def _of(self, size: int, overall: Ratio) -> Ratio:
        own = self.by_size.get(size)
        return own if own is not None and _is_tight(own) else overall


def drift(observed: Sequence[DriftWindow], profile: Mapping[int, float]) -> Drift:
    """How batches that were served compare with their profile.

    Args:
        observed: windows in the order of time; those of equal devices may be pooled, one after the other.
        profile: profiled mean seconds by batch size, at least one; see `means`, `means_of`.

    The ratio of two sums, with the variance of Cochran (1977, 6.4) over groups of windows.
    """
    by_size = {size: _ratio(observed, profile, [size]) for size in _sizes(observed)}
    return Drift(
        _ratio(observed, profile, _sizes(observed)),
        {s: r for s, r in by_size.items() if r is not None},
    )


def ratio_at(
    observed: Sequence[DriftWindow], profile: Mapping[int, float], error: float, groups: int
) -> Ratio | None:
    """Measured over profiled device time of all batches, outside its interval with probability `error`.

    Windows are pooled to `groups` at most: small errors need many. None without batches.
    """
    return _ratio(observed, profile, _sizes(observed), error, groups)


def _sizes(observed: Sequence[DriftWindow]) -> list[int]:
    return sorted({size for window in observed for size, n in window.batches.items() if n})


def means(profile: Profile, threads: int) -> dict[int, float]:
    """The mean seconds by batch size of a profile, as the planner uses it on a device with so many threads."""
    return {p.batch_size: p.seconds.mean for p in profile.points if p.threads == threads}


def means_of(batches: Iterable[BatchTime]) -> dict[int, float]:
    """The mean seconds by batch size, of a problem's profile or the `room` of a replica."""
    return {batch.batch_size: batch.mean for batch in batches}


def windows(samples: Sequence[pb.ReplicaSample]) -> list[DriftWindow]:
    """What one replica did between each two samples of it, oldest first; a worker that restarted begins anew."""
    return [
        window
        for before, after in pairwise(samples)
        if before.generation == after.generation
        and after.batches > before.batches
        and (window := _between(before, after))
    ]


def corrected(profile: Profile, found: Drift) -> Profile:
    """The profile as it would have been, had it been measured while serving."""
    return replace(profile, points=[_point(p, found.factor(p.batch_size)) for p in profile.points])


def corrected_problem(problem: Problem, found: Mapping[Key, Drift]) -> Problem:
    """The problem with the profiles that differed corrected; it is another one, with another digest.

    How sure the correction is takes the place of how sure the profile was.
    """

    def right(profile: ProblemProfile) -> ProblemProfile:
        drifted = found.get((profile.stage, profile.variant, profile.device))
        if drifted is None:
            return profile
        return replace(
            profile,
            batches=[scaled(b, drifted.factor(b.batch_size)) for b in profile.batches],
            relative_errors=[drifted.error(b.batch_size) for b in profile.batches],
            served=True,
            prior=None,
        )

    return replace(problem, profiles=[right(profile) for profile in problem.profiles])


def key_of(replica: Replica) -> Key:
    """What the profile of a replica is found by."""
    return replica.stage, replica.variant, replica.device


def expected_s(profile: Mapping[int, float], size: int) -> float:
    """Profiled mean seconds of a batch: linear between measured sizes, in proportion beyond them."""
    sizes = sorted(profile)
    at = bisect_left(sizes, size)
    if at == len(sizes):
        return profile[sizes[-1]] * size / sizes[-1]
    if at == 0 or sizes[at] == size:
        return profile[sizes[at]]
    below, above = sizes[at - 1], sizes[at]
    part = (size - below) / (above - below)
    return profile[below] + part * (profile[above] - profile[below])


def _between(before: pb.ReplicaSample, after: pb.ReplicaSample) -> DriftWindow | None:
    batches = {s: n - before.batch_sizes.get(s, 0) for s, n in after.batch_sizes.items()}
    if any(n < 0 for n in batches.values()):
        return None
    seconds = {s: t - before.batch_seconds.get(s, 0.0) for s, t in after.batch_seconds.items()}
    done = {s: n for s, n in batches.items() if n > 0 and seconds.get(s, 0.0) > 0}
    return DriftWindow(done, {s: seconds[s] for s in done}) if done else None


def _ratio(
    observed: Sequence[DriftWindow],
    profile: Mapping[int, float],
    sizes: Sequence[int],
    error: float = 1 - _LEVEL,
    groups: int = GROUPS,
) -> Ratio | None:
    """The ratio over batches of these sizes."""
    pairs: list[tuple[float, float]] = []
    count = 0
    for window in observed:
        of = [size for size in sizes if window.batches.get(size)]
        if of:
            count += sum(window.batches[size] for size in of)
            profiled = sum(window.batches[size] * expected_s(profile, size) for size in of)
            pairs.append((sum(window.seconds[size] for size in of), profiled))
    if not pairs:
        return None
    return _estimate(_pooled(pairs, groups), count, error)


def _pooled(pairs: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Neighbours added up, to `most` groups at most."""
    groups = min(most, len(pairs))
    bounds = [len(pairs) * i // groups for i in range(groups + 1)]
    parts = [pairs[low:high] for low, high in pairwise(bounds)]
    return [(sum(a for a, _ in part), sum(b for _, b in part)) for part in parts]


def _estimate(pairs: Sequence[tuple[float, float]], batches: int, error: float) -> Ratio:
    # SciPy takes long to import, and starts a process of its own then: not in an event loop.
    from scipy.special import stdtrit

    profiled = sum(b for _, b in pairs)
    ratio = sum(a for a, _ in pairs) / profiled
    n = len(pairs)
    if n < 2:
        return Ratio(ratio, 0.0, math.inf, batches)
    residuals = sum((a - ratio * b) ** 2 for a, b in pairs)
    half = float(stdtrit(n - 1, 1 - error / 2)) * math.sqrt(n / (n - 1) * residuals) / profiled
    return Ratio(ratio, max(ratio - half, 0.0), ratio + half, batches)


def _is_tight(ratio: Ratio) -> bool:
    return ratio.high - ratio.low < TOLERANCE * ratio.ratio


def _point(point: Point, factor: float) -> Point:
    seconds = point.seconds
    scaled = {name: getattr(seconds, name) * factor for name in Seconds.__struct_fields__}
    return replace(
        point, seconds=Seconds(**scaled), items_per_second=point.items_per_second / factor
    )


def scaled(batch: BatchTime, factor: float) -> BatchTime:
    """A batch that takes `factor` times as long."""
    percentiles = {name: seconds * factor for name, seconds in batch.percentiles.items()}
    return replace(batch, mean=batch.mean * factor, percentiles=percentiles)
