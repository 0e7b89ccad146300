"""Batch sizes and timeouts to choose from: on a device kept busy to a level, and for a function.

On a device, each setting (B, T) is followed at the rate at which it keeps the device as busy as the level says (or at
all that is asked, where that is less): that gives its device time per item, and the mean seconds from arrival to
departure. Settings that another beats in both are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np

from coordinator.planning.batching.choice import SettingsGrid, frontier
from coordinator.planning.batching.laws import UnlimitedLaw
from coordinator.planning.batching.service import ServiceGrid, ServiceTimes
from coordinator.planning.figures import (
    Figures,
    FunctionSize,
    Offer,
    followed,
    mean_of,
    of_function,
)
from coordinator.planning.requests import Requests
from tiermesh.documents.problem import BatchTime, ProblemProfile, Serverless

PARTS: Final = (0.0, 0.5, 1.0)
"""Timeouts that are tried, in times of a full batch."""
SCREENED: Final = 0.95
"""The percentile by which settings of functions are compared."""
FUNCTION_PARTS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
FOLLOWED: Final = 1_000
ROUNDS: Final = 4
KEPT: Final = 4
"""Settings of one profile at a level, evenly along what is left of them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchSetting:
    """A batch size and timeout: device seconds per item, and the mean seconds of an item's stay."""

    batch: BatchTime
    timeout_s: float
    seconds: float
    stay_s: float


@dataclass(frozen=True, slots=True)
class FunctionSetting:
    """A function's memory size, batch size and timeout, with its mean price of an item and mean stay."""

    profile: ProblemProfile
    batch: BatchTime
    timeout_s: float
    usd_per_item: float
    stay_s: float


class Levels:
    """Settings of profiles on devices that are `busy` to a level; equal questions are answered once."""

    def __init__(self, requests: Requests, busy: float) -> None:
        self._requests, self._busy = requests, busy

    def of(self, batches: Sequence[BatchTime], items: float, usable: float) -> list[BatchSetting]:
        """The settings worth choosing from, where a request is `items` (mean) and `usable` of the time may be used."""
        busy = min(self._busy, usable)
        if self._requests.memoryless and len(batches) == 1:
            return [_by_formula(batches[0], busy)]
        times = tuple((b.batch_size, b.mean) for b in batches)
        found = _followed(self._requests, times, round(items, 3), busy)
        by_size = {b.batch_size: b for b in batches}
        return [BatchSetting(by_size[size], *rest) for size, *rest in found]


@lru_cache(maxsize=4096)
def _followed(
    requests: Requests, times: tuple[tuple[int, float], ...], items: float, busy: float
) -> list[tuple[int, float, float, float]]:
    """(batch size, timeout, device seconds per item, mean stay) of the settings worth choosing from."""
    batches = tuple(BatchTime(batch_size=size, mean=mean) for size, mean in times)
    found: list[tuple[int, float, float, float]] = []
    for size, mean in times:
        for part in PARTS if size > 1 else PARTS[:1]:
            offer = Offer(1.0, items, batches, size, part * mean)
            figures = _at_level(offer, requests, busy)
            found.append((size, offer.timeout_s, figures.seconds, mean_of(figures.sojourn)))
    return thinned(unbeaten(found, lambda f: (f[2], f[3])), KEPT)


def _at_level(offer: Offer, requests: Requests, busy: float) -> Figures:
    """Lower the share, from what full batches would allow, until the device is as busy as it may be."""
    asked = requests.rate_rps * offer.items
    full = offer.full
    share = min(1.0, busy * full.batch_size / full.mean / asked)
    figures = followed([replace(offer, share=share)], requests, FOLLOWED)[0]
    for _ in range(ROUNDS):
        fitting = busy / figures.seconds / asked
        if fitting >= share * 0.98:
            break
        share = min(share, fitting)
        figures = followed([replace(offer, share=share)], requests, FOLLOWED)[0]
    return figures


def _by_formula(batch: BatchTime, busy: float) -> BatchSetting:
    """One batch size: always full in the count, with the mean wait of M/D/1."""
    stay = batch.mean * (1 + busy / (2 * (1 - busy))) if busy < 1 else math.inf
    return BatchSetting(batch, 0.0, batch.mean / batch.batch_size, stay)


