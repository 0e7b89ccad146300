"""The load against the plan: rates with intervals, bursts, and what a test remembers. Its errors: `simulation`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.replanning.bursts import (
    planned_dispersion,
    planned_spread,
    recorded_dispersion,
    spread,
)
from coordinator.replanning.load import CHANGES, LoadTest, dispersion_of, rate_of
from tiermesh.documents.problem import Arrivals, MapRates, ProblemStage

MONTH_S = 30 * 86_400.0


def offered(test, rate, seconds, **more):
    for at in range(seconds):
        test.add(int(rate * (at + 1)) - int(rate * at), 1.0, **more)
    return test


def test_the_interval_of_a_rate_holds_it_as_often_as_it_says():
    counts = np.random.default_rng(1).poisson(4.0 * 20, 4_000)
    hits = sum(rate.low <= 4.0 <= rate.high for rate in (rate_of(n, 20.0) for n in counts.tolist()))
    assert 0.94 < hits / 4_000 < 0.96


def test_of_bursty_counts_fewer_tell():
    one, bursty = rate_of(80, 20.0), rate_of(80, 20.0, 4.0)
    assert one.rps == bursty.rps == 4.0
    assert bursty.high - bursty.low == pytest.approx(2 * (one.high - one.low), rel=0.05)


@given(st.floats(0.0, 1e6), st.floats(1e-3, 1e6), st.floats(0.5, 100.0))
def test_an_interval_is_one(requests, seconds, dispersion):
    rate = rate_of(requests, seconds, dispersion)
    assert 0 <= rate.low <= rate.high


def test_what_is_planned_for_is_the_upper_end_until_headroom_is_more():
    test = offered(LoadTest(4.0, MONTH_S), 8.0, 12)
    load = test.load()
    assert load.changed
    assert load.planning_rps(1.1) == load.rate.high > 1.1 * load.rate.rps
    assert offered(test, 8.0, 600).load().planning_rps(1.1) == pytest.approx(8.8, rel=0.02)


def test_a_change_is_over_when_the_load_is_what_it_was():
    test = offered(LoadTest(4.0, MONTH_S), 8.0, 60)
    assert test.changed
    assert not offered(test, 4.0, 120).changed


def test_the_rate_after_a_change_is_not_mixed_with_the_one_before():
    test = offered(offered(LoadTest(4.0, MONTH_S), 4.0, 3_600), 8.0, 20)
    assert test.load().rate.rps == pytest.approx(8.0, rel=0.1)


def test_less_load_says_nothing_while_the_source_is_held_back():
    assert offered(LoadTest(4.0, MONTH_S), 1.0, 200).changed
    assert not offered(LoadTest(4.0, MONTH_S), 1.0, 2_000, held_back=True).changed


def test_an_even_source_of_the_planned_rate_is_no_change_however_it_is_sampled():
    for rate in (0.05, 0.3, 4.0, 77.0):
        assert not offered(LoadTest(rate, MONTH_S, 0.5), rate, 5_000).changed


def test_a_device_that_was_silent_brings_its_requests_late_and_at_once():
    test = offered(LoadTest(4.0, MONTH_S), 4.0, 300)
    test.add(120, 30.0)
    assert not offered(test, 4.0, 300).changed


@pytest.mark.parametrize("change", CHANGES)
def test_poisson_arrivals_need_no_spread_and_bursts_need_what_they_are_bursty(change):
    assert spread(MarkovianArrivals.poisson(4.0), change) == pytest.approx(1.0)
    process = MarkovianArrivals.mmpp((8.0, 2.0), (1.0, 1.0))
    assert 1.5 < spread(process, change) < 1.2 * process.dispersion


def source(arrivals):
    return ProblemStage(name="photos", kind="source", rate_rps=4.0, arrivals=arrivals)


def test_what_the_plan_knows_of_the_arrivals_is_used():
    process = MarkovianArrivals.mmpp((8.0, 2.0), (1.0, 1.0))
    rates = MapRates(D0=process.d0.tolist(), D1=process.d1.tolist())
    assert planned_dispersion(source("poisson")) == 1.0
    assert planned_dispersion(source("constant")) < 1.0
    assert planned_dispersion(source(Arrivals(map=rates))) == pytest.approx(process.dispersion)
    assert planned_spread(source(Arrivals(map=rates))).keys() == set(CHANGES)
    assert planned_spread(source("poisson")) == {}


def test_a_record_of_arrivals_says_how_bursty_they_are():
    generator = np.random.default_rng(3)
    poisson = np.cumsum(generator.exponential(0.25, 20_000)).tolist()
    assert recorded_dispersion(poisson) == 1.0
    bursty = MarkovianArrivals.mmpp((8.0, 2.0), (1.0, 1.0)).sample(20_000, generator).tolist()
    assert 1.8 < recorded_dispersion(bursty) < 4.0
    assert planned_dispersion(source(Arrivals(trace_s=bursty))) == recorded_dispersion(bursty)


def test_one_change_of_the_rate_is_not_taken_for_bursts():
    bins = [(4.0, 1.0)] * 300 + [(12.0, 1.0)] * 300
    assert dispersion_of(bins) < 2.0
