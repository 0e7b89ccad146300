"""Batching on one device, exactly: the Markov chain embedded at the starts of service.

The policy is that of `recursion`. State at a start: (n waiting just before the take, phase of the arrivals); the
batch is min(n, B). With d = max(v_b - T, 0), y = min(v_b, T) and E = exp(D0 d):

* from n > B to n - B + k with P_k(v_B): who is left has waited v_B already, so the next batch starts at once. That is
  exact for T <= v_B; where T is longer, a partial batch of left-overs would wait a little more: at p95 this
  law is then low by up to 2 % (T = 3 v_B, load 0.85), and the recursion over 1e6 arrivals is nearer.
* from n = b <= B to m < B: P_m(v_b) - E P_m(y) + E R P_{m-1}(T); to B: P_B(v_b) + E (R F_B(T) - F_{B+1}(y)); to
  m > B: P_m(v_b).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import numpy as np
from scipy.linalg import solve_banded  # pyright: ignore[reportUnknownVariableType]
from scipy.sparse import dia_matrix

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from coordinator.planning.batching.chain_latency import Mixture, latency_mixture
from coordinator.planning.batching.counting import count, counting_matrices, most_arrivals
from coordinator.planning.batching.recursion import LatencyEstimate
from coordinator.planning.batching.service import ServiceTimes
from tiermesh.errors import Infeasible, Unsupported

_TAIL: Final = 1e-9
"""Probability beyond the longest queue that is kept."""
_MOST_BAND_ENTRIES: Final = 16_000_000
"""Floats in the banded matrix: 128 MB; a longer queue is for the recursion."""
_STEPS_TO_LIKELY_STATE: Final = 64


@dataclass(frozen=True, eq=False)
class SingleServer:
    """The stationary law of one device under (B, T).

    Raises:
        Infeasible: more arrives than full batches can serve; there is no steady state.
        Unsupported: bursts build queues too long to solve for.
    """

    process: MarkovianArrivals
    service: ServiceTimes
    batch_size: int
    timeout_s: float

    def __post_init__(self) -> None:
        capacity = self.service.capacity(self.batch_size)
        if self.process.rate >= capacity:
            raise Infeasible(
                f"{self.process.rate:.4g} requests/s arrive and {capacity:.4g}/s can be served",
                why=f"a batch of {self.batch_size} takes {self._v[-1]:.4g} s",
                fix="Allow larger batches, a faster device or more of them",
            )

    @cached_property
    def queue(self) -> Floats:
        """Probability of (n, phase) at a start of service, n = 1 .. N; shape (N, phases)."""
        most = max(most_arrivals(self.process, float(self._v.max())), self.batch_size + 1)
        boundary, interior = self._transitions(most)
        levels = 4 * (most + self.batch_size)
        while True:
            queue = _stationary(boundary, interior, levels)
            beyond = float(queue[-levels // 8 :].sum())
            if beyond < _TAIL:
                return queue
            # As far as a geometric tail would go, but by steps: bursts begin flat.
            decades = np.log(_TAIL) / np.log(min(beyond, 0.99))
            levels = int(levels * min(max(1.2 * decades, 2.0), 8.0))

    @cached_property
    def latency(self) -> Mixture:
        """The law of a request's latency."""
        return latency_mixture(
            self.process, self.service, self.batch_size, self.timeout_s, self.queue
        )

    @property
    def served_per_batch(self) -> float:
        """The mean batch size."""
        sizes = np.minimum(np.arange(1, len(self.queue) + 1), self.batch_size)
        return float(sizes @ self.queue.sum(axis=1))

    @property
    def utilization(self) -> float:
        """The busy share of the device."""
        return self.device_seconds * self.process.rate

    @property
    def device_seconds(self) -> float:
        """Device time per request."""
        by_level = self.queue.sum(axis=1)
        full = float(by_level[self.batch_size :].sum()) * float(self._v[-1])
        return (float(by_level[: self.batch_size] @ self._v) + full) / self.served_per_batch

    @property
    def estimate(self) -> LatencyEstimate:
        """The figures that the recursion estimates."""
        return LatencyEstimate.of(
            self.latency.percentile, self.utilization, self.served_per_batch, self.device_seconds
        )

    @property
    def _v(self) -> Floats:
        return self.service.seconds[: self.batch_size]

    def _transitions(self, most: int) -> tuple[Floats, Floats]:
        """From levels 1 .. B to levels 1 .. `most`, (B, most, n, n); and P_k(v_B), k = 0 .. `most`."""
        size, r = self.batch_size, self.process.after_arrival
        y = np.minimum(self._v, self.timeout_s)
        silent = counting_matrices(self.process, self._v - y, 0)[:, 0]
        early = count(self.process, y, size)
        opened = count(self.process, np.array(self.timeout_s), size)
        boundary = counting_matrices(self.process, self._v, most)[:, 1:]
        interior = counting_matrices(self.process, self._v[-1:], most)[0]
        partial = r @ opened.exactly[: size - 1] - early.exactly[:, 1:size]
        boundary[:, : size - 1] += silent[:, None] @ partial
        full = r @ opened.at_least[size] - early.at_least[:, size + 1]
        boundary[:, size - 1] += silent @ full
        boundary = boundary.clip(0)
        boundary /= boundary.sum(axis=(1, 3))[:, None, :, None]
        return boundary, interior / interior.sum(axis=(0, 2))[None, :, None]


