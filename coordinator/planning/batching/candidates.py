"""What the planner takes from batching: settings (B, T) of a replica with their device time and percentiles.

    arrivals = draw(Map.poisson(12.0).thinned(0.4))          # what a replica with 40 % of the requests sees
    candidates(arrivals, ServiceTimes.from_measured({1: 0.02, 4: 0.05}))

Deterministic: `draw` has a fixed seed, so all candidates meet the same arrivals and differ by their settings alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator.planning.batching.arrivals import Floats, Map
from coordinator.planning.batching.choice import Grid, Point, Setting, frontier, point_at
from coordinator.planning.batching.laws import UnlimitedLaw
from coordinator.planning.batching.recursion import Estimate, Replay, estimate
from coordinator.planning.batching.service import ServiceGrid, ServiceTimes
from tiermesh.batching.policy import Queue, follow_shared

ARRIVALS: Final = 20_000
"""Enough to rank candidates (p95 within about 1 %); take 100,000 to predict."""
_SEED: Final = 20_201_115
_WARMUP: Final = 0.02
_PARTS_OF_A_BATCH: Final = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Candidate:
    """A setting of a replica; `estimate.device_seconds` is per request at this load, so larger batches show as less."""

    batch_size: int
    timeout_s: float
    estimate: Estimate


def draw(process: Map, count: int = ARRIVALS) -> Floats:
    """The common arrivals of all candidates: `count` times in seconds, always the same for the same process."""
    return process.sample(count, np.random.default_rng(_SEED))


def share_of(arrivals: Floats, share: float) -> Floats:
    """What a lane with `share` of the requests sees of a record: each with that chance, always the same ones."""
    return arrivals[np.random.default_rng(_SEED).random(len(arrivals)) < share]


def candidates(
    arrivals: Floats,
    service: ServiceTimes,
    *,
    batch_sizes: Iterable[int] | None = None,
    timeouts_s: Sequence[float] | None = None,
    servers: int = 1,
) -> list[Candidate]:
    """Settings that no other beats in both device time and p95, least device time first; empty if none keeps up.

    Args:
        arrivals: ascending seconds: `draw`, or the last window's own.
        service: the replica's times.
        batch_sizes: which to try; by default 1, 2, 4, .. and the largest.
        timeouts_s: which to try with each; by default none, a quarter, half and all of a full batch's time.
        servers: equal devices behind one queue.
    """
    rate = (len(arrivals) - 1) / max(float(arrivals[-1] - arrivals[0]), 1e-300)
    found: list[Candidate] = []
    for size in batch_sizes or _doubling(service.largest_batch):
        if rate >= service.capacity(size, servers):
            continue
        full = float(service.seconds[size - 1])
        timeouts = timeouts_s if timeouts_s is not None else [p * full for p in _PARTS_OF_A_BATCH]
        for timeout in timeouts[:1] if size == 1 else timeouts:
            figures = estimate(arrivals, service, size, timeout, servers=servers, warmup=_WARMUP)
            found.append(Candidate(size, timeout, figures))
    return _unbeaten(found)


def estimate_shared(queues: Sequence[Queue], warmup: float = _WARMUP) -> list[Estimate]:
    """Figures of each replica where several take turns on one device; `utilization` is each one's own share of it.

    Each queue is (arrivals, seconds, batch_size, timeout_s), see `policy.Queue`.
    """
    runs = follow_shared(queues)
    ends = [
        s + q.seconds[n - 1]
        for q, run in zip(queues, runs, strict=True)
        for s, n in zip(*run, strict=True)
    ]
    span = max(ends) - min(queue.arrivals[0] for queue in queues)
    return [_replayed(q, run, span, warmup) for q, run in zip(queues, runs, strict=True)]


def serverless_candidates(
    process: Map,
    service: ServiceGrid,
    batch_sizes: Sequence[int],
    timeouts_s: Sequence[float],
    *,
    quantile: float = 0.95,
    most: int = 16,
) -> list[Point]:
    """Settings (with memory) of a function that none beats in both cost and latency, cheapest first, exact.

    At most `most` of them, evenly along the frontier. A function has no queue for a server: its cost is per request
    (`cost_per_request_usd`, x rate x 3600 per hour), and what a plan sends there in bursts is a share of the process
    (`Map.thinned`).
    """
    grid, law = Grid(tuple(batch_sizes), tuple(timeouts_s), service), UnlimitedLaw(process)
    return [point_at(law, grid, setting) for setting in _along_frontier(grid, law, quantile, most)]


def serverless_settings(
    process: Map,
    service: ServiceGrid,
    batch_sizes: Sequence[int],
    timeouts_s: Sequence[float],
    *,
    quantile: float = 0.95,
    most: int = 16,
) -> list[Setting]:
    """The settings of `serverless_candidates` alone, for those who work the figures out themselves."""
    grid, law = Grid(tuple(batch_sizes), tuple(timeouts_s), service), UnlimitedLaw(process)
    return _along_frontier(grid, law, quantile, most)


def _along_frontier(grid: Grid, law: UnlimitedLaw, quantile: float, most: int) -> list[Setting]:
    best = frontier(law.surface(grid, quantile))
    count = min(most, len(best))
    picked = {round(i * (len(best) - 1) / max(count - 1, 1)) for i in range(count)}
    return [best[i][0] for i in sorted(picked)]


def _replayed(
    queue: Queue, run: tuple[list[float], list[int]], span: float, warmup: float
) -> Estimate:
    starts, sizes = np.array(run[0]), np.array(run[1], dtype=np.int64)
    held = np.array(queue.seconds)[sizes - 1]
    latencies = np.repeat(starts + held, sizes) - np.array(queue.arrivals)
    counted = latencies[int(warmup * len(latencies)) :]
    return Replay(starts, sizes, counted, float(held.sum()), span, 1).estimate


def _doubling(largest: int) -> list[int]:
    sizes = [2**i for i in range(largest.bit_length()) if 2**i <= largest]
    return sizes if sizes[-1] == largest else [*sizes, largest]


def _unbeaten(found: Sequence[Candidate]) -> list[Candidate]:
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.estimate.device_seconds, c.estimate.p95)):
        if not kept or candidate.estimate.p95 < kept[-1].estimate.p95:
            kept.append(candidate)
    return kept
