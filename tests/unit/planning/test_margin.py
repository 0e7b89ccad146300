"""Margin: plans that hold on devices slower than profiled, what that costs, and how far latency may lie."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coordinator.planning import Options, PlanObjective, Strategy, draws, slo, solve
from coordinator.planning.explain import explain
from coordinator.planning.margin import CEILING, LADDER, DeviceTimeMargin, most_confident, scaled
from coordinator.planning.simulate import PlayedPlan, simulate
from coordinator.planning.verify import violations
from tiermesh.documents import problem as doc
from tiermesh.errors import Infeasible, InvalidDocument

change = msgspec.structs.replace
SURE = doc.Asks(confidence=0.95)
SLOWER = 1.25


def device(name, price=0.1, **fields):
    return doc.ProblemDevice(name=name, tier="edge", price_per_hour=price, **fields)


def profile(device, *means, stage="read", variant="v", **fields):
    """Batches of 1, 2, 4 .. items."""
    batches = [doc.BatchTime(batch_size=2**i, mean=mean) for i, mean in enumerate(means)]
    return doc.ProblemProfile(
        stage=stage, variant=variant, device=device, batches=batches, **fields
    )


def problem_of(devices, profiles, rate=1.0, p95_s=None, **fields):
    """A source outside the fleet, and a model."""
    asks = doc.Asks(confidence=0.95, latency_s={"p95": p95_s} if p95_s else {})
    stages = [
        doc.ProblemStage(name="in", kind="source", rate_rps=rate, external=True),
        doc.ProblemStage(name="read", kind="model", variants=["v"]),
    ]
    return doc.Problem(
        name="p",
        tiers=["edge"],
        devices=devices,
        stages=stages,
        edges=[doc.ProblemEdge(source="in", target="read")],
        profiles=profiles,
        **{"asks": asks, "uncertainty": doc.Uncertainty()} | fields,
    )


def one(mean=0.1, rate=1.0, **fields):
    return problem_of([device("a", **fields)], [profile("a", mean)], rate)


# --- the factor --------------------------------------------------------------------------------------------------


def margin(problem, confidence=0.95):
    return DeviceTimeMargin(problem, confidence)


def factor(problem, confidence=0.95):
    return margin(problem, confidence).factor(problem.profiles[0], 0)


def test_by_default_devices_may_be_a_quarter_slower_however_well_they_are_known():
    assert factor(one()) == pytest.approx(1.25)
    sure = change(one(), uncertainty=doc.Uncertainty(between_runs=0.0))
    assert factor(sure) == pytest.approx(1.25)


def test_variances_of_the_run_and_of_the_profile_add():
    unsure = change(one(), profiles=[profile("a", 0.1, relative_errors=[0.24])])
    spread = math.hypot(0.24, 0.10)
    assert factor(unsure) == pytest.approx(math.exp(1.6449 * spread), rel=1e-4)
    assert factor(unsure, 0.5) == 1.0


def test_neighbours_cost_what_they_do_unless_serving_has_measured_them():
    beside = problem_of([device("a", host="h", contention=1.2)], [profile("a", 0.1)])
    assert factor(beside) == pytest.approx(1.25 * 1.2)
    served = change(beside, profiles=[profile("a", 0.1, served=True)])
    assert factor(served) == pytest.approx(1.25)


def test_utilization_is_bounded_at_the_quantile_and_as_profiled_and_not_by_both_at_once():
    roomy, full = one(usable_share=0.6), one(usable_share=1.0)
    most = [solve(p, Options(objective="throughput")) for p in (roomy, full)]
    assert [p.predicted.throughput_rps for p in most] == pytest.approx([6.0, 10 * CEILING / 1.25])
    assert most[1].margin.device_time_factor == {"a": 1.25}


def test_without_margin_the_plan_is_that_of_a_problem_that_says_nothing_of_uncertainty():
    unsure = problem_of([device("a"), device("b", 0.2)], [profile("a", 0.1), profile("b", 0.05)], 9)
    silent = change(unsure, asks=doc.Asks(), uncertainty=None)
    plain, bare = solve(silent), solve(unsure, Options(margin=False))
    assert bare.margin is None
    assert (bare.replicas, bare.lanes, bare.cost) == (plain.replicas, plain.lanes, plain.cost)
    assert bare.predicted.latency_ms == plain.predicted.latency_ms
    assert plain.predicted.latency_interval_ms == {}
    assert solve(silent, Options(confidence=0.95)).margin is not None


def test_what_is_not_said_of_uncertainty_does_not_change_digests():
    silent = change(one(), asks=doc.Asks(), uncertainty=None)
    said = {
        "uncertainty": doc.Uncertainty(),
        "asks": SURE,
        "devices": [device("a", host="h")],
        "profiles": [profile("a", 0.1, relative_errors=[0.1])],
    }
    digests = {change(silent, **{k: v}).digest for k, v in said.items()}
    assert len(digests | {silent.digest}) == 5
    plain = msgspec.to_builtins(silent)
    for unsaid in (plain, plain["asks"], *plain["devices"], *plain["profiles"]):
        for name in (
            "uncertainty",
            "confidence",
            "host",
            "contention",
            "relative_errors",
            "served",
            "prior",
        ):
            unsaid.pop(name, None)
    from tiermesh import ids

    assert silent.digest == ids.digest_value(plain)


def test_a_plan_that_breaks_down_within_its_margin_is_a_violation():
    problem = one(rate=7.0)
    plan = solve(problem)
    assert violations(problem, plan) == []
    slow = change(plan, margin=change(plan.margin, device_time_factor={"a": 1.5}))
    assert "1.5 times as slow" in violations(problem, slow)[0]


def test_what_binds_is_the_device_that_margin_fills():
    devices = [device("a"), device("b", 9.0)]
    problem = problem_of(devices, [profile(d.name, 0.1) for d in devices], 15.19)
    explanation = explain(problem, solve(problem))
    assert "device time of a" in [b.constraint for b in explanation.binding]


@pytest.mark.parametrize("confidence", [0.3, 1.0, math.nan])
def test_a_confidence_must_be_one(confidence):
    with pytest.raises(InvalidDocument, match="confidence"):
        Options(confidence=confidence)


# --- plans that hold ---------------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """Chains of one or two models on a few devices, with a p95 that is met or not."""
    stages = ["read", "sort"][: draw(st.integers(1, 2))]
    devices = [
        device(
            f"d{i}",
            draw(st.sampled_from([0.1, 0.4, 1.0])),
            usable_share=draw(st.sampled_from([0.6, 0.8, 1.0])),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    single = st.sampled_from([0.01, 0.03, 0.08])
    profiles = []
    for stage in stages:
        for d in devices:
            first = draw(single)
            more = [first * 1.7, first * 3.0][: draw(st.integers(0, 2))]
            profiles.append(profile(d.name, first, *more, stage=stage))
    p95 = draw(st.sampled_from([0.05, 0.1, 0.2, 0.5, 2.0]))
    base = problem_of(devices, profiles, draw(st.sampled_from([2.0, 8.0, 20.0])), p95)
    models = [doc.ProblemStage(name=s, kind="model", variants=["v"]) for s in stages]
    names = ["in", *stages]
    edges = [doc.ProblemEdge(source=u, target=v) for u, v in itertools.pairwise(names)]
    return change(base, stages=[base.stages[0], *models], edges=edges)


def slower(problem, by=SLOWER):
    return scaled(problem, lambda *_: by)


def demanded(problem, plan):
    """Per device, the share of its time that full batches need."""
    times = {(p.stage, p.device, b.batch_size): b for p in problem.profiles for b in p.batches}
    busy = dict.fromkeys((r.device for r in plan.replicas), 0.0)
    for r in plan.replicas:
        batch = times[r.stage, r.device, r.batch_size]
        busy[r.device] += r.items_per_second * batch.mean / batch.batch_size
    return busy


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_a_plan_stays_within_its_slo_with_devices_a_quarter_slower_than_profiled(problem):
    try:
        plan = solve(problem, Options(intervals=False), explain=False)
    except Infeasible:
        return
    assert violations(problem, plan) == []
    slow = slower(problem)
    outcome = simulate(slow, plan, draws.SimulatedLoad(requests=3000))
    assert outcome.latency_ms["p95"] <= 1e3 * problem.asks.latency_s["p95"] * 1.001
    assert max(demanded(slow, plan).values()) <= CEILING + 1e-6


def test_without_margin_a_plan_does_not_hold_when_devices_are_slower():
    """What the property above is there for."""
    problem = problem_of([device("a")], [profile("a", 0.1)], 8.0, 0.9)
    plan = solve(problem, Options(margin=False))
    outcome = simulate(slower(problem), plan)
    assert outcome.latency_ms["p95"] > 900
    with pytest.raises(Infeasible):
        solve(problem, explain=False)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_more_confidence_never_costs_less(problem):
    """As far as the program goes: what percentiles add is found by trying."""
    loose = change(problem, asks=SURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slo, "SIMULATED", 0)
        costs = [cost_of(loose, Options(confidence=c, intervals=False)) for c in LADDER[::2]]
    assert costs == sorted(costs)
    assert cost_of(loose, Options(margin=False)) <= costs[0] + 1e-9


def cost_of(problem, options):
    try:
        return round(solve(problem, options, explain=False).cost.total_per_hour, 9)
    except Infeasible:
        return math.inf


@pytest.mark.parametrize("strategy", list(Strategy))
def test_every_strategy_plans_with_margin(strategy):
    cheap, dear = device("a", 0.1), device("b", 0.5)
    problem = problem_of([cheap, dear], [profile("a", 0.1), profile("b", 0.03)], 8.0)
    plan = solve(problem, Options(strategy=strategy))
    assert {r.device for r in plan.replicas} != {"a"}, "a quarter slower, `a` is 100 % busy"
    assert violations(problem, plan) == []
    assert {
        r.device for r in solve(problem, Options(strategy=strategy, margin=False)).replicas
    } == {"a"}


def test_a_badly_known_profile_is_left_for_one_that_is_known():
    devices = [device("a", 0.1), device("b", 0.11)]
    known = [profile("a", 0.1, relative_errors=[0.5]), profile("b", 0.1)]
    plan = solve(problem_of(devices, known, 6.0))
    assert [r.device for r in plan.replicas] == ["b"]


# --- its price ---------------------------------------------------------------------------------------------------


def test_the_frontier_tells_what_other_confidences_cost():
    prices = {"a": 0.10, "b": 0.30}
    devices = [device(name, price) for name, price in prices.items()]
    errors = [0.12]
    known = [profile(n, 0.1, relative_errors=errors) for n in prices]
    problem = problem_of(devices, known, 7.2)
    plan = solve(problem, Options(frontier=True))
    told = {p.confidence: p.total_per_hour for p in plan.margin.frontier}
    assert told == pytest.approx({None: 0.1, 0.9: 0.1, 0.95: 0.1, 0.99: 0.4})
    assert plan.margin.price_per_hour == pytest.approx(0.0)
    sure = solve(problem, Options(frontier=True, confidence=0.99))
    assert sure.margin.price_per_hour == pytest.approx(0.3)


def test_an_infeasible_confidence_is_in_the_frontier_as_such():
    plan = solve(one(rate=7.5), Options(frontier=True))
    assert {p.confidence: p.total_per_hour for p in plan.margin.frontier}[0.99] is None


def clash_of(error) -> list[Any]:
    return cast("list[Any]", error.to_dict()["clash"])


def test_where_margin_makes_it_infeasible_the_nearest_confidence_is_told():
    with pytest.raises(Infeasible) as caught:
        solve(one(rate=8.5))
    told = {row["ask"]: row for row in clash_of(caught.value)}
    assert told["confidence"]["asked"] == "95 %"
    nearest = told["confidence"]["value"]
    assert 0.5 < nearest < 0.95
    assert "confidence (95 %)" in caught.value.why
    assert f"confidence {100 * nearest:g} %" in caught.value.fix
    assert solve(one(rate=8.5), Options(confidence=nearest)).replicas


def test_where_even_no_margin_helps_confidence_is_not_to_blame():
    with pytest.raises(Infeasible) as caught:
        solve(one(rate=20.0))
    assert [row["ask"] for row in clash_of(caught.value)] == ["rate"]


@given(st.sampled_from([0.0, *LADDER]), st.sampled_from([*LADDER, 1.0]))
def test_the_largest_confidence_that_succeeds_is_found_in_few_attempts(feasible, below):
    tried = []

    def attempt(confidence):
        tried.append(confidence)
        return "plan" if confidence <= feasible else None

    found = most_confident(attempt, below)
    possible = [c for c in LADDER if c < below and c <= feasible]
    assert found == ((possible[-1], "plan") if possible else None)
    assert len(tried) <= 4


# --- intervals ---------------------------------------------------------------------------------------------------


def shared(host="h", count=2, **fields):
    names = [f"d{i}" for i in range(count)]
    return problem_of(
        [device(n, host=host, **fields) for n in names], [profile(n, 0.1) for n in names]
    )


def test_devices_of_a_host_are_slow_together_and_those_of_others_are_not():
    together = [[f(p, 0) for p in shared().profiles] for f in draws.factors(shared(), 50)]
    assert all(a == pytest.approx(b) for a, b in together)
    apart = [[f(p, 0) for p in shared(None).profiles] for f in draws.factors(shared(None), 50)]
    assert any(abs(a - b) > 0.1 for a, b in apart)


def test_drawn_factors_have_the_distribution_that_the_problem_states():
    drawn = sorted(f(shared().profiles[0], 0) for f in draws.factors(shared(), 200))
    for level in (0.05, 0.5, 0.95):
        expected = math.exp(0.10 * NormalDist().inv_cdf(level))
        assert drawn[int(level * 200)] == pytest.approx(expected, rel=0.02)
    beside = shared(contention=1.2)
    drawn = sorted(f(beside.profiles[0], 0) for f in draws.factors(beside, 200))
    assert drawn[100] == pytest.approx(1.2, rel=0.02)


def test_the_error_of_a_profile_is_its_own():
    unsure = change(
        shared(), profiles=[profile(n, 0.1, relative_errors=[0.2]) for n in ("d0", "d1")]
    )
    drawn = [[f(p, 0) for p in unsure.profiles] for f in draws.factors(unsure, 50)]
    assert any(abs(a - b) > 0.1 for a, b in drawn)


@example(0.0)
@given(st.sampled_from([0.05, 0.1, 0.2]))
@settings(max_examples=3, deadline=None)
def test_the_interval_holds_the_prediction_and_grows_with_what_is_not_known(spread):
    problem = change(one(rate=5.0), uncertainty=doc.Uncertainty(between_runs=spread))
    plan, again = solve(problem), solve(problem)
    low, high = plan.predicted.latency_interval_ms["p50"]
    assert low * 0.9 <= plan.predicted.latency_ms["p50"] <= high * 1.1
    assert plan.predicted.latency_interval_ms == again.predicted.latency_interval_ms
    wider = solve(change(problem, uncertainty=doc.Uncertainty(between_runs=spread + 0.1)))
    more_low, more_high = wider.predicted.latency_interval_ms["p50"]
    assert more_high - more_low > high - low


@pytest.mark.parametrize("rate", [3.0, 12.0])
def test_nine_of_ten_runs_on_devices_drawn_anew_lie_in_the_interval(rate):
    """Within what eight draws can tell: 90 % on the mean over plans."""
    problem = problem_of([device("a")], [profile("a", 0.05, relative_errors=[0.05])], rate)
    plan = solve(problem)
    low, high = plan.predicted.latency_interval_ms["p95"]
    served = PlayedPlan(replicas=plan.replicas, lanes=plan.lanes, rate_rps=rate)
    inside = 0
    for number, f in enumerate(draws.factors(problem, 100, seed=77)):
        load = draws.SimulatedLoad(requests=draws.REQUESTS, seed=1000 + number)
        inside += low <= simulate(scaled(problem, f), served, load).latency_ms["p95"] <= high
    assert inside >= 80


def test_intervals_can_be_left_out():
    assert solve(one(), Options(intervals=False)).predicted.latency_interval_ms == {}


def test_the_prediction_itself_is_that_of_the_device_times_as_profiled():
    problem = problem_of([device("a")], [profile("a", 0.1)], 4.0, 2.0)
    with_margin, without = solve(problem), solve(problem, Options(margin=False))
    assert with_margin.predicted == without.predicted
    assert with_margin.margin is not None


def test_latency_as_an_objective_is_that_at_the_quantile():
    problem = one(rate=4.0)
    options = Options(objective=PlanObjective.LATENCY)
    slow, plain = solve(problem, options), solve(problem, replace(options, margin=False))
    assert slow.solver.objective > 1.2 * plain.solver.objective
    assert slow.predicted.latency_ms == plain.predicted.latency_ms
