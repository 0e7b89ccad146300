"""How long batches are timed, and what a quota makes of it."""

from __future__ import annotations

import pytest

from agent.model_host.emulation import CountedTime
from agent.profiling.benchmark import item_shares
from agent.profiling.disturbance import DisturbanceWatch
from agent.profiling.repeating import Samples, StoppingRule
from agent.profiling.rotation import Rotation
from agent.profiling.timing import Batches, DeviceClock, StageTiming, affordable, sustained
from tests.unit.device.test_rotation import items

FOREVER = 1e12


class Computing:
    """A loaded variant that needs no time."""

    def __init__(self) -> None:
        self.runs = 0

    def infer(self, batch: list[object]) -> list[object]:
        self.runs += 1
        return batch


def batches(waits: list[float], rule: StoppingRule) -> tuple[Batches, Computing]:
    """On a kernel that counts these waits, read before and after each batch."""
    computing, told = Computing(), iter(waits)
    pace = DeviceClock(CountedTime(), slowdown=2.0)
    rotation = Rotation(items(1, 1), [0.5, 0.5], 1)
    watch = DisturbanceWatch(lambda: next(told))
    return Batches(
        computing, rotation, StageTiming([0.5, 0.5], 0.0), pace, rule, 0.0, watch
    ), computing


def test_a_batch_that_waited_for_a_processor_is_measured_again() -> None:
    timed, computing = batches([0.0, 9.0, 9.0, 9.0, 9.0, 9.0], StoppingRule(0.05, 2, 2))
    assert timed.measure(FOREVER)
    assert (computing.runs, timed.repeated) == (2, 1)
    assert not timed.measure(FOREVER)
    assert timed.point(1, 1, 0, None).samples == 2


def test_a_machine_that_is_always_busy_is_measured_as_it_is() -> None:
    timed, computing = batches([float(i) for i in range(100)], StoppingRule(0.0, 3, 5))
    while timed.measure(FOREVER):
        pass
    assert (computing.runs, timed.repeated) == (8, 3)


def test_when_time_is_over_nothing_is_repeated_and_two_batches_tell_the_spread() -> None:
    timed, computing = batches([float(i) for i in range(100)], StoppingRule(0.0, 3, 50))
    while timed.measure(0.0):
        pass
    assert (computing.runs, timed.repeated) == (2, 0)


def test_a_kernel_that_does_not_count_waits_disturbs_nothing() -> None:
    watch = DisturbanceWatch(lambda: None)
    watch.begin()
    assert not watch.was_disturbed()


def test_the_interval_of_stage_code_counts() -> None:
    timed, _ = batches([0.0] * 100, StoppingRule(0.05, 5, 5))
    timed.stage = StageTiming([0.5, 0.5], 0.1)
    while timed.measure(FOREVER):
        pass
    assert timed.point(1, 1, 0, None).interval == pytest.approx(0.1, rel=0.1)


def test_a_batch_takes_no_less_than_its_processor_time_over_the_quota() -> None:
    # At half a core, 4 ms of computing take 8 ms; two threads take 2 ms of time for 4 ms of computing.
    assert sustained(0.004, 0.004, 0.5) == 0.008
    assert sustained(0.002, 0.004, 0.5) == 0.008
    assert sustained(0.004, 0.004, 2.0) == 0.004
    assert sustained(0.004, 0.004, None) == 0.004


def test_a_batch_size_without_time_for_three_batches_is_left_out() -> None:
    takes = {1: 0.02, 2: 0.04}
    assert affordable(1, {}, 0.1), "nothing is known yet"
    assert not affordable(1, {}, 0.0)
    assert affordable(4, takes, 0.25)
    assert not affordable(4, takes, 0.23)


def test_requests_without_items_are_borne_by_the_others() -> None:
    timed = Samples([1.0, 1.0, 2.0])
    for stratum, seconds in enumerate([0.1, 0.2, 0.6]):
        timed.add(seconds, stratum)
    shares = item_shares(timed, [0, 1, 2])
    assert shares == pytest.approx([0.2 * 9 / 8, 0.3 * 9 / 8, 0.3 * 9 / 8])
    assert sum(shares) == pytest.approx(0.9)
