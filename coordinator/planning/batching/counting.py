"""How many arrivals a MAP makes in a time: the matrices that every law of batching is made of.

By uniformisation (Jensen 1953) with rate L: the coefficients of ((I + D0/L) + z D1/L)^m once for all times, then one
matrix product with Poisson weights. Long times are halved until few terms suffice and squared back as polynomials in
z; everything that is added is positive, so nothing cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals, einsum

_LONGEST_HORIZON = 256.0
"""L t up to which the series is summed directly; beyond, t is halved."""
_WEIGHT_CUTOFF = 1e-14


@dataclass(frozen=True, eq=False)
class CountingMatrices:
    """Counting matrices at some times.

    `exactly[..., k, i, j]` = P_k(t)[i, j]: k arrivals in t and phase j then, from phase i now; k = 0 .. K.
    `at_least[..., j, :, :]` = F_j(t): at least j - 1 arrivals by t, and the phase just after the (j-1)-th; j = 0 ..
    K + 1, where j = 0 is not used.
    """

    exactly: Floats
    at_least: Floats


def count(process: MarkovianArrivals, times: Floats, most: int) -> CountingMatrices:
    """`CountingMatrices` for up to `most` arrivals at `times` (any shape, seconds)."""
    exactly = counting_matrices(process, times, most)
    n = process.phases
    at_least = np.empty((*exactly.shape[:-3], most + 2, n, n))
    at_least[..., 0, :, :] = at_least[..., 1, :, :] = np.eye(n)
    for j in range(1, most + 1):
        rest = at_least[..., j, :, :] - exactly[..., j - 1, :, :]
        at_least[..., j + 1, :, :] = np.maximum(_times_right(rest, process.after_arrival), 0.0)
    return CountingMatrices(exactly, at_least)


def counting_matrices(process: MarkovianArrivals, times: Floats, most: int) -> Floats:
    """P_k(t) for k = 0 .. `most`; shape (*times.shape, most + 1, n, n)."""
    flat = np.asarray(times, dtype=float).ravel()
    n = process.phases
    horizon = flat * process.peak_rate
    halvings = np.ceil(np.log2(np.maximum(horizon, 1.0) / _LONGEST_HORIZON)).clip(0).astype(int)
    base = horizon / 2.0**halvings
    weights = _poisson_weights(base)
    coefficients = _coefficients(process, weights.shape[1], most)
    result = (weights @ coefficients.reshape(len(coefficients), -1)).reshape(-1, most + 1, n, n)
    for level in range(1, int(halvings.max(initial=0)) + 1):
        rows = halvings >= level
        result[rows] = _squared(result[rows])
    return result.reshape(*np.shape(times), most + 1, n, n)


def most_arrivals(process: MarkovianArrivals, seconds: float) -> int:
    """A count that the arrivals of `seconds` hardly ever exceed (1e-12), even in the busiest phase."""
    mean = float(process.d1.sum(axis=1).max()) * seconds
    return int(mean + 8 * np.sqrt(mean) + 20)


def _coefficients(process: MarkovianArrivals, terms: int, most: int) -> Floats:
    """A[m, k]: the coefficient of z^k in (U0 + z U1)^m; shape (terms, most + 1, n, n)."""
    n, rate = process.phases, process.peak_rate
    silent, arriving = np.eye(n) + process.d0 / rate, process.d1 / rate
    result = np.zeros((terms, most + 1, n, n))
    result[0, 0] = np.eye(n)
    both = np.concatenate([silent, arriving], axis=1)
    for m in range(1, terms):
        step = result[m - 1].reshape(-1, n) @ both
        step = step.reshape(most + 1, n, 2 * n)
        result[m] = step[:, :, :n]
        result[m, 1:] += step[:-1, :, n:]
    return result


def _poisson_weights(means: Floats) -> Floats:
    """Probabilities of 0, 1, 2 .. for each mean, up to where the largest mean's tail vanishes.

    Outward from the mode by ratios would be slower in NumPy than the logarithm's recurrence summed once.
    """
    top = float(means.max(initial=0.0))
    terms = int(top + 9 * np.sqrt(top) + 24)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, terms)))])
    safe = np.maximum(means, 1e-300)[:, None]
    weights = np.exp(np.arange(terms) * np.log(safe) - safe - log_factorials)
    weights[weights < _WEIGHT_CUTOFF**2] = 0.0
    return weights / weights.sum(axis=1, keepdims=True)


def _squared(series: Floats) -> Floats:
    """The square of matrix polynomials in z, cut at their own degree; shape (rows, K + 1, n, n)."""
    degree = series.shape[1]
    result = np.zeros_like(series)
    for k in range(degree):
        result[:, k:] += einsum("rij,rkjl->rkil", series[:, k], series[:, : degree - k])
    return result


def _times_right(stack: Floats, matrix: Floats) -> Floats:
    """`stack @ matrix` for a stack of small matrices: as one flat product, which is many times faster."""
    return (stack.reshape(-1, stack.shape[-1]) @ matrix).reshape(stack.shape)
