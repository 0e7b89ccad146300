from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.fitting import Timestamps, fit
from coordinator.planning.batching.forecast import forecast
from tiermesh.errors import InvalidDocument

BURSTY = MarkovianArrivals.mmpp((10.0, 120.0), (0.5, 0.5))


def fitted(process, count, seed=1):
    return fit(Timestamps.read(process.sample(count, np.random.default_rng(seed))))


@pytest.mark.parametrize("rate", [1e-3, 40.0, 1e4])
def test_poisson_is_not_over_fitted(rate):
    found = fitted(MarkovianArrivals.poisson(rate), 3_000)
    assert found.name == "poisson"
    assert found.good
    assert "no better" in found.refused
    assert found.process.rate == pytest.approx(rate, rel=0.1)


def test_bursts_are_found_with_their_rates():
    found = fitted(BURSTY, 20_000)
    assert found.name == "mmpp2"
    assert found.good
    assert found.bic_gain > 1000
    assert sorted(np.diag(found.process.d1)) == pytest.approx([10.0, 120.0], rel=0.1)
    assert found.process.dispersion == pytest.approx(BURSTY.dispersion, rel=0.4)


def test_one_change_of_rate_is_a_drift_and_not_bursts():
    generator = np.random.default_rng(4)
    slow, fast = (MarkovianArrivals.poisson(rate).sample(1_000, generator) for rate in (10.0, 50.0))
    found = fit(Timestamps.read(np.concatenate([slow, slow[-1] + fast])))
    assert found.name == "poisson"
    assert "drift" in found.refused
    assert not found.good


def test_few_arrivals_are_not_asked_for_phases():
    assert "too few" in fitted(BURSTY, 50).refused


def test_whole_milliseconds_do_not_make_bursts():
    times = np.round(MarkovianArrivals.poisson(200.0).sample(5_000, np.random.default_rng(2)), 3)
    found = fit(Timestamps.read(times))
    assert found.name == "poisson"
    assert found.process.rate == pytest.approx(200.0, rel=0.05)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60))
def test_timestamps_are_put_in_order_and_kept(raw):
    read = Timestamps.read(raw)
    assert read.seconds.tolist() == sorted(raw)
    assert read.unsorted == sum(b < a for a, b in pairwise(raw))
    assert read.duplicates == len(raw) - len(set(raw))


@pytest.mark.parametrize(
    ("raw", "why"), [([], "empty"), ([1.0, float("nan")], "entry 2"), ([float("inf")], "entry 1")]
)
def test_what_is_no_trace_is_refused_with_the_reason(raw, why):
    with pytest.raises(InvalidDocument, match=why):
        Timestamps.read(raw)


@pytest.mark.parametrize("raw", [[5.0], [5.0, 5.0, 5.0]])
def test_one_moment_has_no_rate(raw):
    with pytest.raises(InvalidDocument, match="no rate"):
        fit(Timestamps.read(raw))


def test_hours_are_counted_from_the_first_arrival():
    hours = Timestamps.read([100.0, 159.9, 160.0, 290.0]).hours(60.0)
    assert {number: hour.seconds.tolist() for number, hour in hours.items()} == {
        1: [100.0, 159.9],
        2: [160.0],
        4: [290.0],
    }


def test_a_window_that_is_nearly_empty_is_slow_and_not_a_burst():
    """Two arrivals within a millisecond of a minute are two a minute."""
    window = Timestamps.read([0.0, 60.0, 60.001, 120.0]).hours(60.0)[2]
    assert fit(window).process.rate == pytest.approx(2 / 60)
    assert fit(Timestamps.read([0.0, 100.0]).hours(60.0)[2]).process.rate == pytest.approx(1 / 40)


def test_a_forecast_follows_a_trend_that_has_held():
    growing = [MarkovianArrivals.poisson(rate) for rate in (10.0, 20.0, 40.0, 80.0)]
    assert forecast(growing).rate == pytest.approx(160.0)


def test_a_forecast_stays_where_there_is_no_trend():
    swinging = [BURSTY.at_rate(rate) for rate in (10.0, 20.0, 10.0, 20.0)]
    expected = forecast(swinging)
    assert expected.rate == pytest.approx(20.0)
    assert expected.dispersion == pytest.approx(BURSTY.dispersion)


def test_a_forecast_from_one_hour_is_that_hour():
    assert forecast([BURSTY]).rate == pytest.approx(BURSTY.rate)
