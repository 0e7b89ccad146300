"""The latency of a request on one device, from the chain's law at the starts of service.

An arrival waits w until the next start. If it then stands in the r-th block of B in the queue, it waits r v_B more, and
its own batch of s takes v_s: the law is a mixture of waits w, shifted by r v_B + v_s. What is counted, per start of
service, are the expected arrivals with at most each wait:

* during a service that leaves some waiting, and during one that leaves none but gathers B: all that arrive in v;
* during one that leaves none, where fewer than B gather: the next start is the first arrival's time plus T, if that is
  later than the end; with d = max(v - T, 0) it is later exactly when nothing arrives within d. Those paths are removed
  and counted from the buffer's opening on, as with unlimited servers, less those that fill up before the service ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals, einsum
from coordinator.planning.batching.counting import count, counting_matrices, most_arrivals
from coordinator.planning.batching.rounds import Rounds
from coordinator.planning.batching.service import ServiceTimes
from coordinator.planning.batching.unlimited import full_batches, members
from coordinator.planning.batching.waits import WaitGrid, WaitTable

_NEGLIGIBLE = 1e-12
"""Expected requests per batch that the mixture may leave out, per group."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Groups of requests (one row of `table`), each with its own shift in seconds; shape (groups,)."""

    table: WaitTable
    shifts: Floats

    def percentile(self, quantile: float) -> float:
        """The least latency in seconds that a share of `quantile` stays within."""
        return float(self.table.percentiles(self.shifts[None, :], quantile)[0, 0])

    def share_within(self, latency_s: float) -> float:
        """The share of requests whose latency is at most `latency_s`."""
        return float(self.table.shares(np.array([[latency_s]]), self.shifts[None, :])[0, 0])


def latency_mixture(
    process: MarkovianArrivals,
    service: ServiceTimes,
    batch_size: int,
    timeout_s: float,
    queue: Floats,
) -> Mixture:
    """The law of the latency; `queue` (N, n) is that of `chain.SingleServer`."""
    seconds = service.seconds[:batch_size]
    span = max(float(seconds.max()), timeout_s)
    grid = WaitGrid.for_scale(span, process.peak_rate)
    tally = _Tally(process, seconds, timeout_s, queue, grid.nodes * span)
    atoms = tally.fill()
    by_round = tally.rounds.by_size(process, float(seconds[-1]))
    delays = np.arange(by_round.shape[1])[:, None] * seconds[-1]
    shifts = np.concatenate([(delays + seconds).ravel(), timeout_s + seconds])
    counts = np.concatenate(
        [by_round.reshape(len(by_round), -1), np.tile(atoms, (len(by_round), 1))], axis=1
    )
    counts = np.maximum.accumulate(counts.clip(0), axis=0)
    kept = counts[-1] > _NEGLIGIBLE
    table = WaitTable(grid, np.array([span]), counts[:, kept].T[None], counts[-1:, kept])
    return Mixture(table, shifts[kept])


