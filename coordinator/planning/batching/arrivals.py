"""Arrival processes: Markovian arrival processes (MAPs), Poisson among them, and how to draw from them.

A MAP with n phases is (D0, D1): D0[i, j] is the rate of moving from phase i to j without an arrival, D1[i, j] with
one; D0 + D1 is a generator. A Poisson process is the MAP ([[-rate]], [[rate]]).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from tiermesh.errors import InvalidDocument

Floats: TypeAlias = npt.NDArray[Any]
"""An array of float64; NumPy's stubs lose the width in most operations."""

einsum = cast(Callable[..., Floats], np.einsum)
"""NumPy's, with a type."""

_ROW_SUM_TOLERANCE = 1e-4
"""Of the phase's own rate: published MAPs are printed with six decimals."""


@dataclass(frozen=True, eq=False)
class MarkovianArrivals:
    """A Markovian arrival process; rates per second.

    Raises:
        InvalidDocument: the matrices are not those of a MAP in which arrivals happen.
    """

    d0: Floats
    d1: Floats

    def __post_init__(self) -> None:
        d0, d1 = np.array(self.d0, dtype=float), np.array(self.d1, dtype=float)
        _check(d0, d1)
        # Rows sum to zero exactly, or probability leaks over long horizons.
        np.fill_diagonal(d0, 0.0)
        d0, d1 = np.maximum(d0, 0.0), np.maximum(d1, 0.0)
        np.fill_diagonal(d0, -(d0.sum(axis=1) + d1.sum(axis=1)))
        object.__setattr__(self, "d0", d0)
        object.__setattr__(self, "d1", d1)
        if np.linalg.cond(d0) > 1e14 or not np.isfinite(self.rate) or self.rate <= 0:
            raise _invalid("no arrival can be reached from every phase")

    @classmethod
    def poisson(cls, rate_rps: float) -> MarkovianArrivals:
        """A Poisson process."""
        if not np.isfinite(rate_rps) or rate_rps <= 0:
            raise _invalid(f"the rate is {rate_rps}, which is not a positive number")
        return cls(np.array([[-rate_rps]]), np.array([[rate_rps]]))

    @classmethod
    def mmpp(
        cls, rates_rps: tuple[float, float], switch_per_s: tuple[float, float]
    ) -> MarkovianArrivals:
        """A two-phase Markov-modulated Poisson process: a rate in each phase, and the rates of leaving it."""
        switching = np.array([[0.0, switch_per_s[0]], [switch_per_s[1], 0.0]])
        d1 = np.diag(np.array(rates_rps, dtype=float))
        return cls(switching - np.diag(switching.sum(axis=1)) - d1, d1)

    @property
    def phases(self) -> int:
        """The number of phases."""
        return len(self.d0)

    @cached_property
    def phase_shares(self) -> Floats:
        """The share of time in each phase; shape (n,)."""
        return stationary(self.d0 + self.d1)

    @cached_property
    def rate(self) -> float:
        """Mean arrivals per second."""
        return float((self.phase_shares @ self.d1).sum())

    @property
    def peak_rate(self) -> float:
        """The fastest rate at which anything happens in a phase: the rate of uniformisation."""
        return float(np.max(-np.diag(self.d0)))

    @cached_property
    def after_arrival(self) -> Floats:
        """R = (-D0)^-1 D1: the phase just after the next arrival, by the phase now; shape (n, n)."""
        return np.linalg.solve(-self.d0, self.d1)

    @cached_property
    def phase_after_arrivals(self) -> Floats:
        """The phase just after an arrival, over all arrivals; shape (n,)."""
        seen = self.phase_shares @ self.d1
        return seen / seen.sum()

    @cached_property
    def gap_scv(self) -> float:
        """The squared coefficient of variation of the gaps; 1 for Poisson."""
        inverse = np.linalg.inv(-self.d0)
        phase = self.phase_after_arrivals
        mean = float((phase @ inverse).sum())
        return float(2 * (phase @ inverse @ inverse).sum() / mean**2 - 1)

    @cached_property
    def dispersion(self) -> float:
        """The limit of variance over mean of counts (index of dispersion); 1 for Poisson."""
        pi, ones = self.phase_shares, np.ones(self.phases)
        generator = self.d0 + self.d1
        deviation = np.linalg.inv(np.outer(ones, pi) - generator)
        inner = float(pi @ self.d1 @ deviation @ self.d1 @ ones)
        return 1 + 2 * (inner - self.rate**2) / self.rate

    def thinned(self, share: float) -> MarkovianArrivals:
        """What a replica sees that gets a random `share` of the arrivals: (D0 + (1 - p) D1, p D1)."""
        if not 0 < share <= 1:
            raise _invalid(f"a share of {share} is not in (0, 1]")
        return MarkovianArrivals(self.d0 + (1 - share) * self.d1, share * self.d1)

    def at_rate(self, rate_rps: float) -> MarkovianArrivals:
        """The same process with its clock scaled, so that `rate_rps` arrive per second."""
        factor = rate_rps / self.rate
        return MarkovianArrivals(self.d0 * factor, self.d1 * factor)

    def sample(self, count: int, generator: np.random.Generator) -> Floats:
        """`count` arrival times from the stationary process, ascending, in seconds; shape (count,)."""
        if self.phases == 1:
            return np.cumsum(generator.exponential(1 / self.rate, count))
        return _sample(self, count, generator)


