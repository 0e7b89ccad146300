import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.stats import poisson

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.counting import count, counting_matrices

THREE = MarkovianArrivals(
    np.array([[-30.0, 1.0, 0.5], [0.2, -4.0, 0.3], [2.0, 0.1, -90.0]]),
    np.array([[25.0, 2.0, 1.5], [3.0, 0.5, 0.0], [0.9, 7.0, 80.0]]),
)
RARE_BURSTS = MarkovianArrivals.mmpp((10.0, 200.0), (0.01, 0.01))


def by_block_exponential(process, time, most):
    """P_k(t) from one exponential of the block-bidiagonal generator: slow, and another way."""
    n = process.phases
    generator = np.kron(np.eye(most + 1), process.d0) + np.kron(np.eye(most + 1, k=1), process.d1)
    return expm(generator * time)[:n].reshape(n, most + 1, n).transpose(1, 0, 2)


@pytest.mark.parametrize(
    "process",
    [MarkovianArrivals.poisson(40.0), RARE_BURSTS, THREE],
    ids=["poisson", "rare", "three"],
)
@pytest.mark.parametrize("time", [0.0, 1e-6, 0.03, 0.7, 6.0])
def test_counts_agree_with_the_block_exponential(process, time):
    ours = counting_matrices(process, np.array([time]), 12)[0]
    assert ours == pytest.approx(by_block_exponential(process, time, 12), abs=1e-12)


@pytest.mark.parametrize("horizon", [300.0, 5e3, 1e6])
def test_long_horizons_are_halved_and_squared_back(horizon):
    """Beyond 256 expected events the series is not summed directly."""
    ours = counting_matrices(MarkovianArrivals.poisson(1.0), np.array([horizon]), 400)[0, :, 0, 0]
    assert ours == pytest.approx(poisson.pmf(np.arange(401), horizon), rel=1e-8, abs=1e-15)


@settings(max_examples=30)
@given(st.floats(0.0, 2.0), st.floats(1.0, 300.0), st.floats(0.01, 5.0))
def test_probability_is_kept(time, fast, leave):
    counts = count(MarkovianArrivals.mmpp((5.0, fast), (leave, 2 * leave)), np.array(time), 15)
    at_most = counts.exactly[:15].sum(axis=(0, 2))
    assert at_most + counts.at_least[16].sum(axis=1) == pytest.approx(1.0, abs=1e-9)
