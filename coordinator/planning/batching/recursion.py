"""Batching on one device or c equal ones, by following the policy over given arrivals.

ready = min(t_i + T, t_{i+B-1}), start = max(free, ready) and size = min(B, arrived by start), with `free` the
earliest free server of c (`tiermesh.batching.policy`). Deterministic, so that candidates compared on the same arrivals
share their randomness. On 1e5 arrivals of a stationary process p95 comes within about 0.4 % and p99 within 1.3 % below
saturation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.planning.batching.arrivals import Floats
from coordinator.planning.batching.service import ServiceTimes
from tiermesh.batching.policy import follow
from tiermesh.errors import InvalidDocument

PERCENTILES = (0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class LatencyEstimate:
    """Latency percentiles (wait + service, seconds) and what the servers spend on them.

    `utilization` is the busy share of the servers; None for unlimited ones. `device_seconds` are per request.
    """

    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    utilization: float | None
    mean_batch: float
    device_seconds: float

    @classmethod
    def of(
        cls,
        quantile: Callable[[float], float],
        utilization: float | None,
        mean_batch: float,
        device_seconds: float,
    ) -> LatencyEstimate:
        """From a function that gives any percentile."""
        p50, p75, p90, p95, p99 = (quantile(q) for q in PERCENTILES)
        return cls(p50, p75, p90, p95, p99, utilization, mean_batch, device_seconds)

    def percentile(self, quantile: float) -> float:
        """One of the five; KeyError for any other."""
        return dict(
            zip(PERCENTILES, (self.p50, self.p75, self.p90, self.p95, self.p99), strict=True)
        )[quantile]


@dataclass(frozen=True, eq=False)
class Replay:
    """A run of the policy: `starts` and `sizes` by batch, `latencies_s` by request that counts.

    `busy_s` is the device time of all batches, `span_s` goes from the first arrival to the last departure.
    """

    starts: Floats
    sizes: npt.NDArray[np.int64]
    latencies_s: Floats
    busy_s: float
    span_s: float
    servers: int | None

    def percentile(self, quantile: float) -> float:
        """The least latency that a share of `quantile` of the requests stayed within."""
        rank = _rank(quantile, len(self.latencies_s))
        return float(np.partition(self.latencies_s, rank)[rank])

    @property
    def estimate(self) -> LatencyEstimate:
        """The figures that candidates are compared by."""
        ordered = np.sort(self.latencies_s)
        busy = None if self.servers is None else self.busy_s / (self.servers * self.span_s)
        per_request = self.busy_s / int(self.sizes.sum())
        mean = float(self.sizes.mean())
        return LatencyEstimate.of(
            lambda q: float(ordered[_rank(q, len(ordered))]), busy, mean, per_request
        )


def _rank(quantile: float, count: int) -> int:
    """The index of the least of `count` ordered values that a share of `quantile` does not exceed."""
    return min(max(int(np.ceil(quantile * count - 1e-9)), 1), count) - 1


def estimate(
    arrivals: Floats,
    service: ServiceTimes,
    batch_size: int,
    timeout_s: float,
    *,
    servers: int | None = 1,
    warmup: float = 0.0,
) -> LatencyEstimate:
    """What the policy (`batch_size`, `timeout_s`) does with `arrivals`; `servers=None` is unlimited.

    Args:
        arrivals: ascending times in seconds, shape (n,).
        service: times for at least `batch_size` requests.
        batch_size: B, at least 1.
        timeout_s: T, at least 0.
        servers: how many batches may run at once.
        warmup: the share of the requests, from the first on, that latencies do not count.

    Raises:
        InvalidDocument: no arrivals, or a batch size without a service time.
    """
    return replay(arrivals, service, batch_size, timeout_s, servers=servers, warmup=warmup).estimate


def replay(
    arrivals: Floats,
    service: ServiceTimes,
    batch_size: int,
    timeout_s: float,
    *,
    servers: int | None = 1,
    warmup: float = 0.0,
) -> Replay:
    """As `estimate`, with every batch and request."""
    _check(arrivals, service, batch_size, timeout_s, servers)
    if servers == 1 and batch_size == 1:
        starts = _lindley(arrivals, float(service.seconds[0]))
        sizes = np.ones(len(arrivals), dtype=np.int64)
    else:
        seconds = service.seconds.tolist()
        lists = follow(arrivals.tolist(), seconds, batch_size, timeout_s, servers)
        starts, sizes = np.array(lists[0]), np.array(lists[1], dtype=np.int64)
    held = service.seconds[sizes - 1]
    latencies = np.repeat(starts + held, sizes) - arrivals
    span = float((starts + held).max() - arrivals[0])
    counted = latencies[int(warmup * len(arrivals)) :]
    return Replay(starts, sizes, counted, float(held.sum()), span, servers)


def _lindley(arrivals: Floats, seconds: float) -> Floats:
    """Starts where every batch is one request: start_i = max(t_i, start_{i-1} + v), without a loop."""
    steps = seconds * np.arange(len(arrivals))
    return np.maximum.accumulate(arrivals - steps) + steps


def _check(
    arrivals: Floats, service: ServiceTimes, batch_size: int, timeout_s: float, servers: int | None
) -> None:
    why = ""
    if len(arrivals) == 0:
        why = "there are no arrivals"
    elif not 1 <= batch_size <= service.largest_batch:
        why = f"a batch of {batch_size} has no service time; the largest known is {service.largest_batch}"
    elif not timeout_s >= 0:
        why = f"the timeout is {timeout_s} s"
    elif servers is not None and servers < 1:
        why = f"there are {servers} servers"
    if why:
        raise InvalidDocument("batching cannot be estimated", why=why)
