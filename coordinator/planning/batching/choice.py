"""Choosing batch size, timeout and memory: the least cost within a latency, or the least latency within a cost.

A whole grid is evaluated first (`Surface`); the best points are then evaluated exactly, in order, until one holds what
is asked, so that what is chosen keeps its promise and not only its interpolation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from coordinator.planning.batching.arrivals import Floats
from coordinator.planning.batching.recursion import LatencyEstimate
from coordinator.planning.batching.service import ServiceGrid
from tiermesh.errors import Infeasible

_DOUBT: Final = 0.01
"""How far beyond its limit a point of the surface may lie and still be worth an exact look, if none within holds."""
_MOST_LOOKS: Final = 64


@dataclass(frozen=True, eq=False)
class SettingsGrid:
    """The settings to choose from: every batch size with every timeout and every row of `service`."""

    batch_sizes: tuple[int, ...]
    timeouts_s: tuple[float, ...]
    service: ServiceGrid

    @property
    def size(self) -> int:
        """How many settings there are."""
        return len(self.batch_sizes) * len(self.timeouts_s) * len(self.service.seconds)

    def setting(self, index: int) -> GridSetting:
        """The setting at a flat index of (batch size, timeout, row)."""
        shape = (len(self.batch_sizes), len(self.timeouts_s), len(self.service.seconds))
        b, t, row = (int(i) for i in np.unravel_index(index, shape))
        return GridSetting(self.batch_sizes[b], self.timeouts_s[t], row)


@dataclass(frozen=True)
class GridSetting:
    """A batch size, a timeout, and a row (memory size) of the service grid."""

    batch_size: int
    timeout_s: float
    row: int = 0


@dataclass(frozen=True, eq=False)
class Surface:
    """A percentile and the device time over a grid; arrays of shape (batch sizes, timeouts, rows).

    Where more arrives than can be served, the latency is infinite.
    """

    grid: SettingsGrid
    latency_s: Floats
    device_seconds: Floats
    mean_batch: Floats

    @property
    def cost(self) -> Floats:
        """US dollars per request; where nothing is charged, the device seconds per request instead."""
        service = self.grid.service
        if service.price.free:
            return self.device_seconds
        memory = np.array(service.memories_mb) if service.memories_mb else 0.0
        return service.price.per_request(self.device_seconds, self.mean_batch, memory)


@dataclass(frozen=True)
class GridPoint:
    """A setting with its own exact figures; `cost_per_request_usd` is the true mean."""

    setting: GridSetting
    memory_mb: float | None
    estimate: LatencyEstimate
    cost_per_request_usd: float


class Law(Protocol):
    """What a load does with a setting: roughly over a grid, and exactly at one of its points."""

    def surface(self, grid: SettingsGrid, quantile: float) -> Surface:
        """The percentile `quantile` and the device time over the grid."""
        ...

    def estimate(self, grid: SettingsGrid, setting: GridSetting) -> LatencyEstimate:
        """All figures of one setting; Infeasible where it has no steady state."""
        ...


@dataclass(frozen=True)
class Ceiling:
    """What must hold: a ceiling on the latency percentile in seconds, or on the cost per request in US dollars."""

    of: Literal["latency", "cost"]
    limit: float
    quantile: float = 0.95

    def value(self, point: GridPoint) -> float:
        """What the ceiling is on."""
        if self.of == "latency":
            return point.estimate.percentile(self.quantile)
        return point.cost_per_request_usd


@dataclass(frozen=True)
class GridChoice:
    """The chosen point and the numbers of points evaluated and found to meet the ask."""

    point: GridPoint
    evaluated: int
    feasible: int


def choose(law: Law, surface: Surface, ask: Ceiling) -> GridChoice:
    """The best point that holds what is asked.

    Raises:
        Infeasible: no point does; its fields hold `nearest`, the Point that comes nearest to the ask.
    """
    bounded, minimised = _bounded_and_minimised(surface, ask)
    feasible = int((bounded <= ask.limit).sum())
    within = bounded <= ask.limit
    in_doubt = (bounded <= ask.limit * (1 + _DOUBT)) & ~within
    for allowed in (within, in_doubt):
        for index in _in_order(allowed, minimised, bounded):
            point = _point(law, surface.grid, index)
            if point is not None and ask.value(point) <= ask.limit:
                return GridChoice(point, surface.grid.size, max(feasible, 1))
    raise _infeasible(law, surface, ask, bounded, minimised)


def point_at(law: Law, grid: SettingsGrid, setting: GridSetting) -> GridPoint:
    """A setting's own figures; Infeasible where it has no steady state."""
    found = law.estimate(grid, setting)
    memory = grid.service.memory_mb(setting.row)
    cost = grid.service.price.per_request(found.device_seconds, found.mean_batch, memory or 0.0)
    return GridPoint(setting, memory, found, float(cost))


