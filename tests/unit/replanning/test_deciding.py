"""Reasons to plan again: when each is due, what wins, and what is forgotten."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome
from coordinator.replanning import (
    Band,
    Policy,
    ReplanReason,
    State,
    decide,
    next_due,
    observe,
    overtaken,
)
from coordinator.replanning.load import LoadEstimate, RateEstimate
from coordinator.replanning.observe import gauged
from coordinator.replanning.slo import Burn
from coordinator.replanning.state import (
    Asked,
    DeviceMoved,
    HysteresisGauge,
    LoadMeasured,
    OperatorApplied,
    ReplanBegun,
    ReplanFinished,
    VariantAdded,
)
from coordinator.telemetry.drift import Ratio
from tiermesh.errors import InvalidDocument

POLICY = Policy()
USED = frozenset({"cam-1", "hub-1"})


def state(*observations, used=USED):
    made = observe(OperatorApplied(0.0, used), State(policy=POLICY))
    for observation in observations:
        made = observe(observation, made)
    return made


def failed(at, device="hub-1"):
    return DeviceMoved(at, device, DeviceState.FAILED, "no heartbeat")


def ready(at, device):
    return DeviceMoved(at, device, DeviceState.READY)


def replanned(now, begun, ended, reason, outcome=ReplanOutcome.REPLACED):
    return observe(ReplanFinished(ended, outcome, USED), observe(ReplanBegun(begun, reason), now))


@pytest.mark.parametrize("reason", [ReplanReason.DEVICE_FAILED, ReplanReason.DEVICE_RETURNED])
def test_a_device_that_fails_while_a_plan_is_made_is_acted_upon_without_a_wait(reason):
    now = observe(ReplanBegun(6.0, reason), state(failed(5.0)))
    assert not overtaken(now)
    now = observe(failed(7.0, "cam-1"), now)
    assert overtaken(now)
    now = observe(ReplanFinished(8.0, ReplanOutcome.FAILED, USED), now)
    assert not overtaken(now)
    due = decide(now, 8.0)
    assert due.reason is ReplanReason.DEVICE_FAILED
    assert "hub-1" in due.why, "what was to be seen to still is"
    assert "cam-1" in due.why


def test_nothing_that_happened_is_no_reason():
    assert decide(state(), 1e9) is None
    assert next_due(state()) is None


def test_the_first_lost_device_is_acted_upon_at_once_and_told_with_its_cause():
    due = decide(state(failed(5.0)), 5.0)
    assert due.reason is ReplanReason.DEVICE_FAILED
    assert due.why == "hub-1 is failed: no heartbeat"


def test_a_device_that_the_plan_does_not_use_may_fail():
    assert decide(state(failed(5.0, "hub-9")), 100.0) is None


def test_a_device_that_is_back_before_anything_was_done_is_forgotten():
    assert decide(state(failed(5.0), ready(5.1, "hub-1")), 100.0) is None


def test_suspicion_alone_changes_nothing():
    suspect = DeviceMoved(5.0, "hub-1", DeviceState.SUSPECT, "late")
    assert decide(state(suspect), 100.0) is None
    assert decide(state(failed(5.0), replace(suspect, at=6.0)), 100.0) is not None


def test_a_newcomer_waits_until_the_mesh_has_settled():
    now = state(ready(5.0, "hub-2"))
    assert decide(now, 5.0 + POLICY.settle_s - 0.1) is None
    assert decide(now, 5.0 + POLICY.settle_s).reason is ReplanReason.DEVICE_RETURNED
    assert next_due(now) == 5.0 + POLICY.settle_s


def test_several_newcomers_are_one_reason():
    now = state(*(ready(float(i), f"hub-{i}") for i in range(2, 9)))
    assert "and 3 more" in decide(now, 100.0).why


def test_a_device_of_the_plan_with_another_generation_is_a_reason():
    stale = DeviceMoved(5.0, "hub-1", DeviceState.READY, "it serves generation 1", stale=True)
    assert decide(state(stale), 100.0).reason is ReplanReason.DEVICE_RETURNED


def test_nothing_is_due_while_a_replan_is_under_way():
    now = observe(ReplanBegun(6.0, ReplanReason.DEVICE_FAILED), state(failed(5.0)))
    assert decide(now, 1e6) is None
    assert next_due(now) is None


def test_what_comes_during_a_replan_is_looked_at_after_it():
    now = observe(ReplanBegun(6.0, ReplanReason.DEVICE_FAILED), state(failed(5.0)))
    now = observe(ready(7.0, "hub-2"), now)
    now = observe(ReplanFinished(8.0, ReplanOutcome.REPLACED, frozenset({"cam-1", "hub-3"})), now)
    assert decide(now, 100.0).reason is ReplanReason.DEVICE_RETURNED


def test_replans_for_lost_devices_follow_each_other_slower_and_slower():
    now, at, waits = state(), 0.0, []
    for _ in range(9):
        now = observe(failed(at, "hub-1"), now)
        due = at
        while decide(now, due) is None:
            due += 0.5
        waits.append(due - at)
        now = replanned(now, due, due + 1, ReplanReason.DEVICE_FAILED)
        at = due + 1
    assert waits[0] == 0.0
    assert waits[1:5] == [2.0, 4.0, 8.0, 16.0]
    assert max(waits) == POLICY.urgent_dwell_max_s


def test_after_a_calm_a_lost_device_is_acted_upon_at_once_again():
    now = replanned(state(failed(0.0)), 0.0, 1.0, ReplanReason.DEVICE_FAILED)
    now = replanned(observe(failed(2.0), now), 3.0, 4.0, ReplanReason.DEVICE_FAILED)
    later = 4.0 + POLICY.calm_s
    now = replanned(observe(failed(later), now), later, later + 1, ReplanReason.DEVICE_FAILED)
    assert now.urgent.spree == 1


def test_a_failed_rollout_keeps_the_reason_and_waits_longer_each_time():
    now, waits, at = state(failed(0.0)), [], 0.0
    for _ in range(4):
        now = replanned(now, at, at, ReplanReason.OPERATOR, ReplanOutcome.FAILED)
        due = at
        while decide(now, due) is None:
            due += 0.25
        waits.append(due - at)
        at = due
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_what_was_judged_and_kept_is_no_reason_any_more():
    now = state(ready(5.0, "hub-2"), VariantAdded(5.0, "v9"))
    now = replanned(now, 10.0, 11.0, ReplanReason.DEVICE_RETURNED, ReplanOutcome.KEPT)
    assert decide(now, 1e6) is None


def test_an_operators_plan_ends_all_reasons_that_came_before_it():
    now = observe(
        OperatorApplied(20.0, frozenset({"cam-1"})), state(failed(5.0), ready(6.0, "hub-2"))
    )
    assert decide(now, 1e6) is None
    assert decide(observe(failed(21.0, "cam-1"), now), 21.0).reason is ReplanReason.DEVICE_FAILED


def test_whoever_drains_a_device_may_move_its_work_himself_first():
    drained = state(DeviceMoved(5.0, "hub-1", DeviceState.DRAINING, "by ada"))
    assert decide(drained, 5.0 + POLICY.drain_s - 0.1) is None
    assert decide(drained, 5.0 + POLICY.drain_s).reason is ReplanReason.OPERATOR
    assert decide(observe(ready(6.0, "hub-1"), drained), 1e6) is None
    assert decide(observe(OperatorApplied(9.0, frozenset({"cam-1"})), drained), 1e6) is None


def test_who_asks_is_answered_at_once_before_all_others():
    now = state(failed(5.0), Asked(5.0, "ada asked"))
    assert decide(now, 5.0) == decide(now, 1e6)
    assert decide(now, 5.0).reason is ReplanReason.OPERATOR


def test_a_load_that_has_changed_is_told_with_its_interval():
    load = LoadEstimate(4.0, RateEstimate(6.1, 5.2, 7.1, 90, 15.0))
    assert decide(state(LoadMeasured(5.0, load=load)), 1e6) is None
    due = decide(state(LoadMeasured(5.0, load=replace(load, changed=True))), 1e6)
    assert due.reason is ReplanReason.LOAD_CHANGE
    assert due.why == "load 6.1/s (95 % interval 5.2 to 7.1), planned 4/s"


def test_an_error_budget_that_burns_is_a_reason_until_it_does_no_more():
    now = state(LoadMeasured(5.0, burn=Burn("p95", 3.0, 60.0, 240, 72)))
    due = decide(now, 1e6)
    assert due.reason is ReplanReason.SLO_MISSED
    assert due.why == "30% of 240 requests in 60 s missed p95 3 s, 5% may: burn rate 6.0"
    assert decide(observe(LoadMeasured(6.0), now), 1e6) is None


def test_after_a_replan_that_did_not_help_an_slo_that_is_missed_is_acted_upon_later_each_time():
    now, at, waits = state(), 0.0, []
    for _ in range(5):
        now = observe(LoadMeasured(at, burn=Burn("p95", 3.0, 60.0, 240, 72)), now)
        due = max(next_due(now), at)
        waits.append(due - at)
        now = replanned(now, due, due + 1, ReplanReason.SLO_MISSED, ReplanOutcome.KEPT)
        at = due + 1
    assert waits == [0.0, 10.0, 20.0, 40.0, 80.0]


def test_a_considered_device_whose_heartbeats_are_late_is_no_newcomer_afterwards():
    late = DeviceMoved(5.0, "hub-2", DeviceState.SUSPECT, "late", considered=True)
    assert decide(state(late, ready(6.0, "hub-2")), 1e6) is None
    unknown = replace(late, considered=False)
    assert decide(state(unknown, ready(6.0, "hub-2")), 1e6).reason is ReplanReason.DEVICE_RETURNED
    lost = state(failed(4.0, "hub-2"), late, ready(6.0, "hub-2"))
    assert decide(lost, 1e6).reason is ReplanReason.DEVICE_RETURNED


def test_drift_names_the_replicas():
    drift = {"detect@hub-1": Ratio(2.0, 1.6, 2.4, 60), "x": Ratio(2.0, 0.9, 3.1, 20)}
    due = decide(state(LoadMeasured(30.0, drift=drift)), 30.0)
    assert due.reason is ReplanReason.PROFILE_DRIFT
    assert "detect@hub-1 2.00 (1.60 to 2.40)" in due.why
    assert "x" not in due.why.split(": ")[1]


BAND = Band(enter=(0.5, 2.0), leave=(0.8, 1.25), sustained_s=5.0)


def follow(ratios):
    gauge, seen = HysteresisGauge(), []
    for at, ratio in enumerate(ratios):
        gauge = gauged(gauge, ratio, float(at), BAND)
        seen.append(gauge.out)
    return seen


def test_a_gauge_goes_out_late_and_comes_back_well_within():
    assert follow([3.0] * 5) == [False] * 5
    assert follow([3.0] * 6)[-1]
    assert follow([3.0] * 6 + [1.6, 1.3])[-2:] == [True, True]
    assert not follow([3.0] * 6 + [1.2])[-1]
    assert not follow([3.0, 3.0, 1.0] * 5)[-1]


@given(st.lists(st.floats(0.51, 1.99), max_size=60))
def test_a_ratio_within_its_band_never_goes_out(ratios):
    assert not any(follow(ratios))


@given(st.lists(st.floats(0.0, 10.0), max_size=200))
def test_a_gauge_changes_no_more_often_than_it_can_sustain(ratios):
    seen = follow(ratios)
    out = sum(not a and b for a, b in zip([False, *seen], seen, strict=False))
    assert out <= len(ratios) / BAND.sustained_s + 1


@pytest.mark.parametrize("leave", [(0.5, 1.25), (0.4, 1.25), (0.8, 2.0), (0.8, 0.9)])
def test_a_band_needs_hysteresis(leave):
    with pytest.raises(InvalidDocument):
        Band(enter=(0.5, 2.0), leave=leave, sustained_s=1.0)


names = st.sampled_from(["cam-1", "hub-1", "hub-2", "hub-3"])
times = st.just(0.0)
observations = st.one_of(
    st.builds(DeviceMoved, times, names, st.sampled_from(list(DeviceState)), st.text(max_size=5)),
    st.builds(
        LoadMeasured,
        times,
        st.none()
        | st.builds(
            LoadEstimate,
            st.just(4.0),
            st.just(RateEstimate(6.0, 5.0, 7.0, 90, 15.0)),
            st.booleans(),
        ),
    ),
    st.builds(VariantAdded, times, st.just("v")),
    st.builds(Asked, times, st.just("ada")),
    st.builds(ReplanBegun, times, st.sampled_from(list(ReplanReason))),
    st.builds(ReplanFinished, times, st.sampled_from(list(ReplanOutcome)), st.frozensets(names)),
    st.builds(OperatorApplied, times, st.frozensets(names)),
)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), observations), max_size=60))
def test_whatever_happens_a_due_replan_has_a_reason_and_is_not_due_before_it_says(happened):
    now, at = State(policy=POLICY), 0.0
    for wait, observation in happened:
        at += wait
        now = observe(replace(observation, at=at), now)
        due, when = decide(now, at), next_due(now)
        assert (due is None) == (when is None or when > at)
        if due is not None:
            assert due.why or due.reason is ReplanReason.OPERATOR
        if when is not None and math.isfinite(when):
            assert decide(now, max(when, at)) is not None


STAGES = frozenset({frozenset({"cam-1"}), frozenset({"hub-1"})})
BUSY = replace(POLICY, urgent_dwell_s=2.0, urgent_dwell_max_s=60.0, down_dwell_max_s=4.0)


def down(*observations):
    """Many replans lie behind, and the only device of a stage is lost."""
    made = observe(OperatorApplied(0.0, USED, STAGES), State(policy=BUSY))
    for at in range(10, 60, 10):
        made = observe(failed(at), made)
        made = observe(ReplanBegun(at, ReplanReason.DEVICE_FAILED), made)
        made = observe(ReplanFinished(at + 1.0, ReplanOutcome.INFEASIBLE, USED, STAGES), made)
    for observation in observations:
        made = observe(observation, made)
    return made


def held(at, device):
    return DeviceMoved(at, device, DeviceState.SUSPECT, "it answers again", probation=True)


def test_while_nothing_is_served_a_device_that_answers_again_is_not_waited_for():
    now = down(held(60.0, "hub-2"))
    assert now.is_down
    assert decide(now, 60.0).reason is ReplanReason.DEVICE_RETURNED
    assert decide(observe(held(60.0, "hub-2"), state()), 1e9) is None


def test_while_nothing_is_served_no_dwell_is_long():
    now = down(ready(51.5, "hub-1"), failed(52.0))
    assert next_due(now) <= 51.0 + BUSY.down_dwell_max_s
    serving = observe(OperatorApplied(0.0, USED, frozenset({frozenset({"hub-1", "hub-2"})})), now)
    assert not serving.is_down


def test_a_device_of_the_plan_that_answers_again_serves_and_asks_for_nothing():
    now = down(held(60.0, "hub-1"))
    assert not now.is_down
    assert decide(now, 1e9) is None
