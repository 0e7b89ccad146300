"""BATCH's solver, loop by loop, as it was published: the baseline for time, and the oracle for our fast form of it.

Transcribed from the method of Ali et al., "BATCH: Machine Learning Inference Serving on Serverless Platforms with
Adaptive Batching" (SC'20) and its published solver: a matrix exponential of the whole buffer at every step of a
bisection at every point of the grid. `coordinator.planning.batching.published` gives the same figures in array form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import expm  # pyright: ignore[reportUnknownVariableType]

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from coordinator.planning.batching.service import AWS_LAMBDA

BATCH_SIZE = 20


def solve(
    process: MarkovianArrivals,
    times: Callable[[float], Sequence[float]],
    memories: Sequence[float],
    timeouts: Sequence[float],
) -> tuple[Floats, Floats]:
    """p95 latency (s) and cost per request (USD) of every (memory, timeout)."""
    latency, cost = (
        np.zeros((len(memories), len(timeouts))),
        np.zeros((len(memories), len(timeouts))),
    )
    for i, memory in enumerate(memories):
        seconds = times(memory)
        for j, timeout in enumerate(timeouts):
            latency[i, j] = _percentile(process, seconds, timeout, 0.95)
            size = _quantile_of_sizes(_sizes(process, timeout), 0.95)
            cost[i, j] = AWS_LAMBDA.per_request(seconds[size - 1] / size, size, memory)
    return latency, cost


def _opening(process: MarkovianArrivals, timeout: float) -> list[float]:
    own = [float(process.d1[i, i]) for i in range(process.phases)]
    leaving = [-float(process.d0[i, i] + process.d1[i, i]) for i in range(process.phases)]
    weights = [
        (rate / leave) / min(BATCH_SIZE, math.floor(rate * timeout + 1))
        for rate, leave in zip(own, leaving, strict=True)
    ]
    return [weight / sum(weights) for weight in weights] + [0.0] * (
        process.phases * (BATCH_SIZE - 1)
    )


def _generator(process: MarkovianArrivals) -> Floats:
    n = process.phases
    q = np.zeros((n * BATCH_SIZE, n * BATCH_SIZE))
    for i in range(BATCH_SIZE - 1):
        q[i * n : (i + 1) * n, i * n : (i + 1) * n] = process.d0
        q[i * n : (i + 1) * n, (i + 1) * n : (i + 2) * n] = process.d1
    return q


def _sizes(process: MarkovianArrivals, timeout: float) -> list[float]:
    states = np.array(_opening(process, timeout)) @ expm(_generator(process) * timeout)
    n = process.phases
    sizes = [float(sum(states[i * n : (i + 1) * n])) for i in range(BATCH_SIZE - 1)]
    return [*sizes, 1 - sum(sizes)]


def _quantile_of_sizes(sizes: Sequence[float], quantile: float) -> int:
    reached = 0.0
    for i, share in enumerate(sizes):
        if reached < quantile < reached + share:
            return i + 1
        reached += share
    raise ValueError("BATCH's search for a quantile of the batch size ends without one")


def _share_within(
    process: MarkovianArrivals, seconds: Sequence[float], timeout: float, latency: float
) -> float:
    own = [float(process.d1[i, i]) for i in range(2)]
    leaving = [-float(process.d0[i, i] + process.d1[i, i]) for i in range(2)]
    tau = (BATCH_SIZE - 1) * sum(leaving) / (own[0] * leaving[1] + own[1] * leaving[0])
    weighted = [(i + 1) * share for i, share in enumerate(_sizes(process, timeout))]
    seen = [weight / sum(weighted) for weight in weighted]
    if latency < min(seconds):
        return 0.0
    if latency > max(seconds) + min(tau, timeout):
        return 1.0
    at = max(i for i in range(BATCH_SIZE) if latency >= seconds[i])
    if latency > seconds[at] + timeout:
        return sum(seen[: at + 1])
    spread = min(tau, timeout) if at == BATCH_SIZE - 1 else timeout
    return (latency - seconds[at]) / spread * seen[at] + sum(seen[:at])


def _percentile(
    process: MarkovianArrivals, seconds: Sequence[float], timeout: float, quantile: float
) -> float:
    low, high = 0.0, 30.0
    middle = (low + high) / 2
    reached = _share_within(process, seconds, timeout, middle)
    while high - low > 0.01:
        if reached < quantile:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
        reached = _share_within(process, seconds, timeout, middle)
    return middle
