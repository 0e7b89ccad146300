"""Rollouts as a state machine: no interleaving of reports breaks the order of the steps."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.fleet import Desired, Fleet, apply, decide, obsolete, validate
from coordinator.fleet import instructions as do
from coordinator.fleet.events import (
    ArtifactsPushed,
    DeviceFailed,
    RolloutAborted,
    RolloutCancelled,
    RolloutCommitted,
    RolloutFailed,
    RolloutPrepared,
    RolloutStarted,
    RolloutStopped,
)
from coordinator.fleet.lifecycle import Phase, RolloutOutcome
from coordinator.fleet.state import Catalogue

STEPS = {
    do.Push: ArtifactsPushed,
    do.PrepareGeneration: RolloutPrepared,
    do.CommitGeneration: RolloutCommitted,
    do.AbortGeneration: RolloutAborted,
    do.StopWorkflow: RolloutStopped,
}
WANTED = Desired(workflows=frozenset({"read"}))


def started(devices, *, leaving=(), generation=1, purpose="apply"):
    return RolloutStarted(
        at=1.0,
        who="me",
        workflow="read",
        generation=generation,
        plan=f"plan-{generation}",
        workflow_digest="w",
        run="run-1",
        purpose=purpose,
        catalogue=Catalogue(),
        devices=list(devices),
        leaving=list(leaving),
    )


def done(instruction, generation=1):
    return STEPS[type(instruction)](
        at=2.0, who="x", workflow="read", generation=generation, device=instruction.device
    )


def failed(device, step="prepare", generation=1):
    return RolloutFailed(
        at=2.0,
        who="x",
        workflow="read",
        generation=generation,
        device=device,
        step=step,
        failure={"what": "no memory", "why": "it is full"},
    )


def carry_out(fleet, fail=()):
    """Do all that is asked, failing the (step, device) pairs of `fail`; returns the steps taken."""
    taken = []
    while todo := decide(fleet.now, WANTED):
        for instruction in todo:
            assert not isinstance(instruction, do.Describe)
            key = (type(instruction), instruction.device)
            taken.append(key)
            fleet(failed(instruction.device) if key in fail else done(instruction))
    return taken


def test_all_push_then_all_prepare_then_all_commit_then_the_others_stop(fleet):
    fleet(started(["a", "b"], leaving=["c"]))
    taken = carry_out(fleet)
    assert taken == [
        (do.Push, "a"),
        (do.Push, "b"),
        (do.PrepareGeneration, "a"),
        (do.PrepareGeneration, "b"),
        (do.CommitGeneration, "a"),
        (do.CommitGeneration, "b"),
        (do.StopWorkflow, "c"),
    ]
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.COMMITTED
    assert fleet.now.running["read"].devices == ["a", "b"]
    assert fleet.now.next_generation("read") == 2


def test_a_failure_before_commit_aborts_everywhere_and_leaves_what_runs(fleet):
    fleet(started(["a"]))
    carry_out(fleet)
    before = fleet.now.running
    fleet(started(["a", "b"], generation=2))
    while todo := decide(fleet.now, WANTED):
        for instruction in todo:
            if isinstance(instruction, do.PrepareGeneration) and instruction.device == "b":
                fleet(failed("b", generation=2))
            else:
                fleet(done(instruction, generation=2))
    rollout = fleet.now.rollouts["read"]
    assert rollout.outcome is RolloutOutcome.ABORTED
    assert rollout.failures == {"b": "prepare: no memory. it is full"}
    assert set(rollout.phases.values()) == {Phase.ABORTED}
    assert fleet.now.running == before
    assert fleet.now.next_generation("read") == 3, "a generation is never given out twice"


def test_a_failure_while_switching_is_broken_and_the_others_are_aborted(fleet):
    fleet(started(["a", "b"]))
    taken = carry_out(fleet, fail={(do.CommitGeneration, "b")})
    assert taken[-1] == (do.AbortGeneration, "b")
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.BROKEN


def test_a_device_that_fails_after_all_have_switched_ends_the_wait_for_those_that_drain(
    fleet, made
):
    fleet(made.described("a"), started(["a"], leaving=["c"]))
    while not isinstance((todo := decide(fleet.now, WANTED))[0], do.StopWorkflow):
        for instruction in todo:
            fleet(done(instruction))
    assert not obsolete(todo[0], fleet.now)
    fleet(DeviceFailed(at=9.0, who="t", device="a", why="gone", hold_s=1.0))
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.COMMITTED
    assert fleet.now.running["read"].devices == ["a"]
    assert obsolete(todo[0], fleet.now)
    assert decide(fleet.now, WANTED) == []
    fleet(done(todo[0]))
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.COMMITTED, (
        "what comes late is no step"
    )


def test_a_restore_goes_on_without_the_devices_that_fail(fleet):
    fleet(started(["a", "b"], purpose="restore", leaving=["c"]))
    carry_out(fleet, fail={(do.PrepareGeneration, "b")})
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.RESTORED
    assert fleet.now.running["read"].devices == ["a"]


def test_a_restore_to_nothing_stops_the_devices(fleet):
    fleet(started(["a"]))
    carry_out(fleet)
    fleet(started([], purpose="restore", leaving=["a"], generation=2))
    assert [type(i) for i in decide(fleet.now, WANTED)] == [do.StopWorkflow]
    fleet(done(do.StopWorkflow("a", "read", 2), generation=2))
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.RESTORED
    assert fleet.now.running == {}


def test_a_cancelled_rollout_is_aborted(fleet):
    fleet(
        started(["a", "b"]),
        RolloutCancelled(at=1.0, who="me", workflow="read", generation=1, why="^C"),
    )
    assert {type(i) for i in decide(fleet.now, WANTED)} == {do.AbortGeneration}
    carry_out(fleet)
    assert fleet.now.rollouts["read"].outcome is RolloutOutcome.ABORTED


def test_reports_of_an_older_generation_change_nothing(fleet):
    fleet(started(["a"], generation=3))
    before = fleet.now
    fleet(done(do.Push("a", "read", 2), generation=2), failed("a", generation=2))
    assert fleet.now == before


def test_a_device_in_the_middle_of_a_step_is_not_asked_for_another(fleet):
    fleet(started(["a", "b"]))
    under_way = [do.Push("a", "read", 1)]
    fleet(failed("b"))
    assert decide(fleet.now, WANTED, under_way) == [do.AbortGeneration("b", "read", 1)]


DEVICES = ["a", "b", "c"]
REPORTS = st.one_of(
    st.builds(
        lambda step, device: STEPS[step](
            at=1.0, who="x", workflow="read", generation=1, device=device
        ),
        st.sampled_from(list(STEPS)),
        st.sampled_from(DEVICES),
    ),
    st.builds(failed, st.sampled_from(DEVICES)),
)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["apply", "restore"]))
def test_whatever_fails_and_in_whatever_order_a_rollout_ends(data, purpose):
    """Instructions succeed or fail in any order; the invariants hold, and it comes to an end."""
    fleet = apply(started(["a", "b"], leaving=["c"], purpose=purpose), Fleet())
    for _ in range(40):
        todo = decide(fleet, WANTED)
        if not todo:
            break
        instruction = data.draw(st.sampled_from(todo))
        can_fail = not isinstance(instruction, do.AbortGeneration | do.StopWorkflow)
        if can_fail and data.draw(st.booleans()):
            fleet = apply(failed(instruction.device), fleet)
        else:
            fleet = apply(done(instruction), fleet)
        validate(fleet)
    rollout = fleet.rollouts["read"]
    assert rollout.outcome is not None
    committed = [d for d, phase in rollout.phases.items() if phase is Phase.COMMITTED]
    if rollout.outcome is RolloutOutcome.ABORTED:
        assert committed == []
        assert rollout.phases["c"] is Phase.LEAVING, "what ran before runs on"


@given(st.lists(REPORTS, max_size=30))
def test_reports_that_nobody_asked_for_never_raise_and_never_reopen_a_rollout(reports):
    fleet = apply(started(DEVICES[:2], leaving=["c"]), Fleet())
    ended = None
    for report in reports:
        fleet = apply(report, fleet)
        rollout = fleet.rollouts["read"]
        assert ended is None or rollout == ended
        ended = rollout if rollout.outcome else None
