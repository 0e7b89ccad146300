"""The policy of a batcher, followed over given arrivals. Plain Python: a device without NumPy runs it as well."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heapreplace
from typing import Final, NamedTuple

_NEVER: Final = float("inf")


def follow(
    arrivals: Sequence[float],
    seconds: Sequence[float],
    batch_size: int,
    timeout_s: float,
    servers: int | None = 1,
) -> tuple[list[float], list[int]]:
    """When each batch starts and how many it takes.

    A batch starts when a server is free and either `batch_size` wait or the oldest has waited `timeout_s`; it takes
    what waits, up to `batch_size`, and holds the server for `seconds[size - 1]`.

    Args:
        arrivals: ascending, in seconds.
        seconds: service time of a batch of 1, 2, .. requests.
        batch_size: B, at least 1 and at most `len(seconds)`.
        timeout_s: T, at least 0.
        servers: how many batches may run at once; None is unlimited.
    """
    # The hottest loop of the planner: 1e5 arrivals in some tens of milliseconds. Indexing lists is five times faster
    # than indexing arrays; the padding spares a bounds check.
    starts: list[float] = []
    sizes: list[int] = []
    free = [-_NEVER] * (servers or 1)
    count, first = len(arrivals), 0
    padded = [*arrivals, *[_NEVER] * batch_size]
    while first < count:
        start = max(min(padded[first] + timeout_s, padded[first + batch_size - 1]), free[0])
        size = bisect_right(padded, start, first, first + batch_size) - first
        starts.append(start)
        sizes.append(size)
        if servers:
            heapreplace(free, start + seconds[size - 1])
        first += size
    return starts, sizes


class Queue(NamedTuple):
    """A replica's arrivals (ascending seconds), service seconds by batch size, and its setting."""

    arrivals: Sequence[float]
    seconds: Sequence[float]
    batch_size: int
    timeout_s: float


def follow_shared(queues: Sequence[Queue]) -> list[tuple[list[float], list[int]]]:
    """As `follow`, for replicas that take turns on one device: starts and sizes of each queue's batches.

    Whenever the device is free, of the queues whose batch may start the one with the oldest request goes first.
    """
    padded = [[*queue.arrivals, *[_NEVER] * queue.batch_size] for queue in queues]
    first = [0] * len(queues)
    runs: list[tuple[list[float], list[int]]] = [([], []) for _ in queues]
    ready = [_ready(times, 0, queue) for times, queue in zip(padded, queues, strict=True)]
    free = -_NEVER
    while (earliest := min(ready, default=_NEVER)) < _NEVER:
        start = max(earliest, free)
        chosen = min(
            (i for i in range(len(queues)) if ready[i] <= start), key=lambda i: padded[i][first[i]]
        )
        times, queue, at = padded[chosen], queues[chosen], first[chosen]
        size = bisect_right(times, start, at, at + queue.batch_size) - at
        runs[chosen][0].append(start)
        runs[chosen][1].append(size)
        free = start + queue.seconds[size - 1]
        first[chosen] += size
        ready[chosen] = _ready(times, first[chosen], queue)
    return runs


def _ready(times: list[float], first: int, queue: Queue) -> float:
    return min(times[first] + queue.timeout_s, times[first + queue.batch_size - 1])
