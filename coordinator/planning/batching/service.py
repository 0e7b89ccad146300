"""What a batch takes and costs: service seconds by batch size (and, for a function, memory), and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.planning.batching.arrivals import Floats
from tiermesh import limits
from tiermesh.errors import InvalidDocument

MB_PER_GB = 1024.0
"""As the price lists of functions count."""


@dataclass(frozen=True, eq=False)
class ServiceTimes:
    """Deterministic seconds of a batch of 1, 2, .. `largest_batch` requests; shape (largest_batch,)."""

    seconds: Floats

    def __post_init__(self) -> None:
        seconds = np.array(self.seconds, dtype=float)
        if seconds.ndim != 1 or not 1 <= len(seconds) <= limits.BATCH_SIZE:
            raise _invalid(f"there are times for {seconds.size} batch sizes")
        if not np.isfinite(seconds).all() or (seconds <= 0).any():
            worst = int(np.argmin(np.where(np.isfinite(seconds), seconds, -np.inf))) + 1
            raise _invalid(f"a batch of {worst} takes {seconds[worst - 1]} s")
        object.__setattr__(self, "seconds", seconds)

    @classmethod
    def from_measured(cls, measured: Mapping[int, float]) -> ServiceTimes:
        """From measured batch sizes: linear in between, nothing beyond the largest.

        Where 1 was not measured, smaller batches take what the smallest measured one takes: a safe side, since
        the device pads or does less.
        """
        if not measured:
            raise _invalid("no batch size was measured")
        if min(measured) < 1 or max(measured) > limits.BATCH_SIZE:
            raise _invalid(f"batch sizes go from 1 to {limits.BATCH_SIZE}")
        sizes = sorted(measured)
        times = [measured[size] for size in sizes]
        return cls(np.interp(np.arange(1, sizes[-1] + 1), sizes, times))

    @property
    def largest_batch(self) -> int:
        """The largest batch for which a time is known."""
        return len(self.seconds)

    @property
    def falls(self) -> bool:
        """Whether some batch takes less than a smaller one: possible, but often a measuring error."""
        return bool((np.diff(self.seconds) < 0).any())

    def capacity(self, batch_size: int, servers: int = 1) -> float:
        """Requests per second that `servers` can serve in full batches."""
        return servers * batch_size / float(self.seconds[batch_size - 1])


@dataclass(frozen=True)
class ServicePrice:
    """What serving costs: by the GB-second and the call (a function), or by the hour of device time, or nothing."""

    usd_per_gb_second: float = 0.0
    usd_per_invocation: float = 0.0
    usd_per_hour: float = 0.0

    @property
    def free(self) -> bool:
        """Whether nothing is charged."""
        return not (self.usd_per_gb_second or self.usd_per_invocation or self.usd_per_hour)

    def per_request(self, device_seconds: Any, mean_batch: Any, memory_mb: Any = 0.0) -> Any:
        """US dollars per request, from its device time and the mean size of a batch; arrays or numbers."""
        gigabytes = memory_mb / MB_PER_GB
        per_second = gigabytes * self.usd_per_gb_second + self.usd_per_hour / 3600
        return device_seconds * per_second + self.usd_per_invocation / mean_batch


AWS_LAMBDA = ServicePrice(usd_per_gb_second=1.66667e-05, usd_per_invocation=2e-07)
"""The prices that BATCH (SC'20) used."""


@dataclass(frozen=True, eq=False)
class ServiceGrid:
    """Service times for each memory size that may be chosen; one row and no memory for a device.

    `seconds` has shape (len(memories_mb) or 1, largest batch).
    """

    seconds: Floats
    memories_mb: tuple[float, ...] = ()
    price: ServicePrice = ServicePrice()

    def __post_init__(self) -> None:
        for row in np.atleast_2d(self.seconds):
            ServiceTimes(row)
        if len(self.seconds) != max(1, len(self.memories_mb)):
            raise _invalid("there must be one row of times for each memory size")

    @classmethod
    def of_device(cls, times: ServiceTimes, price: ServicePrice = ServicePrice()) -> ServiceGrid:
        """A device: one row, priced by the hour if at all."""
        return cls(times.seconds[None, :], (), price)

    def at(self, row: int) -> ServiceTimes:
        """The times of one memory size."""
        return ServiceTimes(self.seconds[row])

    def memory_mb(self, row: int) -> float | None:
        """The memory size of a row; None for a device."""
        return self.memories_mb[row] if self.memories_mb else None


def polynomial_seconds(
    terms: Sequence[tuple[float, int, int]], batch_sizes: Floats, memories_mb: Floats
) -> Floats:
    """Sum of c k^i m^j over `terms` (c, i, j), the form BATCH published; shape (memories, batch sizes)."""
    k, m = np.asarray(batch_sizes, float)[None, :], np.asarray(memories_mb, float)[:, None]
    return np.sum([c * k**i * m**j for c, i, j in terms], axis=0)


def _invalid(why: str) -> InvalidDocument:
    return InvalidDocument(
        "these are not service times of batches",
        why=why,
        fix="Give positive seconds for batch sizes from 1 on, within the memory range that was measured",
    )
