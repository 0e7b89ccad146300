"""What is chosen over the 48 hours and three service models: cost, broken promises, and what letting B vary saves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.batching.data import MODELS, Data
from bench.batching.simulation import simulate
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.choice import (
    Ceiling,
    GridPoint,
    GridSetting,
    SettingsGrid,
    Surface,
    choose,
    point_at,
)
from coordinator.planning.batching.laws import law_for
from coordinator.planning.batching.published import published_choice
from tiermesh.errors import Infeasible, Unsupported

METHODS = ("BATCH", "exact, B = 20", "exact, B = 1 .. 20")
_LATENCY_FACTORS = (1.5, 2.0, 3.0)
"""Ceilings, over the least p95 that any setting with B = 20 has in the hour."""
_COST_FACTORS = (1.02, 1.1, 1.25)
"""Budgets, over the least mean cost of any setting with B = 20."""
_TOLERANCE = 0.005
"""How far a simulation may lie beyond an ask before it counts as broken."""


@dataclass(frozen=True)
class Outcome:
    """A method's choice for an hour, a model and an ask. `simulated` is what the ask is on, by event simulation."""

    method: str
    hour: str
    model: str
    ask: Ceiling
    point: GridPoint | None
    simulated: float | None
    why_none: str = ""

    @property
    def broken(self) -> bool:
        """Whether the simulation exceeds what was asked."""
        return self.simulated is not None and self.simulated > self.ask.limit * (1 + _TOLERANCE)


def outcomes(data: Data, hours: dict[str, MarkovianArrivals], arrivals: int) -> Iterator[Outcome]:
    """Every method's choice for each hour, model and ask."""
    for model in MODELS:
        fixed, free = data.grid(model, range(20, 21)), data.grid(model, range(1, 21))
        for hour, process in hours.items():
            law = law_for(process, None)
            surfaces = {
                "exact, B = 20": law.surface(fixed, 0.95),
                "exact, B = 1 .. 20": law.surface(free, 0.95),
            }
            for ask in _asks(surfaces["exact, B = 20"]):
                for method in METHODS:
                    try:
                        if method == "BATCH":
                            point = point_at(law, fixed, published_choice(process, fixed, ask))
                        else:
                            point = choose(law, surfaces[method], ask).point
                    except (Infeasible, Unsupported) as error:
                        yield Outcome(method, hour, model, ask, None, None, str(error))
                        continue
                    simulated = _simulated(process, fixed, point.setting, ask, arrivals)
                    yield Outcome(method, hour, model, ask, point, simulated)


def _asks(surface: Surface) -> list[Ceiling]:
    latency, cost = surface.latency_s, surface.cost
    limits = [Ceiling("latency", float(latency.min()) * factor) for factor in _LATENCY_FACTORS]
    return limits + [Ceiling("cost", float(cost.min()) * factor) for factor in _COST_FACTORS]


def _simulated(
    process: MarkovianArrivals,
    grid: SettingsGrid,
    setting: GridSetting,
    ask: Ceiling,
    arrivals: int,
) -> float:
    seconds = grid.service.seconds[setting.row]
    times = process.sample(arrivals, np.random.default_rng(23)).tolist()
    run = simulate(times, seconds.tolist(), setting.batch_size, setting.timeout_s, None)
    if ask.of == "latency":
        return run.percentile(ask.quantile)
    memory = grid.service.memory_mb(setting.row) or 0.0
    return float(grid.service.price.per_request(run.busy_s / arrivals, run.sizes.mean(), memory))
