"""What is predicted for a plan under given arrivals, in several ways."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec
import numpy as np

from coordinator.planning.batching.arrivals import Map
from coordinator.planning.batching.service import ServiceTimes
from coordinator.planning.simulate import Load, simulate
from tiermesh.batching.policy import follow
from tiermesh.documents.plan import Plan, Replica
from tiermesh.documents.problem import BatchTime, Problem

SHARED_AT_MOST: Final = 0.95
CALM_PART, CALM_RATE, BURST_RATE, BURST_S = 0.75, 0.5, 2.5, 4.0


class Latency(NamedTuple):
    """Percentiles in milliseconds, end to end."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From latencies in seconds."""
        return cls(*(1e3 * float(np.quantile(seconds, q)) for q in (0.5, 0.95)))


def arrivals(kind: str, rate_rps: float, seconds: float, seed: int) -> list[float]:
    """Times from 0 on: `poisson`, or `bursty`, an MMPP(2) with bursts of some seconds; scaled to the rate exactly."""
    process = Map.poisson(rate_rps)
    if kind == "bursty":
        leave = ((1 - CALM_PART) / CALM_PART / BURST_S, 1 / BURST_S)
        process = Map.mmpp((CALM_RATE * rate_rps, BURST_RATE * rate_rps), leave)
    count = round(rate_rps * seconds)
    times = process.sample(count, np.random.default_rng(seed))
    return (times * (count / rate_rps / times[-1])).tolist()


def by_planner(problem: Problem, plan: Plan, scale: float) -> Latency:
    """The plan played through at `scale` times its rate, arrivals as the planner takes them."""
    told = simulate(problem, plan, Load(scale=scale, requests=6000)).latency_ms
    return Latency(told["p50"], told["p95"])


def by_planner_on(problem: Problem, plan: Plan, times: Sequence[float]) -> Latency:
    """The plan played through on these very arrivals, over ten draws of all else."""
    runs = [simulate(problem, plan, Load(times=times, seed=s)).latency_ms for s in range(10)]
    return Latency(*(float(np.mean([run[name] for run in runs])) for name in ("p50", "p95")))


def as_served(problem: Problem, slower: Mapping[str, float]) -> Problem:
    """The problem with the batch times that were measured while serving, by their ratio to the profiled ones."""

    def scaled(time: BatchTime, ratio: float) -> BatchTime:
        percentiles = {name: seconds * ratio for name, seconds in time.percentiles.items()}
        return msgspec.structs.replace(time, mean=time.mean * ratio, percentiles=percentiles)

    profiles = [
        msgspec.structs.replace(
            p, batches=[scaled(time, slower.get(p.stage, 1.0)) for time in p.batches]
        )
        for p in problem.profiles
    ]
    return msgspec.structs.replace(problem, profiles=profiles)


def by_single_servers(
    problem: Problem, plan: Plan, times: Sequence[float], seed: int = 1
) -> Latency:
    """Each replica a single server (`batching.policy`) of its own, one stage after the other.

    What else its device does makes it slower in proportion; there is no time between stages.
    """
    scale = len(times) / times[-1] / plan.predicted.throughput_rps
    draw = random.Random(seed)
    chosen = draw.choices(plan.lanes, [lane.share for lane in plan.lanes], k=len(times))
    ready = list(times)
    for stage in (s.name for s in problem.stages if s.kind == "model"):
        for replica in (r for r in plan.replicas if r.stage == stage):
            requests = [i for i, lane in enumerate(chosen) if lane.path[stage] == replica.id]
            mean = _items(plan, replica)
            items = sorted((ready[i], i) for i in requests for _ in range(_whole(mean, draw)))
            _serve(replica, _seconds(problem, plan, replica, scale), items, ready)
    return Latency.of([end - begin for end, begin in zip(ready, times, strict=True)])


def _serve(
    replica: Replica,
    seconds: Sequence[float],
    items: Sequence[tuple[float, int]],
    ready: list[float],
) -> None:
    """Put items (arrival, request) through a replica: `ready` becomes the departures of their requests."""
    times = [at for at, _ in items]
    starts, sizes = follow(times, seconds, replica.batch_size, replica.batch_timeout_ms / 1e3)
    served = iter(items)
    for start, size in zip(starts, sizes, strict=True):
        for _, request in islice(served, size):
            ready[request] = max(ready[request], start + seconds[size - 1])


def _whole(mean: float, draw: random.Random) -> int:
    return int(mean) + (draw.random() < mean % 1)


def _items(plan: Plan, replica: Replica) -> float:
    """Items of a request at the replica, on the average."""
    share = sum(lane.share for lane in plan.lanes if lane.path[replica.stage] == replica.id)
    return replica.rate_rps / (share * plan.predicted.throughput_rps)


def _seconds(problem: Problem, plan: Plan, replica: Replica, scale: float) -> list[float]:
    profile = next(
        p
        for p in problem.profiles
        if (p.stage, p.variant, p.device) == (replica.stage, replica.variant, replica.device)
    )
    times = ServiceTimes.from_measured({b.batch_size: b.mean for b in profile.batches})
    others = scale * sum(
        r.utilization for r in plan.replicas if r.device == replica.device and r is not replica
    )
    return [float(s) / (1 - min(others, SHARED_AT_MOST)) for s in times.seconds]


def busiest(plan: Plan) -> tuple[str, float]:
    """The bottleneck: the device that the plan keeps busiest, and its share of time."""
    busy: dict[str, float] = defaultdict(float)
    for replica in plan.replicas:
        busy[replica.device] += replica.utilization
    return max(busy.items(), key=lambda one: one[1])


def batches_of(problem: Problem, replica: Replica) -> Mapping[int, float]:
    """Profiled mean seconds of the replica's batches, by size."""
    return {
        b.batch_size: b.mean
        for p in problem.profiles
        if (p.stage, p.variant, p.device) == (replica.stage, replica.variant, replica.device)
        for b in p.batches
    }
