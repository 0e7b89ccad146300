"""When to stop repeating, and what the samples say."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.profiling.repeating import Rule, Samples, quantile, t95

RULE = Rule(interval=0.05, min_repeats=5, max_repeats=50)
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
    assert samples.interval == pytest.approx(t95(len(seconds) - 1) * error / mean, abs=1e-6)


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
    samples = Samples()
    for i in range(10):
        samples.add([1.0, 10.0][i % 2] + i / 1000, stratum=i % 2)
    assert samples.mean == pytest.approx(5.5045)
    assert samples.interval < 0.001
    assert taken(*samples.seconds).interval > 0.5


def test_a_sample_of_each_stratum_says_nothing_of_the_spread() -> None:
    samples = Samples()
    samples.add(1.0, stratum=0)
    samples.add(2.0, stratum=1)
    assert samples.interval == 1.0


def test_one_sample_says_nothing_of_its_spread() -> None:
    assert taken(2.0).interval == 1.0


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 15, 30, 100, 1000])
def test_t_is_students(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_a_round_that_was_cut_off_does_not_count() -> None:
    """Short lines are measured as often as long ones."""
    samples = Samples()
    for index in range(8):
        samples.add((1.0, 2.0, 6.0)[index % 3], index % 3)
    whole = samples.whole_rounds(3)
    assert (len(whole.seconds), whole.mean) == (6, pytest.approx(3.0))
    assert samples.whole_rounds(9).seconds == samples.seconds, "where there is nothing else"
