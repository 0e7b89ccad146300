"""How far percentiles are from an event simulation: ours, and BATCH's where its method applies (B = 20)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.batching.data import DEVICE, OVERLOAD_BURSTS, THREE_PHASES, Data
from bench.batching.simulation import Simulated, simulate
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.choice import GridSetting, SettingsGrid
from coordinator.planning.batching.laws import law_for
from coordinator.planning.batching.published import published_figures
from coordinator.planning.batching.service import ServiceGrid, ServiceTimes

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Case:
    """A point to judge. `servers=None` is unlimited."""

    name: str
    process: MarkovianArrivals
    service: ServiceGrid
    batch_size: int
    timeout_s: float
    servers: int | None = None
    row: int = 0


@dataclass(frozen=True)
class Verdict:
    """Relative errors by quantile; `noise` are three standard errors of the simulation; BATCH's is at p95."""

    case: Case
    ours: dict[float, float]
    noise: dict[float, float]
    batch_p95: float | None


def unlimited_cases(data: Data) -> Iterator[Case]:
    """BATCH's trace points, the bursty processes, milliseconds, three phases, overload bursts."""
    hours, function = data.hours(), data.grid("TF-inceptionV4", range(20, 21)).service
    for name, timeout in (("Twitter/1", 0.4), ("Twitter/24", 0.1), ("NYS/1", 0.49), ("NYS/8", 0.1)):
        yield Case(name, hours[name], function, 20, timeout, row=15)
    for name, process in data.bursty().items():
        yield Case(name, process, function, 20, 0.3, row=15)
    device = ServiceGrid.of_device(DEVICE)
    for size in (4, 20):
        yield Case("Poisson 300/s, 4 + b ms", MarkovianArrivals.poisson(300.0), device, size, 0.02)
    yield Case("W14 x 5, 4 + b ms", data.bursty()["W14"].at_rate(325.0), device, 20, 0.02)
    yield Case("three phases", THREE_PHASES, ServiceGrid.of_device(_tenths()), 20, 0.2)
    yield Case("overload bursts, 4 + b ms", OVERLOAD_BURSTS, device, 20, 0.02)


def device_cases(data: Data) -> Iterator[Case]:
    """One device from light to heavy load; the last ones wait longer than a full batch takes."""
    device = ServiceGrid.of_device(DEVICE)
    for load in (0.3, 0.6, 0.85, 0.93):
        process = MarkovianArrivals.poisson(load * DEVICE.capacity(8))
        yield Case(f"Poisson, load {load:.2f}", process, device, 8, 0.01, servers=1)
    yield Case("overload bursts", OVERLOAD_BURSTS, device, 8, 0.01, servers=1)
    yield Case("W21, load 0.60", data.bursty()["W21"].at_rate(400.0), device, 8, 0.01, servers=1)
    for load in (0.6, 0.85):
        process = MarkovianArrivals.poisson(load * DEVICE.capacity(8))
        yield Case(f"Poisson, load {load:.2f}, T > v", process, device, 8, 0.02, servers=1)
    yield Case(
        "two devices, load 0.85",
        MarkovianArrivals.poisson(1.7 * DEVICE.capacity(8)),
        device,
        8,
        0.01,
        servers=2,
    )


def judge(case: Case, arrivals: int) -> Verdict:
    """Simulate and compare."""
    times = case.process.sample(arrivals, np.random.default_rng(11)).tolist()
    seconds = case.service.seconds[case.row].tolist()
    run = simulate(times, seconds, case.batch_size, case.timeout_s, case.servers)
    grid = SettingsGrid((case.batch_size,), (case.timeout_s,), case.service)
    found = law_for(case.process, case.servers).estimate(
        grid, GridSetting(case.batch_size, case.timeout_s, case.row)
    )
    return Verdict(
        case,
        {q: found.percentile(q) / run.percentile(q) - 1 for q in QUANTILES},
        {q: _noise(run, q) for q in QUANTILES},
        _batch_error(case, grid, run),
    )


def _batch_error(case: Case, grid: SettingsGrid, run: Simulated) -> float | None:
    if case.servers is not None or case.batch_size != 20 or case.process.phases != 2:
        return None
    seconds = case.service.seconds[case.row : case.row + 1, :20]
    timeouts = np.array([case.timeout_s])
    one = SettingsGrid(
        grid.batch_sizes, grid.timeouts_s, ServiceGrid(seconds, (), case.service.price)
    )
    latency, _ = published_figures(case.process, timeouts, seconds, one, 0.95)
    return float(latency[0, 0]) / run.percentile(0.95) - 1


def _noise(run: Simulated, quantile: float) -> float:
    """Three standard errors over the percentile, from 30 blocks."""
    by_block = [np.quantile(block, quantile) for block in np.array_split(run.latencies_s, 30)]
    return float(3 * np.std(by_block, ddof=1) / np.sqrt(30) / run.percentile(quantile))


def _tenths() -> ServiceTimes:
    return ServiceTimes(0.5 + 0.1 * np.arange(1, 21))