def _stationary(boundary: Floats, interior: Floats, levels: int) -> Floats:
    """The stationary law on levels 1 .. `levels`; what would go higher stays on the last; shape (levels, n)."""
    size, most, n, _ = boundary.shape
    down, up = size * n + n - 1, most * n + n - 1
    if (2 * up + down + 1) * levels * n > _MOST_BAND_ENTRIES:
        raise Unsupported(
            f"bursts build queues of more than {levels // 2} requests",
            why="the exact chain of one device would take too much memory",
            fix="Use the estimate by recursion over sampled arrivals",
        )
    band = _transposed_band(boundary, interior, levels, down, up)
    likely = _likely_state(band, down)
    band[down] -= 1.0
    # One balance equation follows from the others; in its place the most likely state gets weight 1.
    columns = np.arange(max(0, likely - up), min(levels * n, likely + down + 1))
    band[down + likely - columns, columns] = 0.0
    band[down, likely] = 1.0
    right = np.zeros(levels * n)
    right[likely] = 1.0
    solution = cast(Floats, solve_banded((up, down), band, right, overwrite_ab=True))
    queue = solution.clip(0).reshape(levels, n)
    return queue / queue.sum()


def _transposed_band(boundary: Floats, interior: Floats, levels: int, down: int, up: int) -> Floats:
    """The chain's transposed matrix in LAPACK's band storage: [down + to - from, from]."""
    size, most, n, _ = boundary.shape
    band = np.zeros((down + up + 1, levels * n))
    phase_from, phase_to = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")

    def put(level_from: Floats, level_to: Floats, values: Floats) -> None:
        columns = level_from[:, None, None] * n + phase_from
        rows = np.minimum(level_to, levels - 1)[:, None, None] * n + phase_to
        band[down + rows - columns, columns] += values

    for target in range(most):
        starts = np.arange(size)
        put(starts, np.full(size, target), boundary[:, target])
    above = np.arange(size, levels)
    for k in range(most + 1):
        put(above, above - size + k, interior[k])
    return band


def _likely_state(band: Floats, down: int) -> int:
    """A state that the chain is often in, by following it for a while."""
    states = band.shape[1]
    matrix = dia_matrix((band, down - np.arange(len(band))), shape=(states, states)).tocsr()
    weights: Floats = np.zeros(states)
    weights[: down + 1] = 1 / (down + 1)
    for _ in range(_STEPS_TO_LIKELY_STATE):
        weights = 0.5 * (weights + cast(Floats, matrix @ weights))
    return int(np.argmax(weights))
