"""Fitting an arrival process to recorded timestamps: Poisson, or a two-phase MMPP where the record asks for one.

The MMPP is fitted by maximum likelihood (four parameters) and kept only if it beats Poisson clearly (BIC) and the
record shows enough changes of phase to have learnt their rates from. The figure for the fit is the Kolmogorov-Smirnov
distance of the time-rescaled gaps (u = 1 - P(gap longer | history), uniform if the process is right) and its 5 % limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from scipy.optimize import minimize  # pyright: ignore[reportUnknownVariableType]

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from tiermesh.errors import InvalidDocument

FEWEST_ARRIVALS: Final = 2
_FEWEST_FOR_PHASES: Final = 200
_CLEAR_BIC_GAIN: Final = 10.0
"""Kass and Raftery's "very strong" evidence."""
_FEWEST_CYCLES: Final = 5.0
_MOST_FITTED: Final = 50_000
"""Arrivals, the latest, whose likelihood is maximised."""
_WINDOWS: Final = (3.0, 10.0, 100.0, 1000.0)
"""Mean gaps per window, from whose counts the search may start."""
_KS_LIMIT: Final = 1.358


@dataclass(frozen=True, eq=False)
class Timestamps:
    """Recorded arrivals: ascending seconds, and what had to be mended to make them so.

    `window_s` is how long was watched, where that is known; else they are taken to fill their own span.
    """

    seconds: Floats
    unsorted: int = 0
    duplicates: int = 0
    window_s: float | None = None

    @classmethod
    def read(cls, raw: Sequence[float] | Floats) -> Timestamps:
        """Sort `raw`, counting what was out of order and what came twice.

        Raises:
            InvalidDocument: nothing, or something that is not a finite number, in it.
        """
        seconds = np.array(raw, dtype=float).ravel()
        if not seconds.size:
            raise _invalid("it is empty")
        if not np.isfinite(seconds).all():
            at = int(np.argmin(np.isfinite(seconds))) + 1
            raise _invalid(f"entry {at} is {seconds[at - 1]}")
        unsorted = int((np.diff(seconds) < 0).sum())
        seconds = np.sort(seconds)
        return cls(seconds, unsorted, int((np.diff(seconds) == 0).sum()))

    @property
    def has_rate(self) -> bool:
        """Whether a rate is in them: they span some time, or the window that they were seen in does."""
        return bool(self.seconds[0] < self.seconds[-1]) or bool(self.window_s)

    def hours(self, length_s: float = 3600.0) -> dict[int, Timestamps]:
        """Windows of `length_s` from the first arrival on, numbered from 1; an empty window is absent.

        The last one ends with the last arrival.
        """
        since = self.seconds - self.seconds[0]
        number = np.floor(since / length_s).astype(int) + 1
        last = int(number[-1])
        spans = {last: float(since[-1]) - (last - 1) * length_s}
        return {
            n: Timestamps(self.seconds[number == n], window_s=spans.get(n, length_s))
            for n in sorted(set(number.tolist()))
        }


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted process and how well it fits.

    `bic_gain` is how much better two phases were than Poisson (0 where they were not tried); `ks` should be below
    `ks_limit`; `refused` says why two phases were not taken.
    """

    process: MarkovianArrivals
    arrivals: int
    ks: float
    ks_limit: float
    bic_gain: float = 0.0
    refused: str = ""

    @property
    def name(self) -> str:
        """`poisson` or `mmpp2`."""
        return "poisson" if self.process.phases == 1 else "mmpp2"

    @property
    def good(self) -> bool:
        """Whether the gaps do not contradict the process."""
        return self.ks <= self.ks_limit


def fit(timestamps: Timestamps) -> Fit:
    """The process that explains `timestamps` without over-fitting.

    Raises:
        InvalidDocument: fewer than two arrivals, or all at one time: there is no rate in them.
    """
    if timestamps.window_s and len(timestamps.seconds) < _FEWEST_FOR_PHASES:
        # Few arrivals say most by how few they are in the time that was watched.
        gaps = np.diff(timestamps.seconds)
        why = f"{len(gaps) + 1} arrivals are too few to tell bursts from chance"
        return _judged(
            MarkovianArrivals.poisson((len(gaps) + 1) / timestamps.window_s), gaps, 0.0, why
        )
    gaps = _gaps(timestamps.seconds)
    poisson = MarkovianArrivals.poisson(1 / float(gaps.mean()))
    if len(gaps) < _FEWEST_FOR_PHASES:
        why = f"{len(gaps) + 1} arrivals are too few to tell bursts from chance"
        return _judged(poisson, gaps, 0.0, why)
    bursty, likelihood = _fit_phases(gaps)
    gain = 2 * (likelihood - _poisson_likelihood(gaps)) - 3 * np.log(len(gaps))
    refused = _refusal(bursty, gaps, gain)
    return _judged(poisson if refused else bursty, gaps, gain, refused)


def log_likelihood(process: MarkovianArrivals, gaps: Floats) -> float:
    """The log-likelihood of successive gaps (seconds) of a process with one or two phases."""
    if process.phases == 1:
        return float(len(gaps) * np.log(process.rate) - process.rate * gaps.sum())
    factors, logs = _silent_factors(process.d0, gaps)
    return logs + _log_of_product(process.phase_after_arrivals, factors @ process.d1)


def _gaps(seconds: Floats) -> Floats:
    """Gaps without ties: arrivals that share a timestamp are spread evenly up to the next one.

    A recorder that writes whole milliseconds makes ties that the process did not have.
    """
    times, first, repeats = np.unique(seconds, return_index=True, return_counts=True)
    if len(times) < FEWEST_ARRIVALS:
        raise InvalidDocument(
            "no rate can be fitted to these timestamps",
            why=f"{len(seconds)} arrivals have {len(times)} different times",
            fix="Record a longer window, or give --rate",
        )
    steps = np.diff(times)
    room = np.append(steps, np.median(steps))
    order = np.arange(len(seconds)) - np.repeat(first, repeats)
    spread = seconds + order * np.repeat(room / repeats, repeats)
    return np.diff(spread)


def _fit_phases(gaps: Floats) -> tuple[MarkovianArrivals, float]:
    fitted = gaps[-_MOST_FITTED:]
    mean = float(fitted.mean())

    def process(logs: Floats) -> MarkovianArrivals:
        low, high, leave_low, leave_high = np.exp(np.clip(logs, -15, 15)) / mean
        return MarkovianArrivals.mmpp((low, high), (leave_low, leave_high))

    def cost(logs: Floats) -> float:
        try:
            return -log_likelihood(process(logs), fitted)
        except (InvalidDocument, np.linalg.LinAlgError):
            return 1e300

    windows = [window for window in _WINDOWS if window * 10 <= len(fitted)]
    start = min((_start(fitted / mean, window) for window in windows), key=cost)
    options = {"maxiter": 60, "ftol": 1e-8}
    found = cast(Any, minimize(cost, start, method="L-BFGS-B", options=options))
    return process(np.asarray(found.x)), -float(found.fun) * len(gaps) / len(fitted)


def _start(gaps: Floats, window: float) -> Floats:
    """A starting point from counts in windows of so many mean gaps: their upper and lower part, and its runs."""
    times = np.cumsum(gaps)
    counts = np.bincount((times / window).astype(int))
    high = counts > counts.mean()
    seen = [max(int(part.sum()), 1) for part in (~high, high)]
    arrived = [int(counts[part].sum()) for part in (~high, high)]
    runs = max(int((high[1:] & ~high[:-1]).sum()), 1)
    rates = [max(n / (windows * window), 1e-3) for n, windows in zip(arrived, seen, strict=True)]
    leaving = [runs / (windows * window) for windows in seen]
    return np.log([*rates, *leaving])


def _refusal(process: MarkovianArrivals, gaps: Floats, gain: float) -> str:
    if gain < _CLEAR_BIC_GAIN:
        return "two phases explain the gaps no better than one (BIC)"
    leaving = process.d0[0, 1], process.d0[1, 0]
    cycles = gaps.sum() * leaving[0] * leaving[1] / (leaving[0] + leaving[1])
    if cycles < _FEWEST_CYCLES:
        return f"the rate changes only about {cycles:.1f} times each way: a drift, not bursts"
    return ""


def _judged(process: MarkovianArrivals, gaps: Floats, gain: float, refused: str) -> Fit:
    if not len(gaps):
        return Fit(process, 1, 0.0, 1.0, gain, refused)
    uniform = np.sort(_rescaled(process, gaps[-_MOST_FITTED:]))
    ranks = np.arange(1, len(uniform) + 1) / len(uniform)
    distance = float(np.max(np.maximum(ranks - uniform, uniform - ranks + 1 / len(uniform))))
    limit = _KS_LIMIT / np.sqrt(len(uniform))
    return Fit(process, len(gaps) + 1, distance, float(limit), float(gain), refused)


def _rescaled(process: MarkovianArrivals, gaps: Floats) -> Floats:
    """1 - P(gap longer than it was | the gaps before it)."""
    if process.phases == 1:
        return -np.expm1(-process.rate * gaps)
    factors, _ = _silent_factors(process.d0, gaps, scaled=False)
    survive = factors.sum(axis=2).tolist()
    steps = (factors @ process.d1).tolist()
    low, high = process.phase_after_arrivals.tolist()
    result: list[float] = []
    for (stay_low, stay_high), ((a, b), (c, d)) in zip(survive, steps, strict=True):
        result.append(1 - low * stay_low - high * stay_high)
        low, high = low * a + high * c, low * b + high * d
        total = low + high or 1.0
        low, high = low / total, high / total
    return np.array(result).clip(0, 1)


def _silent_factors(d0: Floats, gaps: Floats, *, scaled: bool = True) -> tuple[Floats, float]:
    """exp(D0 gap) for each gap by the closed form for two phases, (gaps, 2, 2); scaled, with the sum of the logs."""
    middle = 0.5 * (d0[0, 0] + d0[1, 1])
    half = np.sqrt((0.5 * (d0[0, 0] - d0[1, 1])) ** 2 + d0[0, 1] * d0[1, 0])
    decay = np.exp(-2 * half * gaps)
    sinch = (1 - decay) / (2 * half) if half > 0 else gaps
    factors = 0.5 * (1 + decay)[:, None, None] * np.eye(2)
    factors = factors + sinch[:, None, None] * (d0 - middle * np.eye(2))
    logs = (middle + half) * gaps
    if scaled:
        return factors, float(logs.sum())
    return factors * np.exp(logs)[:, None, None], 0.0


def _log_of_product(start: Floats, matrices: Floats) -> float:
    """Log of `start` times all of `matrices` (count, 2, 2) times 1: pairwise, so that it is a few array products."""
    total = 0.0
    while len(matrices) > 1:
        if len(matrices) % 2:
            matrices = np.concatenate([matrices, np.eye(2)[None]])
        matrices = _pairwise(matrices[::2], matrices[1::2])
        scale = matrices.max(axis=(1, 2))
        total += float(np.log(scale).sum())
        matrices = matrices / scale[:, None, None]
    return total + float(np.log((start @ matrices[0]).sum()))


def _pairwise(left: Floats, right: Floats) -> Floats:
    """`left @ right` for stacks of 2 x 2: written out, five times faster than matmul."""
    result = np.empty_like(left)
    for i in range(2):
        for j in range(2):
            result[:, i, j] = left[:, i, 0] * right[:, 0, j] + left[:, i, 1] * right[:, 1, j]
    return result


def _poisson_likelihood(gaps: Floats) -> float:
    return float(-len(gaps) * (np.log(gaps.mean()) + 1))


def _invalid(why: str) -> InvalidDocument:
    return InvalidDocument(
        "this is not a trace of arrivals",
        why=why,
        fix="Give one timestamp a line, in seconds",
    )
