"""Plans for the loss of a device: for which devices, when one that was found holds, and what stands by for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from coordinator.planning import Options, solve
from coordinator.replanning import Policy
from coordinator.replanning.contingency import (
    Contingency,
    Memory,
    at_risk,
    found_ahead,
    holds,
    running_in,
    standby_of,
    standing_by,
    with_loaded,
)
from coordinator.replanning.current_problem import with_rate, with_running
from coordinator.replanning.search import search
from tests.unit.replanning.test_worth import problem_of
from tiermesh.documents.assignment import Assignment, Peer, ReplicaSpec, StageSpec
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, RunningReplica

POLICY = Policy()
HUBS = {"hub-1": (0.1, 0.1), "hub-2": (0.2, 0.1), "hub-3": (0.2, 0.1)}


def without(name: str, rate: float = 4.0) -> Problem:
    left = {hub: terms for hub, terms in HUBS.items() if hub != name}
    return structs.replace(problem_of(left, rate), fleet_digest=f"without {name}")


@pytest.fixture(scope="module")
def running() -> Plan:
    return solve(problem_of(HUBS), Options())


@pytest.fixture(scope="module")
def ahead(running: Plan) -> Contingency:
    problem = with_running(without("hub-1"), running, POLICY)
    return Contingency("hub-1", problem, search(problem, running, Options(), POLICY))


def devices_of(plan: Plan | None) -> set[str]:
    assert plan is not None
    return {r.device for r in plan.replicas}


def test_the_busiest_devices_are_planned_for_and_no_more_than_so_many(running: Plan) -> None:
    assert at_risk(running, 4) == ["hub-1", "cam-1"]
    assert at_risk(running, 1) == ["hub-1"]
    assert at_risk(running, 1, ends={"detect"}) == ["cam-1"], "without its ends nothing is served"


def test_what_was_found_for_the_problem_of_now_is_used_and_says_so(
    running: Plan, ahead: Contingency
) -> None:
    found = found_ahead([ahead], with_running(without("hub-1"), running, POLICY))
    assert found is not None
    assert found.verdict.replace
    assert found.verdict.why.endswith("planned before hub-1 was lost")
    assert "hub-1" not in devices_of(found.plan)


def test_a_plan_that_still_meets_every_ask_of_the_same_devices_is_used(
    running: Plan, ahead: Contingency
) -> None:
    a_little_more = with_running(without("hub-1", rate=4.2), running, POLICY)
    assert a_little_more.digest != ahead.problem.digest
    assert found_ahead([ahead], a_little_more) is not None


def test_a_plan_that_no_longer_meets_them_is_not_used(running: Plan, ahead: Contingency) -> None:
    assert found_ahead([ahead], with_rate(ahead.problem, 9.0)) is None
    degraded = replace(ahead, finding=replace(ahead.finding, degraded="a part of the rate"))
    assert found_ahead([degraded], with_rate(ahead.problem, 4.2)) is None


def test_a_plan_is_searched_anew_ahead_where_it_would_be_late(running: Plan) -> None:
    def lost(seconds: float) -> Problem:
        hubs = {"hub-2": (0.2, seconds), "hub-3": (0.2, seconds)}
        made = structs.replace(problem_of(hubs, latency_s=0.5), fleet_digest="without hub-1")
        return with_running(made, running, POLICY)

    quick = lost(0.1)
    known = Contingency("hub-1", quick, search(quick, running, Options(), POLICY))
    assert holds(known, quick)
    assert holds(known, lost(0.102))
    assert found_ahead([known], lost(0.19)) is not None, "there is a plan, and no time to search"
    assert not holds(known, lost(0.19))


def test_a_plan_for_other_devices_or_another_workflow_is_not_used(ahead: Contingency) -> None:
    assert found_ahead([ahead], without("hub-2")) is None
    assert found_ahead([ahead], structs.replace(ahead.problem, workflow_digest="other")) is None


def test_what_the_plans_need_stands_by_as_far_as_there_is_memory(
    running: Plan, ahead: Contingency
) -> None:
    plan = ahead.finding.plan
    assert plan is not None
    (hub,) = devices_of(plan) - {"cam-1"}
    needs = {("detect", "v", "hub-1"): 80.0, ("detect", "v", hub): 80.0}
    roomy = standing_by(running, [plan], Memory({hub: 100.0, "cam-1": 100.0}, needs))
    assert roomy[hub] == [(plan.digest, f"detect@{hub}/v")]
    assert standing_by(running, [plan], Memory({hub: 79.0, "cam-1": 100.0}, needs)).keys() == {
        "cam-1"
    }
    assert hub in standing_by(plan, [plan], Memory({hub: 80.0}, needs)), "it is loaded already"


def test_nothing_stands_by_on_a_device_that_is_away(running: Plan, ahead: Contingency) -> None:
    plan = ahead.finding.plan
    assert plan is not None
    assert standing_by(running, [plan, running], Memory({"cam-1": 100.0}, {})).keys() == {"cam-1"}


def test_the_memory_of_what_runs_is_not_given_twice(running: Plan, ahead: Contingency) -> None:
    plan = ahead.finding.plan
    assert plan is not None
    (hub,) = devices_of(plan) - {"cam-1"}
    other = structs.replace(
        running,
        replicas=[*running.replicas, structs.replace(running.replicas[0], device=hub, stage="x")],
    )
    needs = {("x", None, hub): 30.0, ("detect", "v", hub): 80.0}
    assert hub not in standing_by(other, [plan], Memory({hub: 100.0}, needs))
    assert hub in standing_by(other, [plan], Memory({hub: 110.0}, needs))


@pytest.mark.parametrize("hub", ["hub-2", "hub-3"])
def test_of_equal_plans_the_one_whose_replicas_stand_by_is_found(running: Plan, hub: str) -> None:
    alike = problem_of({"hub-2": (0.2, 0.1), "hub-3": (0.2, 0.11)})
    problem = with_running(alike, running, POLICY)
    standing = [RunningReplica(stage="detect", variant="v", device=hub)]
    assert devices_of(solve(with_loaded(problem, standing), Options())) == {"cam-1", hub}
    assert with_loaded(problem, running_in(running)).running == problem.running


def test_a_standby_is_of_models_and_code_alone_and_consistent_in_itself() -> None:
    stages = {
        "in": StageSpec(name="in", kind="source", outputs=["see"]),
        "see": StageSpec(name="see", kind="model", inputs=["in"], outputs=["sum"]),
        "sum": StageSpec(name="sum", kind="aggregate", inputs=["see"]),
    }
    part = Assignment(
        workflow="w",
        generation=3,
        plan="p",
        run="r",
        device="d",
        stages=stages,
        replicas=[ReplicaSpec(id=f"{stage}@d", stage=stage) for stage in stages],
        lanes=[],
        replica_devices={"see@d": "d", "see@e": "e"},
        peers={d: Peer(device=d, name=d, address="127.0.0.1:1") for d in "de"},
        formers={"sum": "e"},
        lost=["f"],
    )
    standby = standby_of({"p": part}, [("p", "see@d"), ("p", "sum@d"), ("p", "in@d")])
    assert standby is not None
    assert [r.id for r in standby.replicas] == ["see@d"]
    assert standby.replica_devices == {"see@d": "d"}
    assert list(standby.peers) == ["d"]
    assert (standby.formers, standby.lost, standby.generation) == ({}, [], 3)
    assert standby_of({}, []) is None
