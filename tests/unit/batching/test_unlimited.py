import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.batching.simulation import simulate
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.unlimited import UnlimitedServers

MILLISECONDS = 0.004 + 0.001 * np.arange(1, 21)


def law_of(process, batch_size, timeout, refine=1):
    return UnlimitedServers(process, [batch_size], [timeout], refine).law(batch_size)


def check(assert_agrees, process, seconds, batch_size, timeout):
    arrivals = process.sample(100_000, np.random.default_rng(7)).tolist()
    run = simulate(arrivals, seconds.tolist(), batch_size, timeout, servers=None)
    law = law_of(process, batch_size, timeout)
    assert_agrees(lambda quantile: law.percentiles(seconds[None, :], quantile)[0, 0], run)
    assert law.mean_batch[0] == pytest.approx(run.sizes.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("hour", "batch_size", "timeout"),
    [("Twitter/1", 20, 0.4), ("NYS/8", 8, 0.1), ("Twitter/24", 3, 0.05)],
)
def test_percentiles_agree_with_simulation_on_the_published_hours(
    assert_agrees, published_maps, hour, batch_size, timeout
):
    trace, name = hour.split("/")
    seconds = 1.0 + 0.25 * np.arange(1, 21)
    check(assert_agrees, published_maps[trace][name], seconds, batch_size, timeout)


@pytest.mark.parametrize(("batch_size", "timeout"), [(2, 0.02), (8, 0.02), (20, 0.05)])
def test_percentiles_agree_at_the_scale_of_milliseconds(assert_agrees, batch_size, timeout):
    check(assert_agrees, MarkovianArrivals.poisson(300.0), MILLISECONDS, batch_size, timeout)


def test_percentiles_agree_on_bursts_and_three_phases(assert_agrees):
    three = MarkovianArrivals(
        np.array([[-30.0, 1.0, 0.5], [0.2, -4.0, 0.3], [2.0, 0.1, -90.0]]),
        np.array([[25.0, 2.0, 1.5], [3.0, 0.5, 0.0], [0.9, 7.0, 80.0]]),
    )
    check(assert_agrees, three, 0.5 + 0.1 * np.arange(1, 21), 10, 0.2)
    alternating = MarkovianArrivals(
        np.array([[-10.1, 0.0], [0.0, -202.0]]), np.array([[0.1, 10.0], [200.0, 2.0]])
    )
    check(assert_agrees, alternating, 0.5 + 0.1 * np.arange(1, 21), 10, 0.3)


def test_service_times_may_fall_with_the_batch(assert_agrees):
    check(assert_agrees, MarkovianArrivals.poisson(200.0), np.linspace(0.06, 0.01, 20), 8, 0.03)


def test_a_batch_of_one_waits_for_nothing():
    law = law_of(MarkovianArrivals.poisson(50.0), 1, 0.3)
    assert law.percentiles(np.array([[0.2]]), 0.99)[0, 0] == pytest.approx(0.2)
    assert law.mean_batch[0] == 1


def test_no_timeout_means_no_waiting():
    law = law_of(MarkovianArrivals.poisson(50.0), 8, 0.0)
    assert law.percentiles(MILLISECONDS[None, :], 0.99)[0, 0] == pytest.approx(MILLISECONDS[0])


def test_the_first_of_a_poisson_pair_waits_exponentially_up_to_the_timeout():
    """B = 2 in closed form: half of a pair's members wait 0, the others their partner's gap."""
    rate, timeout, service = 20.0, 0.1, np.array([[1.0, 1.0]])
    law = law_of(MarkovianArrivals.poisson(rate), 2, timeout)
    paired = 1 - np.exp(-rate * timeout)
    waits = np.array([0.01, 0.05, 0.09])
    expected = (paired + 1 - np.exp(-rate * waits)) / (1 + paired)
    assert law.waits.shares(1.0 + waits[None, :], np.repeat(service, 3, 0))[0] == pytest.approx(
        expected, abs=2e-4
    )


def test_a_finer_table_changes_next_to_nothing():
    process = MarkovianArrivals.mmpp((10.0, 475.0), (0.2, 5.0))
    rough = law_of(process, 12, 0.4).percentiles(MILLISECONDS[None, :], 0.95)[0, 0]
    fine = law_of(process, 12, 0.4, refine=16).percentiles(MILLISECONDS[None, :], 0.95)[0, 0]
    assert rough == pytest.approx(fine, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.floats(1.0, 1000.0), st.integers(1, 20), st.floats(0.0, 0.5))
def test_percentiles_grow_with_the_quantile_and_lie_within_bounds(rate, batch_size, timeout):
    law = law_of(MarkovianArrivals.poisson(rate), batch_size, timeout)
    values = [law.percentiles(MILLISECONDS[None, :], q)[0, 0] for q in (0.5, 0.75, 0.9, 0.95, 0.99)]
    assert values == sorted(values)
    assert MILLISECONDS[0] - 1e-6 <= values[0]
    assert values[-1] <= MILLISECONDS[batch_size - 1] + timeout + 1e-6
    assert law.sizes.sum() == pytest.approx(1.0)
