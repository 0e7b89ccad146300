"""How long a grid takes: ours, and BATCH's solver as published, in one run on one machine."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

from bench.batching import published_solver
from bench.batching.data import MEMORIES, TIMEOUTS, Data
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.choice import Ceiling, SettingsGrid, choose
from coordinator.planning.batching.laws import law_for

HOURS = ("Twitter/1", "Twitter/24", "NYS/8", "NYS/16")


def ours(data: Data, batch_sizes: range, repeats: int = 5) -> dict[str, float]:
    """Median seconds per hour for the surface, the choice and its exact figures."""
    hours, grid = data.hours(), data.grid("TF-inceptionV4", batch_sizes)
    return {
        name: median(_seconds(lambda n=name: _answer(hours[n], grid)) for _ in range(repeats))
        for name in HOURS
    }


def published(data: Data) -> float:
    """Seconds of BATCH's solver for one hour on its own grid of 1,372 points."""
    process, seconds = (
        data.hours()["Twitter/1"],
        data.grid("TF-inceptionV4", range(20, 21)).service.seconds,
    )
    rows = {memory: row.tolist() for memory, row in zip(MEMORIES, seconds, strict=True)}
    return _seconds(lambda: published_solver.solve(process, rows.__getitem__, MEMORIES, TIMEOUTS))


def _answer(process: MarkovianArrivals, grid: SettingsGrid) -> None:
    law = law_for(process, None)
    choose(law, law.surface(grid, 0.95), Ceiling("latency", 12.0))


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