def frontier(surface: Surface) -> list[tuple[GridSetting, float, float]]:
    """The settings that no other beats in both: (setting, latency, cost as of `Surface.cost`), cheapest first."""
    latency, cost = surface.latency_s.ravel(), surface.cost.ravel()
    best = np.inf
    kept: list[tuple[GridSetting, float, float]] = []
    for index in np.lexsort((latency, cost)):
        if latency[index] < best:
            best = float(latency[index])
            kept.append((surface.grid.setting(int(index)), best, float(cost[index])))
    return kept


def _bounded_and_minimised(surface: Surface, ask: Ceiling) -> tuple[Floats, Floats]:
    latency, cost = surface.latency_s.ravel(), surface.cost.ravel()
    if ask.of == "latency":
        return latency, cost
    # What is free costs nothing, whatever its device time.
    charged = np.zeros_like(cost) if surface.grid.service.price.free else cost
    return np.where(np.isfinite(latency), charged, np.inf), latency


def _in_order(allowed: npt.NDArray[np.bool_], minimised: Floats, bounded: Floats) -> Iterator[int]:
    """Indices that are allowed, best first; at most so many that a run ends soon."""
    indices = np.flatnonzero(allowed)
    order = indices[np.lexsort((bounded[indices], minimised[indices]))]
    yield from (int(i) for i in order[:_MOST_LOOKS])
    # Neighbours in cost mostly fail together: beyond the first looks, the surest of those that are left.
    rest = order[_MOST_LOOKS:]
    yield from (int(i) for i in rest[np.argsort(bounded[rest], kind="stable")][:_MOST_LOOKS])


def _point(law: Law, grid: SettingsGrid, index: int) -> GridPoint | None:
    try:
        return point_at(law, grid, grid.setting(index))
    except Infeasible:
        return None


def _infeasible(
    law: Law, surface: Surface, ask: Ceiling, bounded: Floats, minimised: Floats
) -> Infeasible:
    unit = "s" if ask.of == "latency" else "USD per request"
    what = f"no setting meets the {ask.of} within {ask.limit:g} {unit}"
    nearest = next(
        (
            point
            for index in _in_order(np.isfinite(bounded), bounded, minimised)
            if (point := _point(law, surface.grid, index)) is not None
        ),
        None,
    )
    if nearest is None:
        return Infeasible(
            what,
            why="more requests arrive than any setting can serve",
            fix="Allow larger batches, more servers or a faster device",
            nearest=None,
        )
    value = ask.value(nearest)
    return Infeasible(
        what,
        why=f"the closest that any of {surface.grid.size} settings reaches is {value:.6g} {unit}",
        fix=f"Ask for {value:.6g} {unit} or more, or widen the grid",
        nearest=nearest,
    )


def steps_between(first: float, last: float, step: float) -> tuple[float, ...]:
    """`first`, `first + step`, .. up to `last` (included where it falls on a step), free of summed rounding."""
    count = int(np.floor((last - first) / step + 1e-9)) + 1
    return tuple(round(first + i * step, 12) for i in range(count))