class _Tally:
    """Adds up the kinds of arrivals; each method takes one."""

    def __init__(
        self,
        process: MarkovianArrivals,
        seconds: Floats,
        timeout_s: float,
        queue: Floats,
        waits: Floats,
    ) -> None:
        self._process, self._seconds, self._timeout = process, seconds, timeout_s
        self._queue, self._waits, self._size = queue, waits, len(seconds)
        longest = len(queue) + most_arrivals(process, float(seconds[-1]))
        self.rounds = Rounds(self._size, longest // self._size + 1, len(waits), process.phases)

    def fill(self) -> Floats:
        """Count everything; returns the openers that wait exactly T, by batch size; shape (B,)."""
        self._left_behind()
        for size in range(1, self._size + 1):
            self._next_at_once(size)
            self._not_at_once(size)
        return self._opened()

    def _left_behind(self) -> None:
        seconds = float(self._seconds[-1])
        nodes = np.minimum(self._waits, seconds)
        left = self._queue[self._size :]
        most, n = most_arrivals(self._process, seconds), self._process.phases
        ahead = counting_matrices(self._process, seconds - nodes, most)
        # waiting[w, a] = sum_l left_l P_{a-l}(v - w), a = 1 ..: windows of `left` times all matrices at once.
        padded = np.concatenate([np.zeros((most, n)), left, np.zeros((most, n))])
        windows = np.lib.stride_tricks.sliding_window_view(padded, most + 1, axis=0)
        flat = windows[:, :, ::-1].transpose(0, 2, 1).reshape(len(windows), -1)
        columns = ahead.reshape(len(nodes), -1, n).transpose(1, 0, 2).reshape(flat.shape[1], -1)
        waiting = (flat @ columns).reshape(len(windows), len(nodes), n).transpose(1, 0, 2)
        waiting = np.concatenate([np.zeros((len(nodes), 1, n)), waiting], axis=1)
        self.rounds.add(waiting, counting_matrices(self._process, nodes, most))

    def _next_at_once(self, size: int) -> None:
        seconds = float(self._seconds[size - 1])
        nodes = np.minimum(self._waits, seconds)
        most = max(most_arrivals(self._process, seconds), self._size)
        ahead = counting_matrices(self._process, seconds - nodes, most)
        waiting = einsum("i,wkij->wkj", self._queue[size - 1], ahead)
        self.rounds.add(waiting, counting_matrices(self._process, nodes, most))

    def _not_at_once(self, size: int) -> None:
        """Remove what `_next_at_once` counted of paths whose next start is later than the end of service.

        Of those that fill up before the end, what `_opened` will count is removed, too.
        """
        y = min(float(self._seconds[size - 1]), self._timeout)
        silence = np.array(float(self._seconds[size - 1]) - y)
        nodes = np.minimum(self._waits, y)
        vector = self._queue[size - 1] @ counting_matrices(self._process, silence, 0)[0]
        early, late = (
            count(self._process, y - nodes, self._size),
            count(self._process, nodes, self._size),
        )
        before = einsum("i,wkij->wkj", vector, early.exactly)
        reached = einsum("i,wkij->wkj", vector, early.at_least)
        silent, filled = late.exactly.sum(axis=-1), late.at_least.sum(axis=-1)
        gathered = members(before[:, : self._size], silent[:, : self._size])
        self.rounds.first[:, : self._size - 1] -= gathered[:, 1:]
        self.rounds.first[:, self._size - 1] -= _filled_early(before, reached, filled, self._size)

    def _opened(self) -> Floats:
        size, timeout = self._size, self._timeout
        silence = np.maximum(self._seconds - timeout, 0.0)
        silent = counting_matrices(self._process, silence, 0)[:, 0]
        opening = einsum("bi,bij->j", self._queue[:size], silent) @ self._process.after_arrival
        nodes = np.minimum(self._waits, timeout)
        ahead, behind = (
            count(self._process, timeout - nodes, size),
            count(self._process, nodes, size),
        )
        before = einsum("i,wkij->wkj", opening, ahead.exactly)
        reached = einsum("i,wkij->wkj", opening, ahead.at_least)
        silent_after, filled = behind.exactly.sum(axis=-1), behind.at_least.sum(axis=-1)
        self.rounds.first[:, size - 1] += full_batches(before, reached, filled, opening, size)
        short = members(before[:, : size - 1], silent_after[:, : size - 1])
        self.rounds.first[:, : size - 1] += short
        atoms = np.zeros(size)
        atoms[: size - 1] = before[0, : size - 1].sum(axis=-1)
        return atoms


def _filled_early(before: Floats, reached: Floats, filled: Floats, size: int) -> Floats:
    """Members of a buffer that fills within y, with at most each wait for the filling; shape (nodes,).

    sum_{j=1}^{B} eta F_{j+1}(y-w) F_{B-j+1}(w) 1 + sum_{i<B} (B-i) eta P_i(y-w) F_{B-i+1}(w) 1: the j-th came before
    y - w and the buffer filled within w of it, or it came later and the buffer filled by y.
    """
    weights = size - np.arange(size, dtype=float)
    arrived = einsum("wjl,wjl->w", reached[:, 2 : size + 2], filled[:, size:0:-1])
    late = einsum("k,wkl,wkl->w", weights, before[:, :size], filled[:, size + 1 : 1 : -1])
    return arrived + late
