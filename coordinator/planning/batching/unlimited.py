"""Batching with unlimited servers (serverless), exactly: waits, latency percentiles and cost.

A buffer opens with an arrival and is dispatched when it holds B requests or T seconds later; it never waits for a
server. With the counting matrices P_k and F_j of `counting`, phi the phase when a buffer opens, and b its final size:

* phi = phi S R with S = sum_{k <= B-2} P_k(T) + F_B(T);
* p_b = phi P_{b-1}(T) 1 for b < B, and p_B = phi F_B(T) 1;
* the expected members of a batch of b < B that waited at most w < T are
  G_b(w) = sum_{k=1}^{b-1} k phi P_{b-1-k}(T - w) P_k(w) 1, and the opener waits exactly T;
* of a full batch, H(w) = phi F_B(T) 1 + phi F_B(w) 1 + sum_{j=2}^{B-1} phi F_j(T - w) F_{B-j+1}(w) 1
  + sum_{k=0}^{B-3} (B - 2 - k) phi P_k(T - w) F_{B-k}(w) 1.

The latency of a member is its wait plus v_b, so memory only shifts the terms of a mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals, einsum, stationary
from coordinator.planning.batching.counting import CountingMatrices, count
from coordinator.planning.batching.waits import WaitGrid, WaitTable


@dataclass(frozen=True, eq=False)
class BatchLaw:
    """One batch size B and all timeouts: sizes and waits, before any service time.

    `sizes[t, b - 1]` is the probability that a batch has size b; `waits.counts[t, b - 1, j]` the expected members of
    a batch of size b, per batch, that waited at most `waits.grid` node j of timeout t.
    """

    batch_size: int
    sizes: Floats
    waits: WaitTable

    @property
    def mean_batch(self) -> Floats:
        """E[b]; shape (timeouts,)."""
        return self.sizes @ np.arange(1, self.batch_size + 1)

    def device_seconds(self, seconds: Floats) -> Floats:
        """Service time per request; (rows, >= B) -> (timeouts, rows)."""
        return self.sizes @ seconds[:, : self.batch_size].T / self.mean_batch[:, None]

    def percentiles(self, seconds: Floats, quantile: float) -> Floats:
        """Latency percentiles in seconds for rows of service times (rows, >= B); shape (timeouts, rows)."""
        return self.waits.percentiles(seconds[:, : self.batch_size], quantile)


class UnlimitedServers:
    """The law for one arrival process at every (B, T) of a grid; timeouts in seconds, in any order.

    `refine` multiplies the nodes at which waits are tabulated: 1 keeps percentiles within 0.05 %, 8 within 1e-5.
    """

    def __init__(
        self,
        process: MarkovianArrivals,
        batch_sizes: Sequence[int],
        timeouts_s: Sequence[float],
        refine: int = 1,
    ) -> None:
        self._timeouts = np.array(timeouts_s, dtype=float)
        self._largest = max(batch_sizes)
        longest = float(self._timeouts.max())
        self._grid = WaitGrid.for_scale(longest, process.peak_rate, refine)
        # Nodes are symmetric, so that T - w is a node as well and one set of counts serves both.
        times = self._timeouts[:, None] * self._grid.nodes
        self._counts = count(process, times, self._largest)
        self._process = process
        self._silent = self._counts.exactly.sum(axis=-1)
        self._filled = self._counts.at_least.sum(axis=-1)

    def law(self, batch_size: int) -> BatchLaw:
        """Sizes and waits for one batch size (at most the largest that was asked for)."""
        opening = _opening_phase(self._process, self._counts, batch_size)
        sizes = self._sizes(batch_size, opening)
        counts = self._waits(batch_size, opening)
        totals = sizes * np.arange(1, batch_size + 1)
        return BatchLaw(batch_size, sizes, WaitTable(self._grid, self._timeouts, counts, totals))

    def _sizes(self, batch_size: int, opening: Floats) -> Floats:
        short = einsum("tn,tkn->tk", opening, self._silent[:, -1, : batch_size - 1])
        full = einsum("tn,tn->t", opening, self._filled[:, -1, batch_size])
        sizes = np.concatenate([short, full[:, None]], axis=1).clip(0)
        return sizes / sizes.sum(axis=1, keepdims=True)

    def _waits(self, batch_size: int, opening: Floats) -> Floats:
        """Expected members per batch that waited at most each node; shape (timeouts, B, nodes)."""
        # Row vectors phi P_k(T - w) and phi F_j(T - w): nodes in reverse order.
        exactly = self._counts.exactly[:, ::-1, :batch_size]
        at_least = self._counts.at_least[:, ::-1, : batch_size + 1]
        before = einsum("ti,tjkil->tjkl", opening, exactly)
        reached = einsum("ti,tjkil->tjkl", opening, at_least)
        result = np.empty((len(self._timeouts), batch_size, len(self._grid.nodes)))
        short = members(before[:, :, : batch_size - 1], self._silent[:, :, : batch_size - 1])
        result[:, : batch_size - 1] = np.moveaxis(short, 2, 1)
        result[:, -1] = full_batches(before, reached, self._filled, opening, batch_size)
        return result


def _opening_phase(process: MarkovianArrivals, counts: CountingMatrices, batch_size: int) -> Floats:
    """The phase phi for each timeout; shape (timeouts, n)."""
    at_dispatch = (
        counts.exactly[:, -1, : max(batch_size - 1, 0)].sum(axis=1)
        + counts.at_least[:, -1, batch_size]
    )
    return stationary(at_dispatch @ process.after_arrival)


def members(before: Floats, silent: Floats) -> Floats:
    """sum_k k before_{m-k} silent_k for each m: of m arrivals, the expected number within the last w.

    `before[..., k, :]` are row vectors up to then and `silent[..., k, :]` = P_k(w) 1, both (..., M + 1, n); the result
    has shape (..., M + 1).
    """
    result = np.zeros(before.shape[:-1])
    for k in range(1, before.shape[-2]):
        ahead = before[..., : before.shape[-2] - k, :]
        result[..., k:] += k * einsum("...il,...l->...i", ahead, silent[..., k, :])
    return result


def full_batches(
    before: Floats, reached: Floats, filled: Floats, opening: Floats, batch_size: int
) -> Floats:
    """H(w): members of a batch that fills up, by their wait for that; shape (..., nodes).

    `before` = phi P_k(T - w), `reached` = phi F_j(T - w), `filled` = F_j(w) 1, all (..., nodes, k or j, n); the last
    node is w = T.
    """
    if batch_size == 1:
        return np.broadcast_to(opening.sum(axis=-1)[..., None], before.shape[:-2]).copy()
    last = einsum("...n,...n->...", opening, filled[..., -1, batch_size, :])[..., None]
    opener = einsum("...n,...jn->...j", opening, filled[..., :, batch_size, :])
    between = filled[..., batch_size - 1 : 1 : -1, :]
    middle = einsum("...kl,...kl->...", reached[..., 2:batch_size, :], between)
    weights = batch_size - 2.0 - np.arange(batch_size - 2)
    rest = filled[..., batch_size:2:-1, :]
    late = einsum("k,...kl,...kl->...", weights, before[..., : batch_size - 2, :], rest)
    return last + opener + middle + late
