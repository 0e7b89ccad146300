"""When to stop repeating, and what the samples say."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.profiling.repeating import LOOKED_AT, TYPICAL, Samples, StoppingRule, quantile, t95
from agent.profiling.rotation import starts

RULE = StoppingRule(interval=0.05, min_repeats=5, max_repeats=50)
TIMES = st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=60)


def taken(*seconds: float) -> Samples:
    samples = Samples()
    for one in seconds:
        samples.add(one)
    return samples


@given(TIMES)
def test_the_running_mean_and_interval_are_those_of_the_whole(seconds: list[float]) -> None:
    samples = taken(*seconds)
    mean = statistics.fmean(seconds)
    error = statistics.stdev(seconds) / math.sqrt(len(seconds))
    assert samples.mean == pytest.approx(mean)
    expected = LOOKED_AT * t95(len(seconds) - 1) * error / mean
    assert samples.interval == pytest.approx(expected, abs=1e-6)


@given(TIMES)
def test_percentiles_rise_and_lie_between_the_extremes(seconds: list[float]) -> None:
    found = taken(*seconds).distribution()
    rising = [found.p50, found.p75, found.p90, found.p95, found.p99]
    assert rising == sorted(rising)
    assert min(seconds) <= rising[0] <= rising[-1] <= max(seconds)


def test_quantiles_are_linear_between_samples() -> None:
    assert quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0
    assert quantile([7.0], 0.99) == 7.0


def test_it_stops_when_tight_but_not_before_the_fewest_repeats() -> None:
    assert not taken(1.0, 1.0, 1.0, 1.0).enough(RULE)
    assert taken(1.0, 1.0, 1.0, 1.0, 1.0).enough(RULE)


def test_it_goes_on_while_loose_but_not_beyond_the_most_repeats() -> None:
    assert not taken(*[1.0, 3.0] * 24).enough(RULE)
    assert taken(*[1.0, 3.0] * 25).enough(RULE)


def test_what_differs_between_strata_is_no_chance() -> None:
    samples = Samples([1.0, 10.0])
    for i in range(10):
        samples.add([1.0, 10.0][i % 2] + i / 1000, stratum=i % 2)
    assert samples.mean == pytest.approx(5.5045)
    assert samples.interval < 0.001
    assert taken(*samples.seconds).interval > 0.5


def test_the_mean_of_all_follows_from_the_work_of_some() -> None:
    samples = Samples([1.0, 2.0, 3.0, 6.0])
    samples.add(0.1, 0)
    samples.add(0.21, 1)
    assert samples.mean == pytest.approx(0.31 / 3 * 3.0)
    assert 0 < samples.interval < 1


def test_from_four_samples_on_a_constant_part_of_the_time_is_none_of_the_work() -> None:
    works = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
    samples = Samples(works)
    for stratum in range(4):
        samples.add(10.0 + works[stratum], stratum)
    assert samples.mean == pytest.approx(14.0)
    assert samples.interval < 1e-6


def test_time_that_is_not_as_the_work_widens_the_interval_until_every_stratum_came_twice() -> None:
    works, times = [1.0, 2.0, 3.0, 4.0], [5.0, 1.0, 7.0, 2.0]
    samples = Samples(works)
    for stratum in range(4):
        samples.add(times[stratum], stratum)
    assert samples.interval > 0.5
    for stratum in range(4):
        samples.add(times[stratum], stratum)
    assert samples.mean == pytest.approx(15 / 4)
    assert samples.interval < 1e-6


def test_a_stratum_counts_no_more_because_it_came_more_often() -> None:
    samples = Samples([1.0, 2.0, 6.0])
    for index in range(8):
        samples.add((1.0, 2.0, 6.0)[index % 3], index % 3)
    assert samples.mean == pytest.approx(3.0)
    assert samples.distribution().mean == pytest.approx(3.0)


def covered(size: int, noise: float, misfit: float, trials: int = 300) -> tuple[float, float]:
    """How often the interval holds the mean, and the samples taken, of items of one to five units of work each."""
    rng = random.Random(f"{size} {noise} {misfit}")
    items = [1, 2, 3, 1, 2, 5, 3, 2, 3, 4, 2, 3]
    works = [float(sum(items[(i + j) % 12] for j in range(size))) for i in range(12)]
    hits = taken = 0
    for _ in range(trials):
        times = [(0.3 * size + work) * (1 + rng.gauss(0, misfit)) for work in works]
        samples = Samples(works, TYPICAL)
        for stratum in starts(12, size):
            samples.add(times[stratum] * (1 + rng.gauss(0, noise)), stratum)
            if samples.enough(StoppingRule(interval=0.05, min_repeats=5, max_repeats=200)):
                break
        truth, found = statistics.fmean(times), samples.estimate()
        hits += abs(found.mean - truth) <= found.interval * found.mean
        taken += len(samples.seconds)
    return hits / trials, taken / trials


@pytest.mark.parametrize("size", [1, 4, 8])
@pytest.mark.parametrize("misfit", [0.0, 0.05])
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.06, 0.15])
def test_intervals_hold_the_mean_although_measuring_ends_when_they_are_small(
    size: int, misfit: float, noise: float
) -> None:
    held, _ = covered(size, noise, misfit)
    # The seeds are fixed; 0.91 of 300 is what 0.95 would be below in one of 1000 runs.
    assert held >= 0.91


def test_little_noise_needs_few_batches_whatever_the_items_are() -> None:
    """Two rounds of 12 strata would be 24."""
    for size in (1, 4, 8):
        assert covered(size, 0.02, 0.0)[1] < 7


def test_one_sample_says_nothing_of_its_spread() -> None:
    assert taken(2.0).interval == 1.0


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 15, 30, 100, 1000])
def test_t_is_students(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)
