"""Margin: device times that a plan allows for, slower than profiled, so that it keeps its promises with a probability.

Device time is its profile, times what neighbours on its host cost on the mean (`contention`), times a lognormal factor
whose logarithm has the variance of the machine's speed between runs and of the profile's own error. A plan with
confidence p is made for the p-quantile of every device time at once. That is the exact quantile where all devices
share a host, and errs on the safe side where they do not: it also holds if every device is that much slower.

Utilization is bounded twice: as profiled by a device's `usable_share`, as ever; at the quantile by `CEILING`. The two
are not multiplied: room that `usable_share` leaves for other programs is there for slower batches as well, and is
enough of it where `usable_share` x factor <= `CEILING`. Only latency is then planned with the factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Final, TypeAlias, TypeVar

from msgspec.structs import replace

from coordinator.planning.checking import members
from coordinator.planning.options import Options
from tiermesh.documents.plan import Replica
from tiermesh.documents.problem import BatchTime, Problem, ProblemProfile, Uncertainty

CONFIDENCE: Final = 0.95
"""Of a plan for a live fleet, unless another one is asked for."""
CEILING: Final = 0.95
"""How busy a device may be at the quantile. Queues are long there, and finite; latency is checked by itself."""
LADDER: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
"""Confidences that are tried where another one than that asked is looked for."""

Factor: TypeAlias = Callable[[ProblemProfile, int], float]
"""By which the time of a profile's i-th batch is multiplied."""
ProfileKey: TypeAlias = tuple[str, str | None, str, float | None]
"""A stage, its variant, the device's name in the problem, and the memory size of a function."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class DeviceTimeMargin:
    """Device times at the quantile of `confidence`."""

    problem: Problem
    confidence: float

    @classmethod
    def of(cls, problem: Problem, options: Options) -> DeviceTimeMargin | None:
        """The margin that the options, or else the problem, ask for; None where neither does."""
        confidence = options.confidence or problem.asks.confidence
        if confidence is None or not options.margin:
            return None
        return cls(problem, confidence)

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """What the problem says of it, or the defaults."""
        return self.problem.uncertainty or Uncertainty()

    @cached_property
    def _contention(self) -> dict[str, float]:
        return contention_of(self.problem)

    @cached_property
    def _score(self) -> float:
        return NormalDist().inv_cdf(self.confidence)

    @cached_property
    def _least_spread(self) -> float:
        """Such that the quantile at the default confidence is at least `slower`."""
        return math.log1p(self.uncertainty.slower) / NormalDist().inv_cdf(CONFIDENCE)

    def factor(self, profile: ProblemProfile, i: int) -> float:
        """Device time at the quantile over that of the profile's i-th batch; at least 1."""
        spread = math.hypot(run_spread(self.uncertainty, profile), error(profile, i))
        slow = math.exp(self._score * max(spread, self._least_spread))
        return slow if profile.served else slow * self._contention[profile.device]

    def stretch(self, profile: ProblemProfile, i: int, usable_share: float) -> float:
        """What the profile's time counts against the usable share, over itself: more than 1 where `CEILING` binds."""
        return max(1.0, self.factor(profile, i) * usable_share / CEILING)

    @cached_property
    def slowed(self) -> Problem:
        """The problem with all device times at the quantile."""
        return scaled(self.problem, self.factor)

    def by_device(self, replicas: Iterable[Replica]) -> dict[str, float]:
        """The factor of each device of a plan: the mean over its replicas, weighted by the time they take."""
        profiles = profiles_of(self.problem)
        entry = {name: d.name for d in self.problem.devices for name in members(d)}
        sums: dict[str, tuple[float, float]] = {}
        for replica in replicas:
            profile = profiles.get(key_of(replica, entry))
            if profile is None:
                continue
            busy = max(replica.utilization, TINY)
            factor = self.factor(profile, nearest(profile.batches, replica.batch_size))
            weight, total = sums.get(replica.device, (0.0, 0.0))
            sums[replica.device] = (weight + busy, total + busy * factor)
        return {device: round(total / weight, 4) for device, (weight, total) in sums.items()}


TINY: Final = 1e-9


def contention_of(problem: Problem) -> dict[str, float]:
    """How much longer batches take beside neighbours, by the device's name in the problem."""
    return {device.name: device.contention for device in problem.devices}


def run_spread(uncertainty: Uncertainty, profile: ProblemProfile) -> float:
    """The standard deviation of the logarithm of the machine's speed against that when the profile was measured."""
    return uncertainty.while_serving if profile.served else uncertainty.between_runs


def error(profile: ProblemProfile, i: int) -> float:
    """The relative standard error of the profile's i-th mean; 0 where it is exact."""
    return profile.relative_errors[i] if i < len(profile.relative_errors) else 0.0


def scaled(problem: Problem, factor: Factor) -> Problem:
    """The problem with each batch's time and percentiles multiplied."""
    return replace(problem, profiles=[scaled_profile(p, factor) for p in problem.profiles])


def scaled_profile(profile: ProblemProfile, factor: Factor) -> ProblemProfile:
    """The profile with each batch's time and percentiles multiplied."""
    batches = [scaled_batch(b, factor(profile, i)) for i, b in enumerate(profile.batches)]
    return replace(profile, batches=batches)


def scaled_batch(batch: BatchTime, factor: float) -> BatchTime:
    """A batch that takes `factor` times as long."""
    percentiles = {name: seconds * factor for name, seconds in batch.percentiles.items()}
    return replace(batch, mean=batch.mean * factor, percentiles=percentiles)


def profiles_of(problem: Problem) -> dict[ProfileKey, ProblemProfile]:
    """The profiles by what a replica's is found by; only functions are told apart by memory."""
    functions = {d.name for d in problem.devices if d.serverless is not None}
    return {
        (p.stage, p.variant, p.device, p.memory_mb if p.device in functions else None): p
        for p in problem.profiles
    }


def key_of(replica: Replica, entry: dict[str, str]) -> ProfileKey:
    """The key of a replica's profile; `entry` has the problem's name of each device."""
    memory = replica.function.memory_mb if replica.function is not None else None
    return replica.stage, replica.variant, entry[replica.device], memory


def nearest(batches: Sequence[BatchTime], size: int) -> int:
    """The index of the batch size that is nearest to one."""
    return min(range(len(batches)), key=lambda i: abs(batches[i].batch_size - size))


def most_confident(
    attempt: Callable[[float], T | None], below: float, ladder: Sequence[float] = LADDER
) -> tuple[float, T] | None:
    """The largest confidence of the ladder below `below` for which an attempt succeeds, and its result.

    What is feasible with a confidence is so with every lower one: of n rungs, log2(n + 1) are tried.
    """
    rungs = [c for c in ladder if c < below]
    best: tuple[float, T] | None = None
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high) // 2
        found = attempt(rungs[middle])
        if found is None:
            high = middle
        else:
            best, low = (rungs[middle], found), middle + 1
    return best
