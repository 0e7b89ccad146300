import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.batching.simulation import simulate
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.chain import SingleServer
from coordinator.planning.batching.recursion import estimate, replay
from coordinator.planning.batching.service import ServiceTimes
from tiermesh.errors import Infeasible, InvalidDocument, Unsupported

DEVICE = ServiceTimes(0.004 + 0.001 * np.arange(1, 33))


def waits_within(time, rate, service):
    """The waiting time of M/D/1 (Crommelin 1932)."""
    load = rate * service
    terms = range(int(time / service) + 1)
    ahead = (rate * (k * service - time) for k in terms)
    return (1 - load) * math.fsum(
        a**k / math.factorial(k) * math.exp(-a) for k, a in enumerate(ahead)
    )


@pytest.mark.parametrize("load", [0.3, 0.7, 0.93])
def test_the_chain_is_the_queue_of_crommelin_for_batches_of_one(load):
    service = float(DEVICE.seconds[0])
    chain = SingleServer(MarkovianArrivals.poisson(load / service), DEVICE, 1, 0.0)
    for wait in (0.0, 0.3 * service, 1.7 * service, 4.2 * service):
        expected = waits_within(wait, load / service, service)
        assert chain.latency.share_within(service + wait + 1e-12) == pytest.approx(
            expected, abs=3e-4
        )


@pytest.mark.parametrize(
    ("load", "batch_size", "timeout"),
    [(0.3, 8, 0.012), (0.6, 4, 0.005), (0.6, 16, 0.02), (0.85, 8, 0.005)],
)
def test_the_chain_agrees_with_simulation(assert_agrees, load, batch_size, timeout):
    process = MarkovianArrivals.poisson(load * DEVICE.capacity(batch_size))
    check(assert_agrees, process, batch_size, timeout)


def test_the_chain_agrees_with_simulation_on_bursts_above_capacity(assert_agrees):
    """Overload for 20 ms at a time: queues that a plan must foresee."""
    check(assert_agrees, MarkovianArrivals.mmpp((100.0, 1200.0), (10.0, 50.0)), 8, 0.01)


def test_the_chain_agrees_with_simulation_on_alternating_gaps(assert_agrees):
    alternating = MarkovianArrivals(
        np.array([[-10.1, 0.0], [0.0, -202.0]]), np.array([[0.1, 10.0], [200.0, 2.0]])
    )
    check(assert_agrees, alternating.at_rate(300.0), 8, 0.01)


def check(assert_agrees, process, batch_size, timeout):
    arrivals = process.sample(200_000, np.random.default_rng(5)).tolist()
    run = simulate(arrivals, DEVICE.seconds.tolist(), batch_size, timeout)
    exact = SingleServer(process, DEVICE, batch_size, timeout)
    assert_agrees(exact.latency.percentile, run)
    assert exact.served_per_batch == pytest.approx(run.sizes.mean(), rel=0.015)
    assert exact.utilization == pytest.approx(run.busy_s / run.span_s, rel=0.015)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.05, 0.95),
    st.integers(1, 12),
    st.floats(0.0, 0.02),
    st.floats(1.0, 8.0),
    st.floats(0.5, 40.0),
)
def test_every_request_that_is_served_is_counted_once(load, batch_size, timeout, contrast, leave):
    """The members of the latency mixture are those that the chain serves."""
    rate = load * DEVICE.capacity(batch_size)
    process = MarkovianArrivals.mmpp((1.0, contrast), (leave, leave)).at_rate(rate)
    chain = SingleServer(process, DEVICE, batch_size, timeout)
    assert chain.latency.table.totals.sum() == pytest.approx(chain.served_per_batch, rel=1e-6)
    assert 0 < chain.utilization < 1


def test_the_recursion_is_the_simulation():
    arrivals = MarkovianArrivals.mmpp((100.0, 700.0), (2.0, 2.0)).sample(
        20_000, np.random.default_rng(2)
    )
    for batch_size, timeout, servers in (
        (1, 0.0, 1),
        (1, 0.0, 2),
        (5, 0.004, 1),
        (8, 0.02, 3),
        (8, 0.02, None),
    ):
        run = simulate(arrivals.tolist(), DEVICE.seconds.tolist(), batch_size, timeout, servers)
        ours = replay(arrivals, DEVICE, batch_size, timeout, servers=servers)
        assert ours.latencies_s == pytest.approx(run.latencies_s, abs=1e-9)
        assert ours.sizes.tolist() == run.sizes.tolist()


def test_the_estimate_over_common_arrivals_is_near_the_exact_law():
    process = MarkovianArrivals.poisson(0.7 * DEVICE.capacity(8))
    arrivals = process.sample(100_000, np.random.default_rng(3))
    near = estimate(arrivals, DEVICE, 8, 0.01, warmup=0.01)
    exact = SingleServer(process, DEVICE, 8, 0.01).estimate
    assert near.p95 == pytest.approx(exact.p95, rel=0.01)
    assert near.utilization == pytest.approx(exact.utilization, rel=0.01)
    assert near.device_seconds == pytest.approx(exact.device_seconds, rel=0.01)


def test_simultaneous_arrivals_travel_together():
    run = replay(np.zeros(10), DEVICE, 4, 0.01)
    assert run.sizes.tolist() == [4, 4, 2]
    assert run.starts == pytest.approx([0.0, 0.008, 0.016])


def test_more_than_can_be_served_has_no_steady_state():
    with pytest.raises(Infeasible, match="can be served"):
        SingleServer(MarkovianArrivals.poisson(700.0), DEVICE, 8, 0.01)


def test_queues_too_long_to_solve_for_are_left_to_the_recursion():
    overloaded_for_minutes = MarkovianArrivals.mmpp((10.0, 5000.0), (0.01, 0.1))
    with pytest.raises(Unsupported, match="recursion"):
        SingleServer(overloaded_for_minutes, DEVICE, 8, 0.01).estimate  # noqa: B018


@pytest.mark.parametrize(
    ("arrivals", "batch_size", "timeout", "why"),
    [
        ([], 4, 0.1, "no arrivals"),
        ([1.0], 64, 0.1, "no service time"),
        ([1.0], 0, 0.1, "batch of 0"),
        ([1.0], 4, -1.0, "timeout"),
    ],
)
def test_what_cannot_be_estimated_is_refused_with_the_reason(arrivals, batch_size, timeout, why):
    with pytest.raises(InvalidDocument, match=why):
        estimate(np.array(arrivals), DEVICE, batch_size, timeout)
