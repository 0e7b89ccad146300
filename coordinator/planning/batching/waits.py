"""Tables of waits, and latency percentiles of the mixture "wait + service time of the batch's size"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.planning.batching.arrivals import Floats

_FEWEST_NODES, _MOST_NODES = 96, 256
_STEP_PER_GAP = 0.5
"""The first step, in gaps of the fastest phase."""
_BISECTIONS = 26


@dataclass(frozen=True, eq=False)
class WaitGrid:
    """Nodes g(u) on [0, 1] for u = 0, 1/J, .. 1, dense at both ends and symmetric; a wait is T g(u).

    What happens within a few gaps of the fastest phase, just after a buffer opens and just before it closes, needs
    small steps; the middle does not. g(u) = sinh(2 a u) / (2 sinh a) up to the middle; a = 0 is uniform.
    """

    stretch: float
    steps: int

    @classmethod
    def for_scale(cls, longest_s: float, peak_rate: float, refine: int = 1) -> WaitGrid:
        """A grid for waits up to `longest_s` and events at up to `peak_rate` per second."""
        gaps = max(longest_s * peak_rate, 1.0)
        steps = int(np.clip(2 * np.sqrt(gaps), _FEWEST_NODES, _MOST_NODES)) // 2 * 2
        slowdown = max(gaps / (steps * _STEP_PER_GAP), 1.0)
        stretch = 0.0
        for _ in range(50):  # a = asinh(a slowdown), a contraction from above
            stretch = float(np.arcsinh(max(stretch, 1.0) * slowdown)) if slowdown > 1.2 else 0.0
        return cls(stretch, steps * refine)

    @property
    def nodes(self) -> Floats:
        """g(u) at every node; shape (steps + 1,)."""
        lower = np.arange(self.steps // 2 + 1) * (1 / self.steps)
        half = (
            np.sinh(2 * self.stretch * lower) / (2 * np.sinh(self.stretch))
            if self.stretch
            else lower
        )
        return np.concatenate([half, 1 - half[-2::-1]])

    def position(self, fractions: Floats) -> Floats:
        """Where g takes the values `fractions` in [0, 1], counted in steps."""
        if not self.stretch:
            return fractions * self.steps
        near = np.minimum(fractions, 1 - fractions)
        u = np.arcsinh(2 * np.sinh(self.stretch) * near) / (2 * self.stretch)
        return np.where(fractions <= 0.5, u, 1 - u) * self.steps


@dataclass(frozen=True, eq=False)
class WaitTable:
    """Expected requests by group (batch size) with a wait of at most each node; totals are reached at w = span.

    counts (rows, groups, nodes); totals (rows, groups); spans (rows,), the longest wait of each row in seconds. Between
    the last node's count and the total lies an atom: those that waited the whole span.
    """

    grid: WaitGrid
    spans: Floats
    counts: Floats
    totals: Floats

    def shares(self, latency_s: Floats, seconds: Floats) -> Floats:
        """The share of requests with at most `latency_s` (rows, columns), given `seconds` (columns, groups)."""
        waits = latency_s[:, :, None] - seconds[None, :, :]
        spans = np.maximum(self.spans, 1e-300)[:, None, None]
        fractions = waits / spans
        position = self.grid.position(fractions.clip(0.0, 1.0))
        left = np.minimum(position.astype(int), self.grid.steps - 1)
        weight = position - left
        rows = np.arange(len(self.spans))[:, None, None]
        groups = np.arange(self.totals.shape[1])[None, None, :]
        low, high = self.counts[rows, groups, left], self.counts[rows, groups, left + 1]
        inside = low + weight * (high - low)
        reached = np.where(waits >= self.spans[:, None, None], self.totals[:, None, :], inside)
        return np.where(waits >= 0, reached, 0.0).sum(axis=2) / self.totals.sum(axis=1)[:, None]

    def percentiles(self, seconds: Floats, quantile: float) -> Floats:
        """The least latency that a share of `quantile` stays within; (columns, groups) -> (rows, columns)."""
        low = np.broadcast_to(seconds.min(axis=1), (len(self.spans), len(seconds))).copy()
        high = seconds.max(axis=1)[None, :] + self.spans[:, None]
        low -= 1e-9 * high
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            reached = self.shares(middle, seconds) >= quantile * (1 - 1e-12)
            high = np.where(reached, middle, high)
            low = np.where(reached, low, middle)
        return high
