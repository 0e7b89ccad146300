"""The choice that BATCH (Ali et al., SC'20) would make, by its own published method: the baseline to name and to beat.

Its restrictions and approximations, as its solver has them: B is 20; the phase in which a buffer opens is guessed from
the diagonals of D0 and D1; a request waits uniformly over [0, T]; the cost is that of a batch whose size is the asked
quantile of the sizes; percentiles are bisected to 10 ms; ties go to the first. Only two-phase processes work: it cannot
read a Poisson process, and its waits are stated to be wrong for three phases or more.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals, einsum
from coordinator.planning.batching.choice import Ceiling, GridSetting, SettingsGrid
from coordinator.planning.batching.counting import counting_matrices
from tiermesh.errors import Infeasible, Unsupported

BATCH_SIZE: Final = 20
_LONGEST_LATENCY_S: Final = 30.0
_RESOLUTION_S: Final = 0.01


def published_choice(process: MarkovianArrivals, grid: SettingsGrid, ask: Ceiling) -> GridSetting:
    """BATCH's choice over the timeouts and memory sizes of `grid`, at its batch size of 20.

    Raises:
        Unsupported: its method cannot be applied.
        Infeasible: by its own figures no setting holds what is asked.
    """
    _check(process, grid)
    seconds = grid.service.seconds[:, :BATCH_SIZE]
    timeouts = np.array(grid.timeouts_s)
    latency, cost = published_figures(process, timeouts, seconds, grid, ask.quantile)
    bounded, minimised = (latency, cost) if ask.of == "latency" else (cost, latency)
    allowed = bounded < ask.limit
    if not allowed.any():
        raise Infeasible("by its own figures, BATCH finds no setting")
    # Its loops run over memory first, and the first of equals stays.
    row, timeout = np.unravel_index(np.argmin(np.where(allowed, minimised, np.inf)), latency.shape)
    return GridSetting(BATCH_SIZE, grid.timeouts_s[int(timeout)], int(row))


def published_figures(
    process: MarkovianArrivals,
    timeouts: Floats,
    seconds: Floats,
    grid: SettingsGrid,
    quantile: float,
) -> tuple[Floats, Floats]:
    """BATCH's latency percentile (s) and cost per request (USD); each of shape (memory sizes, timeouts)."""
    sizes = _batch_sizes(process, timeouts)
    latency = _percentile(sizes, timeouts, seconds, _filling_time(process, timeouts), quantile)
    at = np.argmax(np.cumsum(sizes, axis=1) > quantile, axis=1)
    memory = np.array(grid.service.memories_mb)[:, None] if grid.service.memories_mb else 0.0
    cost = grid.service.price.per_request(seconds[:, at] / (at + 1), at + 1, memory)
    return latency, np.asarray(cost)


def _batch_sizes(process: MarkovianArrivals, timeouts: Floats) -> Floats:
    """Probability of each batch size; shape (timeouts, B)."""
    own, leaving = _own_and_leaving(process)
    per_visit = own / leaving
    filled = np.minimum(BATCH_SIZE, np.floor(own * timeouts[:, None] + 1))
    opening = per_visit / filled
    opening /= opening.sum(axis=1, keepdims=True)
    counts = counting_matrices(process, timeouts, BATCH_SIZE - 2).sum(axis=-1)
    short = einsum("tn,tkn->tk", opening, counts)
    return np.concatenate([short, 1 - short.sum(axis=1, keepdims=True)], axis=1)


def _own_and_leaving(process: MarkovianArrivals) -> tuple[Floats, Floats]:
    """Per phase, the rate of arrivals that keep it and the rate of everything that leaves it."""
    own: Floats = np.diag(process.d1).copy()
    return own, -np.diag(process.d0).astype(float) - own


def _filling_time(process: MarkovianArrivals, timeouts: Floats) -> Floats:
    """Its time tau to fill a buffer, cut at T; shape (timeouts,)."""
    if process.phases > 2:
        return timeouts
    own, leaving = _own_and_leaving(process)
    mean = (BATCH_SIZE - 1) * leaving.sum() / (own[0] * leaving[1] + own[1] * leaving[0])
    return np.minimum(mean, timeouts)


def _percentile(
    sizes: Floats, timeouts: Floats, seconds: Floats, filling: Floats, quantile: float
) -> Floats:
    seen = sizes * np.arange(1, BATCH_SIZE + 1)
    seen /= seen.sum(axis=1, keepdims=True)
    shape = (len(seconds), len(timeouts))
    low, high = np.zeros(shape), np.full(shape, _LONGEST_LATENCY_S)
    width = _LONGEST_LATENCY_S
    while width > _RESOLUTION_S:
        middle = (low + high) / 2
        below = _share_within(middle, seen, timeouts, seconds, filling) < quantile
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        width /= 2
    return (low + high) / 2


def _share_within(
    latency: Floats, seen: Floats, timeouts: Floats, seconds: Floats, filling: Floats
) -> Floats:
    """Its latency distribution at `latency` (memory sizes, timeouts)."""
    position = (latency[:, :, None] >= seconds[:, None, :]).sum(axis=2) - 1
    at = position.clip(0)
    row, column = np.arange(len(seconds))[:, None], np.arange(len(timeouts))[None, :]
    begun = latency - seconds[row, at]
    ahead = np.concatenate([np.zeros((len(seen), 1)), np.cumsum(seen, axis=1)], axis=1)[column, at]
    own = seen[column, at]
    spread = np.where(at == BATCH_SIZE - 1, filling[None, :], timeouts[None, :])
    share = ahead + own * np.where(begun <= timeouts[None, :], begun / spread, 1.0)
    share = np.where(latency > seconds.max(axis=1)[:, None] + filling[None, :], 1.0, share)
    return np.where(position < 0, 0.0, share)


def _check(process: MarkovianArrivals, grid: SettingsGrid) -> None:
    why = ""
    own, leaving = _own_and_leaving(process)
    if process.phases == 1:
        why = "it cannot read a process of one phase (Poisson)"
    elif (leaving <= 0).any():
        why = "it divides by the rate of leaving a phase, and one is never left"
    elif not own.any():
        why = "it divides by the rates of arrivals that keep their phase, and there are none"
    elif grid.service.seconds.shape[1] < BATCH_SIZE:
        why = (
            f"it fixes B at {BATCH_SIZE}, and times are known up to {grid.service.seconds.shape[1]}"
        )
    elif (np.diff(grid.service.seconds[:, :BATCH_SIZE]) <= 0).any():
        why = "it looks a latency up among service times that must grow with the batch"
    elif min(grid.timeouts_s) <= 0:
        why = "it divides by the timeout"
    if why:
        raise Unsupported("BATCH's published method cannot be applied", why=why)
