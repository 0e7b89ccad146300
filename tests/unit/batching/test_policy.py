import ast
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.service import ServiceTimes
from tiermesh.batching import policy, tuning
from tiermesh.batching.policy import Queue, follow, follow_shared
from tiermesh.batching.tuning import Bounds, Tuned, TuningReason, retune

DEVICE = ServiceTimes(0.004 + 0.001 * np.arange(1, 17))
SECONDS = DEVICE.seconds.tolist()


def test_a_device_alone_is_shared_with_nobody():
    arrivals = MarkovianArrivals.poisson(200.0).sample(2_000, np.random.default_rng(1)).tolist()
    assert follow_shared([Queue(arrivals, SECONDS, 4, 0.01)])[0] == follow(
        arrivals, SECONDS, 4, 0.01
    )


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 6), st.floats(0, 0.1)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_replicas_on_one_device_never_run_at_once_and_serve_all(shapes):
    queues = [Queue(sorted(times), SECONDS, size, wait) for times, size, wait in shapes]
    runs = follow_shared(queues)
    spans = sorted(
        (start, start + SECONDS[size - 1])
        for starts, sizes in runs
        for start, size in zip(starts, sizes, strict=True)
    )
    assert all(end <= start + 1e-12 for (_, end), (start, _) in pairwise(spans))
    assert [sum(sizes) for _, sizes in runs] == [len(queue.arrivals) for queue in queues]
    assert all(
        max(sizes) <= queue.batch_size for queue, (_, sizes) in zip(queues, runs, strict=True)
    )


class TestRetune:
    BOUNDS = Bounds(16, 0.02, latency_s=0.05)
    CALM = MarkovianArrivals.poisson(50.0).sample(1_000, np.random.default_rng(1)).tolist()
    BUSY = MarkovianArrivals.poisson(500.0).sample(1_000, np.random.default_rng(1)).tolist()

    def test_a_setting_that_misses_is_left(self):
        decision = retune(self.BUSY, SECONDS, Tuned(1, 0.0), self.BOUNDS)
        assert decision.reason is TuningReason.MISSES
        assert decision.setting.batch_size > 2
        assert retune(self.BUSY, SECONDS, decision.setting, self.BOUNDS).reason is TuningReason.FITS

    def test_device_time_is_saved_where_there_is_time(self):
        decision = retune(self.CALM, SECONDS, Tuned(1, 0.0), self.BOUNDS)
        assert decision.reason is TuningReason.SAVES
        assert retune(self.CALM, SECONDS, decision.setting, self.BOUNDS).reason is TuningReason.FITS

    def test_where_nothing_meets_the_latency_the_nearest_is_taken(self):
        flood = (np.arange(1_000) / 5_000).tolist()
        decision = retune(flood, SECONDS, Tuned(1, 0.0), self.BOUNDS)
        assert decision.reason is TuningReason.OVERLOAD
        assert decision.setting.batch_size == 16

    def test_a_handful_of_arrivals_changes_nothing(self):
        assert retune([0.0, 1.0], SECONDS, Tuned(4, 0.01), self.BOUNDS).setting == Tuned(4, 0.01)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(st.floats(0, 10), min_size=50, max_size=120),
        st.integers(1, 16),
        st.floats(0.001, 0.2),
    )
    def test_it_stays_within_the_bounds(self, times, largest, latency):
        bounds = Bounds(largest, 0.02, latency)
        setting = retune(sorted(times), SECONDS, Tuned(1, 0.0), bounds).setting
        assert 1 <= setting.batch_size <= largest
        assert 0 <= setting.timeout_s <= 0.02

    @pytest.mark.parametrize("module", [policy, tuning])
    def test_it_needs_nothing_but_the_standard_library(self, module):
        """An agent's worker runs it, without NumPy."""
        tree = ast.parse(Path(str(module.__file__)).read_text())
        imported = {
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
        assert foreign <= {policy.__name__}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
