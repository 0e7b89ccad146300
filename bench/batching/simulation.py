"""An event simulation of batching, written against the policy's words and not against the laws it is to judge.

Events (an arrival, a timeout, a server that becomes free) are taken in order of time; after each, batches are started
while the policy allows it. Plain on purpose.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_TIMEOUT, _FREE = 0, 1


@dataclass(frozen=True)
class Simulated:
    """Latency of each request (s), in order of arrival; size of each batch; device seconds; the time that passed."""

    latencies_s: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int64]
    busy_s: float
    span_s: float

    def percentile(self, quantile: float) -> float:
        """A percentile of the latencies."""
        return float(np.quantile(self.latencies_s, quantile))


def simulate(
    arrivals: Sequence[float],
    seconds: Sequence[float],
    batch_size: int,
    timeout_s: float,
    servers: int | None = 1,
) -> Simulated:
    """Run the policy over `arrivals` (ascending seconds); `servers=None` is unlimited."""
    waiting: deque[int] = deque()
    events: list[tuple[float, int, int]] = []
    idle = float("inf") if servers is None else servers
    latencies = np.zeros(len(arrivals))
    sizes: list[int] = []
    expired, busy, now, coming = -1, 0.0, 0.0, 0
    while events or coming < len(arrivals):
        # Arrivals go first among equal times: who comes as a batch leaves is still taken along.
        if coming < len(arrivals) and (not events or arrivals[coming] <= events[0][0]):
            now = arrivals[coming]
            waiting.append(coming)
            heapq.heappush(events, (now + timeout_s, _TIMEOUT, coming))
            coming += 1
        else:
            now, kind, index = heapq.heappop(events)
            expired = max(expired, index) if kind == _TIMEOUT else expired
            idle += kind == _FREE
        while waiting and idle >= 1 and (len(waiting) >= batch_size or waiting[0] <= expired):
            taken = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            end = now + seconds[len(taken) - 1]
            for request in taken:
                latencies[request] = end - arrivals[request]
            sizes.append(len(taken))
            busy += seconds[len(taken) - 1]
            idle -= 1
            heapq.heappush(events, (end, _FREE, 0))
    return Simulated(latencies, np.array(sizes), busy, now - arrivals[0])
