"""When a replica's batches are set anew, and within what."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.tuning.tuner import HOLD_S, BatchTimes, Tuner
from tests.unit.serving.offered import BUNDLE, VARIANT
from tiermesh.batching.tuning import Decision, Tuned, TuningReason
from tiermesh.documents.assignment import ReplicaSpec
from tiermesh.documents.plan import Room
from tiermesh.documents.problem import BatchTime

SECONDS = {1: 0.020, 2: 0.022, 4: 0.026, 8: 0.034, 16: 0.050}
BATCHES = [BatchTime(batch_size=size, mean=mean) for size, mean in SECONDS.items()]
ROOM = Room(batch_size_max=16, batch_timeout_ms_max=20, latency_p95_ms=120.0, batches=BATCHES)
PLANNED = Tuned(1, 0.0)
LARGE = Decision(Tuned(16, 0.0), TuningReason.MISSES)


def tuner(room: Room = ROOM) -> Tuner:
    made = Tuner.of(ReplicaSpec(id="r", stage="s", variant=VARIANT, room=room))
    assert made is not None
    return made


def feed(made: Tuner, rate: float, now: float, count: int = 400) -> None:
    draw = random.Random(1)
    gaps = [draw.expovariate(rate) for _ in range(count)]
    first = now - sum(gaps)
    for at in accumulate(gaps, initial=first):
        made.arrived(at, 1)


@pytest.mark.parametrize(
    "spec",
    [
        ReplicaSpec(id="r", stage="s", variant=VARIANT, batch_size=4),
        ReplicaSpec(id="r", stage="s", variant=VARIANT, room=Room(batch_size_max=1)),
        ReplicaSpec(id="r", stage="s", bundle=BUNDLE, room=ROOM),
    ],
)
def test_without_room_in_the_plan_batches_stay_as_planned(spec: ReplicaSpec) -> None:
    assert Tuner.of(spec) is None


def test_a_load_that_the_setting_cannot_keep_up_with_calls_for_larger_batches() -> None:
    made = tuner()
    feed(made, rate=120.0, now=100.0)
    question = made.question(PLANNED, 100.0, others=0.0)
    assert question is not None
    decision = question.answer()
    assert decision.reason is TuningReason.MISSES
    assert 2 < decision.setting.batch_size <= 16


def test_a_load_as_planned_changes_nothing() -> None:
    made = tuner(Room(batch_size_max=16, latency_p95_ms=120.0, batches=BATCHES))
    feed(made, rate=10.0, now=100.0, count=200)
    question = made.question(PLANNED, 100.0, others=0.0)
    assert question is not None
    assert question.answer() == Decision(PLANNED, TuningReason.FITS)


def test_what_others_take_of_the_device_counts() -> None:
    made = tuner()
    feed(made, rate=40.0, now=100.0)
    question = made.question(PLANNED, 100.0, others=0.5)
    assert question is not None
    assert question.seconds[0] == pytest.approx(0.040)
    assert question.answer().setting.batch_size > 1


def test_a_decision_is_followed_when_it_comes_twice_and_then_held() -> None:
    made = tuner()
    feed(made, rate=120.0, now=100.0)
    assert made.follow(LARGE, PLANNED, 100.0) is None
    other = Decision(Tuned(8, 0.0), TuningReason.MISSES)
    assert made.follow(other, PLANNED, 105.0) is None
    assert made.follow(LARGE, PLANNED, 110.0) is None
    assert made.follow(LARGE, PLANNED, 115.0) == LARGE.setting
    feed(made, rate=120.0, now=120.0)
    assert made.question(LARGE.setting, 120.0, 0.0) is None
    feed(made, rate=120.0, now=115.0 + HOLD_S)
    assert made.question(LARGE.setting, 115.0 + HOLD_S, 0.0) is not None


def test_a_proposal_that_is_not_repeated_is_forgotten() -> None:
    made = tuner()
    assert made.follow(LARGE, PLANNED, 0.0) is None
    assert made.follow(Decision(PLANNED, TuningReason.FITS), PLANNED, 5.0) is None
    assert made.follow(LARGE, PLANNED, 10.0) is None


def test_old_and_few_arrivals_are_not_judged_by() -> None:
    made = tuner()
    feed(made, rate=120.0, now=100.0)
    assert made.question(PLANNED, 200.0, 0.0) is None
    made = tuner()
    feed(made, rate=120.0, now=100.0, count=20)
    assert made.question(PLANNED, 100.0, 0.0) is None


def test_batch_times_are_those_planned_with_until_some_are_measured() -> None:
    times = BatchTimes({1: 0.010, 4: 0.016})
    assert times.seconds(4) == pytest.approx([0.010, 0.012, 0.014, 0.016])
    times.add(1, 0.020)
    assert times.seconds(4)[0] == 0.020
    assert times.seconds(4)[3] == pytest.approx(0.032), "twice as slow here as planned"


def test_beyond_what_is_known_batches_gain_nothing() -> None:
    times = BatchTimes({})
    assert times.seconds(4) == []
    times.add(2, 0.020)
    assert times.seconds(4) == pytest.approx([0.020, 0.020, 0.030, 0.040])


@given(
    st.dictionaries(st.integers(1, 32), st.floats(1e-4, 10.0), max_size=6),
    st.lists(st.tuples(st.integers(1, 32), st.floats(1e-4, 10.0)), min_size=1, max_size=30),
)
def test_batch_times_are_positive_for_every_size(
    planned: dict[int, float], ran: list[tuple[int, float]]
) -> None:
    times = BatchTimes(planned)
    for size, seconds in ran:
        times.add(size, seconds)
    assert len(times.seconds(32)) == 32
    assert all(seconds > 0 for seconds in times.seconds(32))
