"""Where latency lies, given how uncertain device times are: a plan played through on devices drawn from what is known.

A draw has one factor for each host, shared by its devices: the machine's speed, and what neighbours cost. Hosts are
stratified (Latin hypercube), so that few draws cover the whole distribution. Each profile has an error of its own.
Requests are drawn anew as well: what is left to chance in a run of `REQUESTS` is part of the interval. Seeds are
fixed: the same plan has the same interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final

from msgspec.structs import replace

from coordinator.planning.checking import members
from coordinator.planning.margin import (
    Factor,
    contention_of,
    error,
    key_of,
    profiles_of,
    run_spread,
    scaled_profile,
)
from coordinator.planning.simulate import PlayedPlan, SimulatedLoad, simulate
from tiermesh.documents.problem import Problem, ProblemProfile, Uncertainty
from tiermesh.documents.workflow import Percentile

DRAWS: Final = 8
REQUESTS: Final = 200
SHOWN: Final[tuple[Percentile, ...]] = ("p50", "p95")
STUDENT: Final = 1.895
"""Half the width of a 90 % interval of Student's t with `DRAWS` - 1 degrees of freedom."""
SEED: Final = 1


def intervals_ms(problem: Problem, served: PlayedPlan) -> dict[Percentile, tuple[float, float]]:
    """In milliseconds, where p50 and p95 lie with 90 % probability.

    The prediction interval of one more draw, latencies taken to be lognormal: few draws tell more so than by their
    own quantiles.
    """
    small = _only(problem, served)
    seen: dict[Percentile, list[float]] = {name: [] for name in SHOWN}
    for number, factor in enumerate(factors(small)):
        drawn = replace(small, profiles=[scaled_profile(p, factor) for p in small.profiles])
        load = SimulatedLoad(requests=REQUESTS, seed=SEED + number)
        latency_ms = simulate(drawn, served, load).latency_ms
        for name, values in seen.items():
            values.append(latency_ms[name])
    return {name: _predicted(values) for name, values in seen.items()}


def factors(problem: Problem, draws: int = DRAWS, seed: int = SEED) -> Iterator[Factor]:
    """Draws of device time over profiled time; those of devices on one host are correlated."""
    hosts = {d.name: d.host or d.name for d in problem.devices}
    levels = {host: _strata(draws, f"{seed}/{host}") for host in sorted(set(hosts.values()))}
    contention, uncertainty = contention_of(problem), problem.uncertainty or Uncertainty()
    for number in range(draws):
        at = {device: levels[host][number] for device, host in hosts.items()}
        yield _draw(f"{seed}/{number}", at, contention, uncertainty)


def _draw(
    seed: str, at: dict[str, float], contention: dict[str, float], uncertainty: Uncertainty
) -> Factor:
    normal = NormalDist()

    def factor(profile: ProblemProfile, i: int) -> float:
        """Its own error is the same for all batch sizes, in units of their standard errors."""
        level = at[profile.device]
        own = random.Random(f"{seed}/{profile.stage}/{profile.variant}/{profile.device}").gauss()  # noqa: S311
        slow = math.exp(
            run_spread(uncertainty, profile) * normal.inv_cdf(level) + error(profile, i) * own
        )
        # Between none and twice the mean: neighbours may work all the time, or never at the same time.
        beside = 1.0 if profile.served else contention[profile.device] ** (2 * level)
        return slow * beside

    return factor


def _strata(draws: int, seed: str) -> list[float]:
    """The middle of each of so many equal parts of (0, 1), in an order of chance."""
    levels = [(i + 0.5) / draws for i in range(draws)]
    random.Random(seed).shuffle(levels)  # noqa: S311 - a sample, not a secret
    return levels


def _predicted(values: Sequence[float]) -> tuple[float, float]:
    logs = [math.log(max(value, TINY)) for value in values]
    half = STUDENT * stdev(logs) * math.sqrt(1 + 1 / len(logs))
    return math.exp(fmean(logs) - half), math.exp(fmean(logs) + half)


TINY: Final = 1e-9


def _only(problem: Problem, served: PlayedPlan) -> Problem:
    """The problem with the profiles that are played: others need no draw."""
    entry = {name: d.name for d in problem.devices for name in members(d)}
    known = profiles_of(problem)
    used = {key_of(replica, entry) for replica in served.replicas}
    return replace(problem, profiles=[p for key, p in known.items() if key in used])