def of_functions(
    profiles: Sequence[ProblemProfile],
    terms: Serverless,
    requests: Requests,
    offered: Offered,
) -> list[FunctionSetting]:
    """The memory, batch size and timeout of a function for what it is offered, cheapest first.

    At most `offered.most` of those that no other beats in both price and latency.
    """
    by_memory = {p.memory_mb: p for p in profiles}
    times = tuple(
        (memory, tuple((b.batch_size, b.mean) for b in by_memory[memory].batches))
        for memory in sorted(by_memory)
    )
    found: list[FunctionSetting] = []
    for memory, size, timeout_s, price, stay_s in _functions(times, terms, requests, offered):
        batches = between(by_memory[memory].batches, size)
        batch = next(b for b in batches if b.batch_size == size)
        found.append(FunctionSetting(by_memory[memory], batch, timeout_s, price, stay_s))
    return sorted(found, key=lambda s: s.usd_per_item)


@dataclass(frozen=True, slots=True)
class Offered:
    """A share of the requests, of `items` (mean) each; how many settings to find, and the longest timeout."""

    share: float
    items: float
    most: int
    longest_s: float


@lru_cache(maxsize=4096)
def _functions(
    times: tuple[tuple[float, tuple[tuple[int, float], ...]], ...],
    terms: Serverless,
    requests: Requests,
    offered: Offered,
) -> list[tuple[float, int, float, float, float]]:
    """(memory, batch size, timeout, price of an item, mean stay) of each setting."""
    largest = min(max(size for size, _ in row) for _, row in times)
    sizes = sorted({size for _, row in times for size, _ in row if size <= largest})
    rows = np.array([ServiceTimes.from_measured(dict(row)).seconds[:largest] for _, row in times])
    memories = tuple(memory for memory, _ in times)
    grid = ServiceGrid(rows, memories, FunctionSize(1.0, terms).price)
    full = float(rows[:, -1].max())
    timeouts = sorted({min(part * full, offered.longest_s) for part in FUNCTION_PARTS})
    process = requests.as_process.thinned(offered.share)
    process = process.at_rate(process.rate * offered.items)
    found: list[tuple[float, int, float, float, float]] = []
    surface = UnlimitedLaw(process).surface(
        SettingsGrid(tuple(sizes), tuple(timeouts), grid), SCREENED
    )
    for setting, _, _ in thinned(frontier(surface), offered.most):
        memory, row = times[setting.row]
        batches = tuple(BatchTime(batch_size=size, mean=mean) for size, mean in row)
        size, timeout_s = setting.batch_size, setting.timeout_s if setting.batch_size > 1 else 0.0
        offer = Offer(offered.share, offered.items, between(batches, size), size, timeout_s)
        figures = of_function(offer, requests, FunctionSize(memory, terms))
        found.append((memory, size, timeout_s, figures.usd_per_item, mean_of(figures.sojourn)))
    return found


def between(batches: Sequence[BatchTime], size: int) -> tuple[BatchTime, ...]:
    """The batch sizes measured, with `size` among them: its mean lies between its neighbours'."""
    if any(b.batch_size == size for b in batches):
        return tuple(batches)
    times = ServiceTimes.from_measured({b.batch_size: b.mean for b in batches})
    return (*batches, BatchTime(batch_size=size, mean=float(times.seconds[size - 1])))


def unbeaten(found: Iterable[T], figures: Callable[[T], tuple[float, float]]) -> list[T]:
    """Those that no other is at least as good as in both figures, by the first of them."""
    kept: list[T] = []
    for one in sorted(found, key=figures):
        if not kept or figures(one)[1] < figures(kept[-1])[1] * (1 - 1e-9):
            kept.append(one)
    return kept


def thinned(found: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, evenly, the first and the last among them."""
    count = min(most, len(found))
    picked = {round(i * (len(found) - 1) / max(count - 1, 1)) for i in range(count)}
    return [found[i] for i in sorted(picked)]
