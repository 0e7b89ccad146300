"""The part of a job under way counts as busy, so that no window sees all of a long one at once."""

from __future__ import annotations

import pytest

from agent.serving.batcher import Job, JobStep
from tests.unit.serving.test_logbook import queue, work


def test_a_job_under_way_counts_for_as_long_as_it_runs() -> None:
    replica = queue()
    one = work(1, 10.0)
    job = Job(3, "r@d", JobStep.APPLY, works=(one,))
    assert replica.busy(10.0) == 0.0
    replica.began(10.0)
    assert replica.busy(10.25) == pytest.approx(0.25)
    assert replica.busy(35.0) == pytest.approx(25.0)
    replica.note(job, 25.4, 35.4)
    assert replica.busy(36.0) == pytest.approx(25.4)
    assert replica.busy(99.0) == pytest.approx(25.4)


def test_over_any_window_it_is_busy_for_no_longer_than_the_window() -> None:
    replica, told = queue(), list[tuple[float, float]]()
    for start, seconds in ((0.0, 25.4), (26.0, 0.1), (26.1, 3.0)):
        replica.began(start)
        told += [
            (start + part * seconds, replica.busy(start + part * seconds)) for part in (0, 0.5)
        ]
        job = Job(3, "r@d", JobStep.APPLY, works=(work(1, start),))
        replica.note(job, seconds, start + seconds)
        told.append((start + seconds, replica.busy(start + seconds)))
    for before, (at, busy) in enumerate(told):
        for later, more in told[before:]:
            assert -1e-9 <= more - busy <= later - at + 1e-9
