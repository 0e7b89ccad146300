"""What is predicted for a plan under given arrivals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.simulate import SimulatedLoad, simulate
from coordinator.telemetry.drift import Drift, Key, corrected_problem, key_of
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem

CALM_PART, CALM_RATE, BURST_RATE, BURST_S = 0.75, 0.5, 2.5, 4.0
DRAWS: Final = 20
FORECAST_REQUESTS: Final = 20_000


class Latency(NamedTuple):
    """Percentiles in milliseconds, end to end."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From latencies in seconds."""
        return cls(*(1e3 * float(np.quantile(seconds, q)) for q in (0.5, 0.95)))


class Predicted(NamedTuple):
    """Latencies, and within which p95 lies in nine of ten draws of all that is left to chance."""

    p50: float
    p95: float
    p95_low: float
    p95_high: float


def process(kind: str, rate_rps: float) -> MarkovianArrivals:
    """`poisson`, or `bursty`: an MMPP(2) with bursts of some seconds."""
    if kind == "poisson":
        return MarkovianArrivals.poisson(rate_rps)
    leave = ((1 - CALM_PART) / CALM_PART / BURST_S, 1 / BURST_S)
    return MarkovianArrivals.mmpp((CALM_RATE * rate_rps, BURST_RATE * rate_rps), leave)


def arrivals(kind: str, rate_rps: float, seconds: float, seed: int) -> list[float]:
    """Times from 0 on, scaled to the rate exactly."""
    count = round(rate_rps * seconds)
    times = process(kind, rate_rps).sample(count, np.random.default_rng(seed))
    return (times * (count / rate_rps / times[-1])).tolist()


def on_trace(problem: Problem, plan: Plan, times: Sequence[float]) -> Predicted:
    """The plan played through on these very arrivals; the mean over draws of all else."""
    runs = [
        simulate(problem, plan, SimulatedLoad(times=times, seed=s)).latency_ms for s in range(DRAWS)
    ]
    p50, p95 = (np.array([run[name] for run in runs]) for name in ("p50", "p95"))
    low, high = np.quantile(p95, (0.05, 0.95))
    return Predicted(float(p50.mean()), float(p95.mean()), float(low), float(high))


def corrected(
    problem: Problem, plan: Plan, times: Sequence[float], found: Mapping[Key, Drift]
) -> Predicted:
    """As `on_trace`, with profiles corrected by measured batch times."""
    return on_trace(corrected_problem(problem, found), plan, times)


def forecast(
    problem: Problem, plan: Plan, found: Mapping[Key, Drift], offered: tuple[str, float]
) -> Latency:
    """As `corrected`, on another, long draw of the process: what can be said before its arrivals are known."""
    times = process(*offered).sample(FORECAST_REQUESTS, np.random.default_rng(9))
    right = corrected_problem(problem, found)
    told = simulate(right, plan, SimulatedLoad(times=times.tolist())).latency_ms
    return Latency(told["p50"], told["p95"])


def busiest(plan: Plan, found: Mapping[Key, Drift]) -> tuple[str, float]:
    """The bottleneck: the device that the plan keeps busiest, by corrected profiles, and its share of time."""
    busy: dict[str, float] = defaultdict(float)
    for replica in plan.replicas:
        drifted = found.get(key_of(replica))
        slower = drifted.factor(replica.batch_size) if drifted is not None else 1.0
        busy[replica.device] += slower * replica.utilization
    return max(busy.items(), key=lambda one: one[1])
