"""Steady loads, device times and attainment, with noise, for simulated days; and how soon a change is seen.

`python -m tests.simulation.replanning.steady --days 30 --seeds 10` is the long form of what the tests check.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import numpy as np

from coordinator.keeping.load_monitor import LoadMonitor
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.replanning.bursts import spread
from coordinator.replanning.load import CHANGES, LoadTest
from coordinator.replanning.reasons import Policy
from tests.simulation.replanning.mesh import BATCH_S, PLAN, PROBLEM
from tiermesh.v1 import telemetry_pb2 as pb

POLICY = Policy()
DAY_S = 86_400.0
RATES = (0.2, 1.0, 4.0, 20.0, 200.0)
CHANGED = (0.5, 1.3, 1.5, 2.0, 3.0)
BURSTY = MarkovianArrivals.mmpp((8.0, 2.0), (0.5, 0.25))
"""4 requests a second on average; the variance of counts tends to 6.3 times their mean."""


def poisson_test(rate):
    return LoadTest(rate, POLICY.false_alarm_s)


def bursty_test():
    spreads = {change: spread(BURSTY, change) for change in CHANGES}
    return LoadTest(BURSTY.rate, POLICY.false_alarm_s, BURSTY.dispersion, spread=spreads)


def alarm_s(test, counts, step_s):
    """When the test says that the load has changed, in seconds; None if it never does."""
    for n, requests in enumerate(counts, start=1):
        test.add(requests, step_s)
        if test.changed:
            return n * step_s
    return None


def poisson_counts(rate, seconds, step_s, seed):
    generator = np.random.default_rng(seed)
    return generator.poisson(rate * step_s, int(seconds / step_s)).tolist()


def bursty_counts(seconds, seed, factor=1.0):
    """Counts of each second of the two-phase process, `factor` times as fast a load with the same phases."""
    generator = np.random.default_rng(seed)
    times = BURSTY.sample(int(BURSTY.rate * seconds * 1.2), generator)
    counts = np.histogram(times, np.arange(0.0, seconds + 1.0))[0]
    return generator.poisson(counts * factor).tolist() if factor != 1.0 else counts.tolist()


def false_alarms(rate, seconds, seed):
    """How often a steady Poisson load is taken for another one; the test begins anew each time."""
    step_s = poisson_test(rate).bin_s
    counts = poisson_counts(rate, seconds, step_s, seed)
    found = 0
    while counts:
        at = alarm_s(poisson_test(rate), counts, step_s)
        if at is None:
            return found
        found, counts = found + 1, counts[round(at / step_s) :]
    return found


def delay_s(rate, ratio, seed, calm_s=120.0):
    """Seconds from a change to the alarm, of Poisson arrivals; samples come each quarter of a second."""
    test, step_s = poisson_test(rate), 0.25
    before = poisson_counts(rate, calm_s, step_s, seed)
    assert alarm_s(test, before, step_s) is None
    return alarm_s(
        test, poisson_counts(ratio * rate, 20_000.0 / rate, step_s, seed + 10**6), step_s
    )


def day_of_ratios(rate, seed, look_s, spread=0.33, spell_s=30.0):
    """Measured over planned device time of a replica with so many batches a second, each `look_s` seconds."""
    draw = np.random.default_rng(seed)
    on = LoadMonitor(PROBLEM, {}, PLAN, "run-1", 1, POLICY)
    step_s = max(1.0, 1 / rate, look_s / 60)
    batches, seconds, spell = 0, 0.0, 1.0
    for n in range(int(DAY_S / step_s)):
        if n * step_s % spell_s < step_s:
            spell = draw.uniform(0.85, 1.15)
        new = int(draw.poisson(rate * step_s))
        batches += new
        # The sum of so many gamma variates is one of so many times the shape.
        seconds += spell * BATCH_S * draw.gamma(max(new, 1e-9) / spread**2, spread**2)
        said = pb.ReplicaSample(
            workflow="read",
            generation=1,
            replica="detect@hub-1/v",
            batches=batches,
            batch_sizes={1: batches},
            batch_seconds={1: seconds},
        )
        figures = pb.WorkerFigures(replicas=[said])
        on.take("hub-1", pb.Sample(at=n * step_s, figures=figures))
        if n * step_s % look_s < step_s:
            yield from on.ratios().values()


def median_delay_s(rate, ratio, runs):
    """The median over so many runs."""
    return statistics.median(delay_s(rate, ratio, seed) or float("inf") for seed in range(runs))


def _show(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    for rate in RATES:
        found = sum(false_alarms(rate, args.days * DAY_S, seed) for seed in range(args.seeds))
        _show(f"{rate}/s: {found} false alarms in {args.seeds} x {args.days} days")
    for rate in RATES:
        delays = [median_delay_s(rate, ratio, args.runs) for ratio in CHANGED]
        told = ", ".join(f"x{r} {d:.4g} s" for r, d in zip(CHANGED, delays, strict=True))
        _show(f"{rate}/s: {told}")


if __name__ == "__main__":
    main()
