"""How long a request takes, from profiles: percentiles of each replica's time, and of the way from end to end.

`sojourn` is what one replica adds. It needs a profile only: the profile's percentiles for
the service, and for the wait an M/G/1 queue's mean (Pollaczek and Khinchine) with an exponential tail. Percentiles do
not add, so the end-to-end distribution is drawn from the replicas' by a fixed low-discrepancy sequence: no chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.planning.service_times import curve
from tiermesh.documents.problem import BatchTime
from tiermesh.documents.workflow import PERCENTILES

Seconds: TypeAlias = NDArray[np.float64]

SATURATED: Final = 0.995
"""A device busier than this is counted as this busy: beyond it no wait is bounded."""


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """What a device's one compute lane is asked to do, all replicas together.

    `busy` is the share of its time; `second_moment` is that of a batch's time, in seconds squared, and
    `batches_per_second` their rate.
    """

    busy: float
    batches_per_second: float
    second_moment: float


def sojourn(batch: BatchTime, load: LaneLoad, at: Seconds) -> Seconds:
    """Seconds from arrival to departure at the quantiles `at` (0 to 1), on a device under `load`.

    Wait and service are taken at the same quantile, which errs on the long side.
    """
    return service(batch, at) + wait(load, at)


def service(batch: BatchTime, at: Seconds) -> Seconds:
    """The quantile function of a batch's device time."""
    return np.interp(at, *curve(batch))


def wait(load: LaneLoad, at: Seconds) -> Seconds:
    """The quantile function of the wait for a free device: 0 up to 1 - busy, then exponential."""
    busy = min(load.busy, SATURATED)
    if busy <= 0 or load.batches_per_second <= 0:
        return np.zeros_like(at)
    mean = load.batches_per_second * load.second_moment / (2 * (1 - busy))
    tail = np.maximum(1 - at, 1e-6) / busy
    return np.where(tail < 1, -np.log(np.minimum(tail, 1.0)) * mean / busy, 0.0)


SAMPLES: Final = 4096
LEVELS: Final = tuple(PERCENTILES.items())


def spread_points(count: int, dimensions: int) -> Seconds:
    """Points of (0, 1)^dimensions that fill it evenly: the additive recurrence of Roberts (2018)."""
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (dimensions + 1))
    steps = np.power(1 / phi, np.arange(1, dimensions + 1))
    return (0.5 + np.outer(np.arange(1, count + 1), steps)) % 1.0


def quantiles(values: Seconds) -> dict[str, float]:
    """The percentiles of samples by name, in their unit."""
    return {name: float(np.quantile(values, level)) for name, level in LEVELS}
