"""What is known of how a source's requests come, as the test of load needs it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from coordinator.replanning.load import BIN_REQUESTS, CHANGES, Change, dispersion_of
from tiermesh.documents.problem import Arrivals, MapRates, ProblemStage

if TYPE_CHECKING:
    from coordinator.planning.batching.arrivals import MarkovianArrivals

EVEN: Final = 0.5
"""The dispersion of even arrivals, with what agents and samples add to it."""
HALVINGS: Final = 50


def planned_dispersion(stage: ProblemStage) -> float:
    """The variance over the mean of a source's counts, as it is planned for."""
    match stage.arrivals:
        case Arrivals(map=MapRates() as rates):
            return max(_process(rates).dispersion, 1.0)
        case Arrivals(trace_s=times):
            return recorded_dispersion(times)
        case "constant":
            return EVEN
        case _:
            return 1.0


def planned_spread(stage: ProblemStage) -> Mapping[Change, float]:
    """What a planned process multiplies the thresholds of the test by; nothing where it has no process."""
    match stage.arrivals:
        case Arrivals(map=MapRates() as rates):
            process = _process(rates)
            return {change: spread(process, change) for change in CHANGES}
        case _:
            return {}


def spread(process: MarkovianArrivals, change: Change) -> float:
    """What keeps a chart's false alarms of a process as rare as those of Poisson arrivals, for which it is 1.

    The chart is a random walk that falls; it passes h with probability exp(-theta h) about, where theta is Cramer and
    Lundberg's exponent: that with which its moments neither grow nor fall (Asmussen, Applied Probability and Queues
    2003, XIII.5). The spread is its inverse; it is found by halving.
    """
    low, high = 0.0, 2.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _growth(process, change, middle) < 0 else (low, middle)
    return 1 / high


def _growth(process: MarkovianArrivals, change: Change, theta: float) -> float:
    import numpy as np

    moments = process.d0 + process.d1 * math.exp(theta * change.weight)
    grows = float(np.linalg.eigvals(moments).real.max())
    # At its nearest to normal the process has `normal` times its rate: time is scaled, the exponent is not.
    return change.normal * grows - theta * change.allowance * process.rate


def recorded_dispersion(times: Sequence[float]) -> float:
    """That of recorded arrivals, in ascending seconds."""
    width = BIN_REQUESTS * (times[-1] - times[0]) / (len(times) - 1)
    counts = [0.0] * (math.floor((times[-1] - times[0]) / width) + 1)
    for at in times:
        counts[math.floor((at - times[0]) / width)] += 1
    return dispersion_of([(n, width) for n in counts[:-1]])


def _process(rates: MapRates) -> MarkovianArrivals:
    import numpy as np

    from coordinator.planning.batching.arrivals import MarkovianArrivals

    return MarkovianArrivals(np.array(rates.D0), np.array(rates.D1))
