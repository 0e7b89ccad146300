"""Whether a new plan replaces the running one, and what is looked for when not all can be had."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from coordinator.planning import Options, solve
from coordinator.replanning import Policy
from coordinator.replanning.current_problem import asked_rate, with_rate, with_running
from coordinator.replanning.search import search
from coordinator.replanning.switching import shortfalls, worth
from tiermesh.documents.problem import (
    Asks,
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
)

POLICY = Policy()


def problem_of(hubs, rate=4.0, latency_s=None):
    """A camera, and hubs with a price and the seconds that they take for a request."""
    return Problem(
        name="read",
        tiers=["edge", "hub"],
        devices=[
            ProblemDevice(name="cam-1", tier="edge", price_per_hour=0.01),
            *(
                ProblemDevice(name=name, tier="hub", price_per_hour=price, usable_share=0.8)
                for name, (price, _) in hubs.items()
            ),
        ],
        stages=[
            ProblemStage(name="photos", kind="source", rate_rps=rate, pinned={"cam-1": 1.0}),
            ProblemStage(name="detect", kind="model", variants=["v"]),
            ProblemStage(name="text", kind="sink", devices=["cam-1"]),
        ],
        edges=[
            ProblemEdge(source="photos", target="detect"),
            ProblemEdge(source="detect", target="text"),
        ],
        profiles=[
            ProblemProfile(
                stage="detect",
                variant="v",
                device=name,
                batches=[BatchTime(batch_size=1, mean=mean)],
            )
            for name, (_, mean) in hubs.items()
        ],
        asks=Asks(latency_s={"p95": latency_s} if latency_s else {}),
    )


CHEAP, DEAR = {"hub-1": (0.10, 0.1)}, {"hub-2": (0.20, 0.1)}
BOTH = problem_of(CHEAP | DEAR)


def test_what_is_the_best_plan_still_is_kept():
    plan = solve(BOTH)
    verdict = worth(BOTH, plan, solve(BOTH), POLICY)
    assert not verdict.replace
    assert "the best plan still" in verdict.why


def test_the_first_plan_is_always_rolled_out():
    assert worth(BOTH, None, solve(BOTH), POLICY).replace


def test_a_plan_on_a_device_that_is_gone_is_replaced_at_any_price():
    verdict = worth(problem_of(DEAR), solve(BOTH), solve(problem_of(DEAR)), POLICY)
    assert verdict.replace
    assert "hub-1 cannot be used" in verdict.why


def test_a_saving_that_the_churn_eats_is_left():
    running, best = solve(problem_of(DEAR)), solve(BOTH)
    assert worth(BOTH, running, best, POLICY).replace
    greedy_of_calm = replace_policy(start_price_share=0.6)
    assert not worth(BOTH, running, best, greedy_of_calm).replace
    assert not worth(BOTH, running, best, replace_policy(least_saving_share=0.6)).replace


def replace_policy(**values):
    return Policy(**values)


def test_the_planner_counts_the_churn_too():
    running = solve(problem_of(DEAR))
    costly = with_running(BOTH, running, replace_policy(start_price_share=0.9))
    assert {r.device for r in solve(costly).replicas} == {"cam-1", "hub-2"}
    assert with_running(BOTH, None, POLICY) is BOTH


def test_where_nothing_has_a_price_a_sound_plan_stays():
    free = problem_of({"hub-1": (0.0, 0.05), "hub-2": (0.0, 0.1)})
    free = replace(free, devices=[replace(d, price_per_hour=0.0) for d in free.devices])
    running = solve(
        replace(
            free, devices=[d for d in free.devices if d.name != "hub-1"], profiles=free.profiles[1:]
        )
    )
    assert not worth(free, running, solve(free), POLICY).replace


def test_more_load_than_the_plan_can_carry_is_a_shortfall():
    plan = solve(BOTH)
    assert shortfalls(with_rate(BOTH, 6.0), plan) == []
    (told,) = shortfalls(with_rate(BOTH, 10.0), plan)
    assert told == "hub-1 would be busy 100% of its time, and may be 80%"


def test_slower_batches_are_a_shortfall_by_load_or_by_latency():
    plan = solve(problem_of(CHEAP, latency_s=0.5))
    slower = problem_of({"hub-1": (0.10, 0.18)}, latency_s=0.5)
    (told,) = shortfalls(slower, plan)
    assert told.startswith("its p95 would be")
    assert "busy" in shortfalls(problem_of({"hub-1": (0.10, 0.3)}, latency_s=0.5), plan)[0]


def test_what_cannot_be_met_is_degraded_in_rate_only_and_says_so():
    finding = search(problem_of(CHEAP, rate=20.0), None, Options(), POLICY)
    assert finding.degraded == "8 of the 20 requests a second that are asked"
    assert finding.plan.predicted.throughput_rps == pytest.approx(8.0)


def test_a_degraded_plan_is_not_replaced_by_one_that_does_no_more():
    problem = problem_of(CHEAP, rate=20.0)
    running = search(problem, None, Options(), POLICY).plan
    twin = problem_of({"hub-1": (0.10, 0.1), "hub-2": (0.2, 3.0)}, rate=20.0)
    assert not search(twin, running, Options(), POLICY).verdict.replace
    assert search(problem_of(CHEAP | DEAR, rate=20.0), running, Options(), POLICY).verdict.replace


def test_without_any_place_for_a_stage_nothing_is_found():
    problem = problem_of(CHEAP, latency_s=0.01)
    finding = search(problem, None, Options(time_limit_s=2.0), POLICY)
    assert finding.plan is None
    assert not finding.verdict.replace


def test_a_device_with_another_generation_gets_the_same_plan_again():
    plan = solve(BOTH)
    assert not search(BOTH, plan, Options(), POLICY).verdict.replace
    assert search(BOTH, plan, Options(), POLICY, stale={"hub-1"}).verdict.replace


def test_a_rate_is_shared_by_the_sources_as_before():
    assert asked_rate(with_rate(BOTH, 9.0)) == 9.0
    assert with_rate(BOTH, 0.0) is BOTH


# --- margin ------------------------------------------------------------------------------------------------------


def sure(problem, confidence=0.95):
    return replace(problem, asks=replace(problem.asks, confidence=confidence))


def test_confidence_gives_way_before_the_rate_does_and_as_little_as_it_can():
    problem = sure(problem_of(CHEAP, rate=7.8))
    assert search(problem, None, Options(), POLICY).plan.margin.confidence == 0.9
    finding = search(sure(problem, 0.85), None, Options(), POLICY)
    assert finding.plan.margin.confidence == 0.85
    assert "confidence" not in finding.verdict.why


def test_a_plan_with_less_confidence_says_so_and_serves_all_that_is_asked():
    finding = search(sure(problem_of(CHEAP, rate=7.99)), None, Options(), POLICY)
    assert finding.plan.predicted.throughput_rps == 7.99
    assert finding.degraded == ""
    assert "80% instead of 95% confidence" in finding.verdict.why


def test_where_no_margin_is_left_the_rate_gives_way_too():
    finding = search(sure(problem_of(CHEAP, rate=20.0)), None, Options(), POLICY)
    assert finding.plan.margin is None
    assert finding.plan.predicted.throughput_rps == pytest.approx(8.0)
    assert "8 of the 20 requests" in finding.degraded
