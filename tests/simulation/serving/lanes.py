"""Lanes of one source as queues with delays, driven by a seed: what steering does to latency. Fast, for long times.

Each lane is one server, first come, first served, with lognormal service times, between two delays: that of the way
there, and that of the confirmation. Arrivals are Poisson.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, log

from agent.serving.steering.rule import LaneRule
from agent.serving.steering.steering import Steering

Factor = Callable[[float], float]


def always(_: float) -> float:
    """Nothing is disturbed."""
    return 1.0


def between(start: float, end: float, factor: float) -> Factor:
    """A factor that holds for a while."""
    return lambda now: factor if start <= now < end else 1.0


@dataclass
class SimLane:
    """A lane: mean service seconds, one-way delay, and what slows its server or its way."""

    rule: LaneRule
    service_s: float
    delay_s: float = 0.05
    slower: Factor = always
    way: Factor = always
    free_at: float = 0.0


@dataclass
class Run:
    """What came out: (accepted at, latency, lane), and the shares at each step."""

    ended: list[tuple[float, float, int]] = field(default_factory=list[tuple[float, float, int]])
    shares: list[tuple[float, list[float]]] = field(default_factory=list[tuple[float, list[float]]])
    steering: Steering | None = None

    def p95(self, start: float, end: float) -> float:
        """The 95th percentile of the latencies of what was accepted in between."""
        values = sorted(latency for at, latency, _ in self.ended if start <= at < end)
        return values[int(0.95 * len(values))]

    def within(self, slo_s: float, start: float, end: float) -> float:
        """The part of what was accepted in between that was within the SLO."""
        values = [latency for at, latency, _ in self.ended if start <= at < end]
        return sum(v <= slo_s for v in values) / len(values)

    def share(self, lane: int, at: float) -> float:
        """A lane's share at a time."""
        return next(shares[lane] for when, shares in self.shares if when >= at)

    def mean_share(self, lane: int, start: float, end: float) -> float:
        """A lane's share, on the average over time."""
        values = [shares[lane] for when, shares in self.shares if start <= when < end]
        return sum(values) / len(values)


def simulate(
    lanes: Sequence[SimLane],
    *,
    seed: int,
    rate_rps: float,
    seconds: float,
    slo_s: float | None = 3.0,
    at_least: float | None = None,
    load: Factor = always,
    variation: float = 0.5,
    steers: bool = True,
    accuracy: bool = True,
) -> Run:
    """Serve for some seconds; `variation` is the coefficient of variation of service times."""
    chance = random.Random(seed)
    rules = [lane.rule for lane in lanes]
    steering = Steering(
        rules, slo_s=slo_s, planned_rps=rate_rps, at_least=at_least, accuracy=accuracy
    )
    sigma2 = log(1 + variation**2)
    run = Run(steering=steering)
    backs: list[tuple[float, str, float, int]] = []
    now, number, tick_at = 0.0, 0, 0.0
    while now < seconds:
        arrival = now + chance.expovariate(rate_rps * load(now))
        while min(tick_at, backs[0][0] if backs else arrival) < arrival:
            if backs and backs[0][0] <= tick_at:
                at, request, accepted, lane = heapq.heappop(backs)
                steering.ended(request, at)
                run.ended.append((accepted, at - accepted, lane))
                continue
            if steers:
                steering.tick(tick_at)
            run.shares.append((tick_at, list(steering.shares)))
            tick_at += 0.05
        now, number = arrival, number + 1
        index = chance.choices(range(len(lanes)), steering.shares)[0]
        index = steering.allowed(index)
        lane = lanes[index]
        steering.sent(str(number), index, now)
        there = now + lane.delay_s * lane.way(now)
        start = max(there, lane.free_at)
        service = lane.service_s * exp(chance.gauss(-sigma2 / 2, sigma2**0.5))
        lane.free_at = start + service * lane.slower(start)
        heapq.heappush(backs, (lane.free_at + lane.delay_s, str(number), now, index))
    return run
