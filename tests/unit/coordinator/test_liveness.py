"""Heartbeats: who is suspect, failed, held and ready, and when."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.liveness import (
    LivenessState,
    Timing,
    Vigil,
    added,
    broken,
    heard,
    passed,
)

TIMING = Timing()
TICK_S = 0.1


class Listener:
    """Looks ten times a second, on a clock of the test's."""

    def __init__(self, *devices):
        self.vigil = Vigil(timing=TIMING)
        self.now = 1_000.0
        self.moved = []
        for device in devices:
            self.vigil = added(self.vigil, device)
        self.look(0.0)

    def look(self, elapsed_s=TICK_S):
        self.now += elapsed_s
        self.vigil, moved = passed(self.vigil, self.now)
        self.moved += [(m.device, m.standing) for m in moved]
        self.last = moved
        return moved

    def listen(self, seconds, *talking):
        for _ in range(round(seconds / TICK_S)):
            for device in talking:
                self.vigil = heard(self.vigil, device)
            self.look()

    def standing(self, device="a"):
        return self.vigil.pulses[device].standing


def test_silence_makes_suspect_then_failed_and_only_those_who_are_silent():
    on = Listener("a", "b")
    on.listen(0.9, "b")
    assert on.moved == []
    on.listen(0.2, "b")
    assert on.moved == [("a", LivenessState.SUSPECT)]
    on.listen(1.8, "b")
    assert on.standing() is LivenessState.SUSPECT
    on.listen(0.3, "b")
    assert on.moved == [("a", LivenessState.SUSPECT), ("a", LivenessState.FAILED)]
    assert on.standing("b") is LivenessState.READY


def test_a_broken_stream_is_suspect_at_once_and_failed_soon_when_nobody_listens_there():
    on = Listener("a")
    on.vigil = broken(on.vigil, "a", "connection reset")
    assert [m.why for m in on.look()] == ["connection reset"]
    on.vigil = broken(on.vigil, "a", "connection refused", gone=True)
    on.listen(TIMING.gone_after_s + TICK_S)
    assert on.standing() is LivenessState.FAILED


def test_a_suspect_that_is_heard_again_is_ready_at_once():
    on = Listener("a")
    on.listen(2.0)
    on.listen(TICK_S, "a")
    assert on.moved == [("a", LivenessState.SUSPECT), ("a", LivenessState.READY)]


def test_a_device_that_failed_is_held_first_and_longer_each_time():
    on, holds = Listener("a"), []
    for _ in range(4):
        on.listen(3.5)
        assert on.standing() is LivenessState.FAILED
        begun = on.now
        while on.standing() is not LivenessState.READY:
            on.listen(TICK_S, "a")
        holds.append(on.now - begun)
    assert holds == pytest.approx([5.0, 10.0, 20.0, 40.0], abs=3 * TICK_S)
    assert LivenessState.HELD.state is DeviceState.SUSPECT


def test_one_that_falls_silent_while_it_is_held_has_failed_again():
    on = Listener("a")
    on.listen(3.5)
    on.listen(4.0, "a")
    assert on.standing() is LivenessState.HELD
    on.listen(1.5)
    assert on.standing() is LivenessState.FAILED
    assert on.vigil.pulses["a"].failures == 2


def test_an_old_failure_is_forgiven():
    on = Listener("a")
    on.listen(3.5)
    on.listen(TIMING.forgiven_after_s + 10, "a")
    on.listen(3.5)
    assert on.vigil.pulses["a"].failures == 1


def test_being_suspect_too_often_is_failing():
    on = Listener("a")
    for _ in range(TIMING.lapses):
        assert on.standing() is LivenessState.READY
        on.listen(1.2)
        on.listen(2.0, "a")
    assert ("a", LivenessState.FAILED) in on.moved
    assert on.standing() is LivenessState.HELD


@given(jump=st.floats(min_value=-1e9, max_value=1e9))
def test_a_clock_that_jumps_fails_nobody(jump):
    """Also the listener's own stop, or the machine's sleep: nobody could be heard meanwhile."""
    on = Listener("a")
    on.listen(1.0, "a")
    on.look(jump)
    assert on.moved == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0))
def test_whatever_comes_moves_are_those_of_the_table_and_a_talker_ends_ready(seed, share):
    draw = random.Random(seed)
    on, before = Listener("a"), LivenessState.READY
    allowed = {
        LivenessState.READY: {LivenessState.SUSPECT, LivenessState.FAILED},
        LivenessState.SUSPECT: {LivenessState.READY, LivenessState.FAILED},
        LivenessState.FAILED: {LivenessState.HELD},
        LivenessState.HELD: {LivenessState.READY, LivenessState.FAILED},
    }
    for _ in range(300):
        if draw.random() < share:
            on.vigil = heard(on.vigil, "a")
        elif draw.random() < 0.1:
            on.vigil = broken(on.vigil, "a", "reset", gone=draw.random() < 0.5)
        for moved in on.look(draw.choice([0.05, 0.3, 2.0, 100.0])):
            assert moved.standing in allowed[before]
            assert moved.why
            before = moved.standing
    on.listen(TIMING.hold_max_s + 5, "a")
    assert on.standing() is LivenessState.READY


@pytest.mark.parametrize("period_s", [0.5, 1.5, 3.0, 7.0, 12.0, 30.0, 90.0, 400.0])
def test_a_flapping_device_does_not_come_and_go_with_its_flaps(period_s):
    on = Listener("a")
    hour_s = 3_600.0
    for _ in range(int(hour_s / (2 * period_s))):
        on.listen(period_s, "a")
        on.listen(period_s)
    failed = sum(standing is LivenessState.FAILED for _, standing in on.moved)
    ready = sum(standing is LivenessState.READY for _, standing in on.moved)
    # Each return to ready after a failure costs a hold that doubles, until it is at its longest.
    assert min(failed, ready) <= 8 + hour_s / TIMING.hold_max_s + hour_s / TIMING.forgiven_after_s
