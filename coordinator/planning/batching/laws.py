"""The laws as `choice` uses them: unlimited servers, one or more devices, and a recorded trace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from coordinator.planning.batching.chain import SingleServer
from coordinator.planning.batching.choice import GridSetting, Law, SettingsGrid, Surface
from coordinator.planning.batching.recursion import LatencyEstimate, replay
from coordinator.planning.batching.unlimited import UnlimitedServers
from tiermesh.errors import Infeasible, Unsupported

_REFINE: Final = 8
SCREENING_ARRIVALS: Final = 20_000
"""Drawn once for a whole grid on devices: p95 within about 1 %, at a few milliseconds a point."""
_FEWEST_SCREENING: Final = 4_000
_FOLLOWED_IN_ALL: Final = 40_000_000
"""Arrivals times settings: a large grid is screened with fewer arrivals, in about half a minute at most."""
VERIFYING_ARRIVALS: Final = 1_000_000
_LARGEST_SOLVED: Final = 64
"""The chain's time grows with the square of the batch size: 2 s for this one."""
_WARMUP: Final = 0.02
_SEED: Final = 20_201_115


def law_for(process: MarkovianArrivals, servers: int | None) -> Law:
    """The law of a stationary process on `servers` (None: unlimited)."""
    return UnlimitedLaw(process) if servers is None else DeviceLaw(process, servers)


@dataclass(frozen=True, eq=False)
class UnlimitedLaw:
    """Unlimited servers, exactly."""

    process: MarkovianArrivals

    def surface(self, grid: SettingsGrid, quantile: float) -> Surface:
        """See `choice.Law`."""
        servers = UnlimitedServers(self.process, grid.batch_sizes, grid.timeouts_s)
        seconds = grid.service.seconds
        laws = [servers.law(size) for size in grid.batch_sizes]
        latency = np.stack([law.percentiles(seconds, quantile) for law in laws])
        device = np.stack([law.device_seconds(seconds) for law in laws])
        mean_batch = np.stack([law.mean_batch for law in laws])[:, :, None]
        return Surface(grid, latency, device, np.broadcast_to(mean_batch, device.shape))

    def estimate(self, grid: SettingsGrid, setting: GridSetting) -> LatencyEstimate:
        """See `choice.Law`."""
        size, seconds = setting.batch_size, grid.service.seconds[setting.row][None, :]
        law = UnlimitedServers(self.process, [size], [setting.timeout_s], _REFINE).law(size)
        mean, device = float(law.mean_batch[0]), float(law.device_seconds(seconds)[0, 0])
        return LatencyEstimate.of(
            lambda q: float(law.percentiles(seconds, q)[0, 0]), None, mean, device
        )


@dataclass(frozen=True, eq=False)
class DeviceLaw:
    """One device or c equal ones: the grid by recursion over common arrivals, one setting exactly where that can be.

    One device with T <= v_B is solved by its chain; other settings are followed over 1e6 arrivals.
    """

    process: MarkovianArrivals
    servers: int

    @cached_property
    def _screening(self) -> Floats:
        return self.process.sample(SCREENING_ARRIVALS, np.random.default_rng(_SEED))

    @cached_property
    def _verifying(self) -> Floats:
        return self.process.sample(VERIFYING_ARRIVALS, np.random.default_rng(_SEED + 1))

    def surface(self, grid: SettingsGrid, quantile: float) -> Surface:
        """See `choice.Law`."""
        return _followed(grid, quantile, self._screening, self.servers, self.process.rate)

    def estimate(self, grid: SettingsGrid, setting: GridSetting) -> LatencyEstimate:
        """See `choice.Law`."""
        service, size, timeout = grid.service.at(setting.row), setting.batch_size, setting.timeout_s
        if self.process.rate >= service.capacity(size, self.servers):
            raise Infeasible(f"{self.process.rate:.4g} requests/s are more than can be served")
        exact = self.servers == 1 and timeout <= service.seconds[size - 1]
        if exact and size <= _LARGEST_SOLVED:
            try:
                return SingleServer(self.process, service, size, timeout).estimate
            except Unsupported:
                pass  # queues too long to solve for: follow them instead
        found = replay(
            self._verifying, service, size, timeout, servers=self.servers, warmup=_WARMUP
        )
        return found.estimate


@dataclass(frozen=True, eq=False)
class TraceLaw:
    """A recorded trace: settings are followed over the trace itself.

    With unlimited servers the grid comes from the law of the process fitted to it; on devices from its first arrivals.
    """

    arrivals: Floats
    fitted: MarkovianArrivals
    servers: int | None

    def surface(self, grid: SettingsGrid, quantile: float) -> Surface:
        """See `choice.Law`."""
        if self.servers is None:
            return UnlimitedLaw(self.fitted).surface(grid, quantile)
        middle = max(0, (len(self.arrivals) - SCREENING_ARRIVALS) // 2)
        window = self.arrivals[middle : middle + SCREENING_ARRIVALS]
        return _followed(grid, quantile, window, self.servers, self.fitted.rate)

    def estimate(self, grid: SettingsGrid, setting: GridSetting) -> LatencyEstimate:
        """See `choice.Law`."""
        service = grid.service.at(setting.row)
        followed = replay(
            self.arrivals, service, setting.batch_size, setting.timeout_s, servers=self.servers
        )
        return followed.estimate


def _followed(
    grid: SettingsGrid, quantile: float, arrivals: Floats, servers: int, rate: float
) -> Surface:
    most = max(_FEWEST_SCREENING, _FOLLOWED_IN_ALL // grid.size)
    arrivals = arrivals[:most]
    shape = (len(grid.batch_sizes), len(grid.timeouts_s), len(grid.service.seconds))
    latency, device, mean = np.full(shape, np.inf), np.full(shape, np.inf), np.ones(shape)
    for index in range(grid.size):
        setting = grid.setting(index)
        service = grid.service.at(setting.row)
        if rate >= service.capacity(setting.batch_size, servers):
            continue
        run = replay(arrivals, service, setting.batch_size, setting.timeout_s, servers=servers)
        at = np.unravel_index(index, shape)
        latency[at] = run.percentile(quantile)
        device[at] = run.busy_s / int(run.sizes.sum())
        mean[at] = run.sizes.mean()
    return Surface(grid, latency, device, mean)
