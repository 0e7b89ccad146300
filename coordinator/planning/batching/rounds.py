"""Sorting a queue into the rounds of B in which it will be served, and into batch sizes."""

from __future__ import annotations

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals, einsum
from coordinator.planning.batching.counting import counting_matrices

_CHUNK = 4_000_000
"""Floats gathered at once."""


class Rounds:
    """Expected arrivals with at most each wait (nodes), by round r and the size of their batch.

    `first[w, s-1]`: served at the next start, in a batch of s. `full[w, r]`: in round r, which is full already.
    `partial[w, r, q-1]` (phase at the next start): in round r, which has q < B so far; who comes in the r v_B until it
    is taken will join it.
    """

    def __init__(self, batch_size: int, rounds: int, nodes: int, phases: int) -> None:
        self.first = np.zeros((nodes, batch_size))
        self._full = np.zeros((nodes, rounds))
        self._partial = np.zeros((nodes, rounds, batch_size - 1, phases))
        self._size = batch_size

    def add(self, waiting: Floats, during: Floats) -> None:
        """Count the k arrivals of the last w before a start at which a + k wait.

        Args:
            waiting: (nodes, A + 1, n), the weight of a waiting and of the phase at w before the start.
            during: (nodes, K + 1, n, n), P_k(w).
        """
        size, most = self._size, during.shape[1] - 1
        rounds = min((waiting.shape[1] - 1 + most) // size + 1, self._full.shape[1])
        # Positions -most .. rounds * B, so that every window of `most` lies inside.
        padding = ((0, 0), (most, max(0, rounds * size + 1 - waiting.shape[1])), (0, 0))
        padded = np.pad(waiting, padding)
        k = np.arange(1, most + 1)
        tails = during.sum(axis=-1)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        full = tails * np.minimum(k, size)[:, None]
        step = max(1, _CHUNK // (rounds * most * waiting.shape[2]))
        for start in range(0, len(waiting), step):
            rows = slice(start, start + step)
            self._add_full(rows, padded[rows], full[rows], rounds)
            for q in range(1, size):
                kernel = during[rows, 1:] * np.minimum(k, q)[:, None, None]
                self._add_partial(rows, padded[rows], kernel, rounds, q)

    def _add_full(self, rows: slice, padded: Floats, kernel: Floats, rounds: int) -> None:
        windows = self._windows(padded, kernel.shape[1], rounds, self._size)
        found = (windows @ kernel.reshape(len(kernel), -1, 1))[:, :, 0]
        self.first[rows, self._size - 1] += found[:, 0]
        self._full[rows, 1:rounds] += found[:, 1:]

    def _add_partial(
        self, rows: slice, padded: Floats, kernel: Floats, rounds: int, q: int
    ) -> None:
        windows = self._windows(padded, kernel.shape[1], rounds, q)
        found = windows @ kernel.reshape(len(kernel), -1, kernel.shape[-1])
        self.first[rows, q - 1] += found[:, 0].sum(axis=-1)
        self._partial[rows, 1:rounds, q - 1] += found[:, 1:]

    def _windows(self, padded: Floats, most: int, rounds: int, q: int) -> Floats:
        """waiting[w, r B + q - k] for k = 1 .. most; shape (nodes, rounds, most * n)."""
        ends = np.arange(rounds)[:, None] * self._size + q + most
        picked = padded[:, ends - np.arange(1, most + 1)]
        return picked.reshape(len(padded), rounds, -1)

    def by_size(self, process: MarkovianArrivals, full_seconds: float) -> Floats:
        """Expected arrivals by round and final batch size; shape (nodes, rounds, B)."""
        size, rounds = self._size, self._full.shape[1]
        later = counting_matrices(process, np.arange(rounds) * full_seconds, size - 1).sum(axis=-1)
        result = np.zeros((*self._full.shape, size))
        result[:, :, size - 1] = self._full
        for q in range(1, size):
            joined = einsum("wrn,rjn->wrj", self._partial[:, :, q - 1], later[:, : size - q])
            result[:, :, q - 1 : size - 1] += joined
            result[:, :, size - 1] += self._partial[:, :, q - 1].sum(axis=-1) - joined.sum(axis=-1)
        result[:, 0] = self.first
        return result
