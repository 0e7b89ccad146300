import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coordinator.planning.batching.arrivals import MarkovianArrivals, stationary
from tiermesh.errors import InvalidDocument

BURSTY = MarkovianArrivals.mmpp((10.0, 120.0), (0.5, 0.5))
rates = st.floats(0.01, 100.0)


@st.composite
def processes(draw, most_phases=4):
    """MAPs that reach every phase and arrive in each."""
    n = draw(st.integers(1, most_phases))
    d0 = draw(arrays(float, (n, n), elements=rates))
    d1 = draw(arrays(float, (n, n), elements=rates))
    np.fill_diagonal(d0, 0.0)
    return MarkovianArrivals(d0 - np.diag(d0.sum(axis=1) + d1.sum(axis=1)), d1)


def test_poisson_is_a_map_without_bursts():
    poisson = MarkovianArrivals.poisson(7.0)
    assert poisson.rate == 7.0
    assert poisson.gap_scv == pytest.approx(1.0)
    assert poisson.dispersion == pytest.approx(1.0)


@given(processes())
def test_the_stationary_phases_balance(process):
    assert process.phase_shares @ (process.d0 + process.d1) == pytest.approx(0.0, abs=1e-9)
    assert process.phase_after_arrivals @ process.after_arrival == pytest.approx(
        process.phase_after_arrivals
    )


@given(processes(), st.floats(0.05, 1.0))
def test_a_share_of_the_arrivals_has_that_share_of_the_rate_and_is_less_bursty(process, share):
    thinned = process.thinned(share)
    assert thinned.rate == pytest.approx(share * process.rate, rel=1e-6)
    assert thinned.dispersion - 1 == pytest.approx(share * (process.dispersion - 1), abs=1e-6)


def test_slow_switching_keeps_its_precision():
    shares = stationary(np.array([[-1e-12, 1e-12], [3e-12, -3e-12]]))
    assert shares == pytest.approx([0.75, 0.25], rel=1e-12)


def test_samples_have_the_rate_and_the_burstiness_of_the_process():
    times = BURSTY.sample(200_000, np.random.default_rng(1))
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert 1 / gaps.mean() == pytest.approx(BURSTY.rate, rel=0.05)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(BURSTY.gap_scv, rel=0.1)


@settings(max_examples=20)
@given(processes(most_phases=3), st.integers(0, 2**31))
def test_samples_follow_their_seed(process, seed):
    first = process.sample(50, np.random.default_rng(seed))
    assert (first == process.sample(50, np.random.default_rng(seed))).all()


@pytest.mark.parametrize(
    ("d0", "d1", "why"),
    [
        ([[-1.0]], [[1.0, 0.0]], "square"),
        ([[-1.0]], [[2.0]], "sum to zero"),
        ([[-1.0, -1.0], [0.0, -1.0]], [[2.0, 0.0], [0.0, 1.0]], "negative"),
        ([[-1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]], "no arrival"),
        ([[float("nan")]], [[1.0]], "finite"),
    ],
)
def test_what_is_no_arrival_process_is_refused_with_the_reason(d0, d1, why):
    with pytest.raises(InvalidDocument, match=why):
        MarkovianArrivals(np.array(d0), np.array(d1))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_must_be_positive(rate):
    with pytest.raises(InvalidDocument, match="rate"):
        MarkovianArrivals.poisson(rate)