def stationary(generator: Floats) -> Floats:
    """The stationary distribution of an irreducible generator, or of P - I; shape (..., n).

    By Grassmann-Taksar-Heyman elimination, which subtracts nothing: small rates keep their precision.
    """
    q = np.array(generator, dtype=float)
    n = q.shape[-1]
    for k in range(n - 1, 0, -1):
        leaving = q[..., k, :k].sum(axis=-1, keepdims=True)
        q[..., :k, k] /= np.maximum(leaving, np.finfo(float).tiny)
        q[..., :k, :k] += q[..., :k, k, None] * q[..., k, None, :k]
    weights = np.ones(q.shape[:-1])
    for k in range(1, n):
        weights[..., k] = (weights[..., :k] * q[..., :k, k]).sum(axis=-1)
    return weights / weights.sum(axis=-1, keepdims=True)


def _sample(process: MarkovianArrivals, count: int, generator: np.random.Generator) -> Floats:
    """Follow the jump chain: per jump a sojourn and one of 2n targets, those of D0 first."""
    n = process.phases
    rates = np.concatenate([process.d0, process.d1], axis=1)
    np.fill_diagonal(rates[:, :n], 0.0)
    total = rates.sum(axis=1)
    bounds = (np.cumsum(rates, axis=1) / total[:, None]).tolist()
    means = (1 / total).tolist()
    phase = int(np.searchsorted(np.cumsum(process.phase_shares), generator.random()))
    times: list[float] = []
    now = 0.0
    while len(times) < count:
        block = max(1024, count - len(times))
        draws = zip(
            generator.random(block).tolist(),
            generator.exponential(1.0, block).tolist(),
            strict=True,
        )
        for chance, sojourn in draws:
            now += sojourn * means[phase]
            row = bounds[phase]
            target = 0
            while row[target] < chance:
                target += 1
            if target >= n:
                times.append(now)
                target -= n
            phase = target
    return np.array(times[:count])


def _check(d0: Floats, d1: Floats) -> None:
    if d0.ndim != 2 or d0.shape != d1.shape or d0.shape[0] != d0.shape[1] or not d0.size:
        raise _invalid(
            f"D0 is {d0.shape} and D1 is {d1.shape}; both must be square and of one size"
        )
    if not (np.isfinite(d0).all() and np.isfinite(d1).all()):
        raise _invalid("an entry is not a finite number")
    rates = np.abs(np.diag(d0))
    scale = max(float(rates.max()), 1e-300)
    off_diagonal = d0 - np.diag(np.diag(d0))
    if (d1 < -_ROW_SUM_TOLERANCE * scale).any() or (
        off_diagonal < -_ROW_SUM_TOLERANCE * scale
    ).any():
        raise _invalid("D1, or D0 off its diagonal, has a negative rate")
    if (np.abs((d0 + d1).sum(axis=1)) > _ROW_SUM_TOLERANCE * scale).any():
        raise _invalid("a row of D0 + D1 does not sum to zero")


def _invalid(why: str) -> InvalidDocument:
    return InvalidDocument(
        "this is not an arrival process",
        why=why,
        fix="Give D0 and D1 per second: D1 >= 0, D0 >= 0 off its diagonal, rows of D0 + D1 summing to 0",
    )
