"""Questions about problems and plans: why none, what if, what changes, and what a rule's breach looks like."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from coordinator.planning import Options, PlanObjective, Strategy, solve, solver
from coordinator.planning.diff import difference
from coordinator.planning.explain import explain
from coordinator.planning.simulate import SimulatedLoad, simulate
from coordinator.planning.tiers import detect
from coordinator.planning.verify import violations
from tiermesh.documents import problem as doc
from tiermesh.errors import DigestMismatch, Infeasible, InvalidDocument

change = msgspec.structs.replace


def stage(name, kind="model", **fields):
    return doc.ProblemStage(name=name, kind=kind, **fields)


@pytest.fixture(scope="module")
def problem():
    """Two cameras and a hub: photos are read on the cameras, detected, recognised and kept on the hub."""
    speed = {"cam-1": 4, "cam-2": 4, "hub": 1}
    times = {
        ("detect", "a"): 0.02,
        ("detect", "b"): 0.03,
        ("read", "l"): 0.012,
        ("read", "s"): 0.006,
    }
    rows = {("a", "l"): 0.92, ("a", "s"): 0.8, ("b", "l"): 0.97, ("b", "s"): 0.9}
    return doc.Problem(
        name="signs",
        tiers=["edge", "hub"],
        devices=[
            doc.ProblemDevice(
                name=n,
                tier="hub" if n == "hub" else "edge",
                price_per_hour=0.5 / f,
                usable_share=0.8,
                watts_idle=1.0,
                watts_busy=9.0 / f,
            )
            for n, f in speed.items()
        ],
        links=[doc.ProblemLink(source="edge", target="hub", rtt_ms=5, capacity_mbps=20)],
        stages=[
            stage("photos", "source", rate_rps=12, pinned={"cam-1": 0.5, "cam-2": 0.5}),
            stage("detect", variants=["a", "b"]),
            stage("read", variants=["l", "s"]),
            stage("out", "sink", tiers=["hub"]),
        ],
        edges=[
            doc.ProblemEdge(source="photos", target="detect", bytes_per_item=1e5),
            doc.ProblemEdge(source="detect", target="read", ratio=3, bytes_per_item=1e4),
            doc.ProblemEdge(source="read", target="out", bytes_per_item=100),
        ],
        profiles=[
            doc.ProblemProfile(
                stage=s,
                variant=v,
                device=d,
                batches=[
                    doc.BatchTime(batch_size=1, mean=t * f),
                    doc.BatchTime(batch_size=4, mean=3 * t * f),
                ],
                memory_mb=50,
            )
            for d, f in speed.items()
            for (s, v), t in times.items()
        ],
        accuracy=doc.Accuracy(
            table=[
                doc.Combination(variants={"detect": d, "read": r}, accuracy=a)
                for (d, r), a in rows.items()
            ]
        ),
        asks=doc.Asks(accuracy_at_least=0.9),
    )


@pytest.fixture(scope="module")
def plan(problem):
    return solve(problem)


def asking(problem, **asks):
    return change(problem, asks=change(problem.asks, **asks))


# --- objectives and asks ---


@pytest.mark.parametrize("objective", list(PlanObjective))
def test_each_objective_is_best_at_its_own(problem, objective):
    plans = {o: solve(problem, Options(objective=o)) for o in (PlanObjective.COST, objective)}
    mine, cheap = plans[objective], plans[PlanObjective.COST]

    assert violations(problem, mine) == []
    assert mine.cost.total_per_hour >= cheap.cost.total_per_hour - 1e-9
    match objective:
        case PlanObjective.THROUGHPUT:
            assert mine.predicted.throughput_rps > cheap.predicted.throughput_rps
        case PlanObjective.ACCURACY:
            assert mine.predicted.accuracy == pytest.approx(0.97)
        case PlanObjective.LATENCY:
            # What the program minimises is a mean.
            assert mine.predicted.latency_ms["p50"] <= cheap.predicted.latency_ms["p50"]
            assert mine.solver.objective == pytest.approx(mine.predicted.latency_ms["p95"] / 1e3)
        case _:
            pass


def test_a_latency_asked_is_kept_in_simulation(problem):
    asked = asking(problem, latency_s={"p95": 0.3})
    plan = solve(asked)

    assert violations(asked, plan) == []
    assert plan.predicted.latency_ms["p95"] <= 300
    assert simulate(asked, plan, SimulatedLoad(seed=7)).latency_ms["p95"] <= 300 * 1.1


def test_every_request_uses_only_combinations_that_meet_the_accuracy(problem):
    plan = solve(asking(problem, accuracy_at_least=0.92, every_request=True))

    assert all(lane.accuracy >= 0.92 for lane in plan.lanes)


def test_churn_keeps_what_runs_where_moving_costs_more_than_it_saves(problem, plan):
    dearer = [
        change(d, price_per_hour=d.price_per_hour * (1.05 if d.name == "hub" else 1.0))
        for d in problem.devices
    ]
    running = [
        doc.RunningReplica(stage=r.stage, variant=r.variant, device=r.device) for r in plan.replicas
    ]
    moved = change(problem, devices=dearer, running=running, terms=doc.Terms(churn_per_start=10.0))

    assert difference(plan, solve(moved)).started == []


def test_greedy_says_that_it_is_a_heuristic_and_how_far_off_it_may_be(problem, plan):
    greedy = solve(problem, Options(strategy=Strategy.GREEDY))

    assert greedy.solver.termination == "heuristic"
    assert greedy.solver.bound <= plan.solver.objective + 1e-6
    assert greedy.solver.objective >= plan.solver.objective - 1e-6


def test_cbc_takes_over_where_highs_is_not_installed(problem, plan, monkeypatch):
    monkeypatch.setattr(solver._Highs, "available", lambda _: False)
    other = solve(problem)

    assert other.solver.name == "cbc"
    assert other.solver.objective == pytest.approx(plan.solver.objective, rel=1e-5)


def test_a_search_that_is_stopped_says_so_and_gives_what_it_has(problem):
    stopped = solve(problem, Options(time_limit_s=0.0))

    assert violations(problem, stopped) == []
    assert stopped.solver.bound <= stopped.solver.objective + 1e-9


# --- why there is no plan ---


def clash_of(problem, **options):
    with pytest.raises(Infeasible) as caught:
        solve(problem, Options(**options))
    return caught.value, {c["ask"]: c for c in cast("list[Any]", caught.value.fields["clash"])}


def test_an_accuracy_out_of_reach_names_what_is_in_reach(problem):
    error, clash = clash_of(asking(problem, accuracy_at_least=0.98))

    assert list(clash) == ["accuracy"]
    assert clash["accuracy"]["value"] == pytest.approx(0.97, abs=1e-6)
    assert "0.97" in error.why


def test_a_rate_out_of_reach_names_the_rate_and_the_devices_that_would_do(problem):
    fast = change(
        problem, stages=[change(s, rate_rps=100.0) if s.rate_rps else s for s in problem.stages]
    )
    roomy = change(fast, links=[])
    error, clash = clash_of(roomy)
    nearest = clash["rate"]["value"]

    assert "more device" in error.fix
    assert 12 < nearest < 100
    almost = [change(s, rate_rps=nearest * 0.999) if s.rate_rps else s for s in roomy.stages]
    assert solve(change(roomy, stages=almost)).replicas


def test_asks_that_clash_together_are_all_named_and_no_other(problem):
    _, clash = clash_of(asking(problem, cost_per_hour_at_most=0.3, watts_at_most=1e6))

    assert "cost" in clash
    assert "power" not in clash


def test_a_stage_that_runs_nowhere_is_named(problem):
    nowhere = change(problem, profiles=[p for p in problem.profiles if p.stage != "read"])
    error, _ = clash_of(nowhere)

    assert "read" in error.why


# --- one device lost ---


def test_a_plan_that_survives_says_who_takes_over_and_keeps_its_rate(problem):
    pair = change(
        problem,
        devices=[*problem.devices, change(problem.devices[2], name="hub-2")],
        profiles=[
            *problem.profiles,
            *(change(p, device="hub-2") for p in problem.profiles if p.device == "hub"),
        ],
        asks=change(problem.asks, any_device_lost=doc.Degraded()),
    )
    plan = solve(pair)
    hub = next(r.device for r in plan.replicas if r.stage == "out" and r.items_per_second > 0)
    outcome = simulate(pair, plan, SimulatedLoad(fail=hub, fail_at=0.3))

    assert violations(pair, plan) == []
    assert outcome.lost < 0.02 * 4000
    assert outcome.moved_to_backup > 0
    assert outcome.throughput_rps > 0.9 * 12


def test_without_a_second_hub_no_plan_survives(problem):
    _, clash = clash_of(asking(problem, any_device_lost=doc.Degraded()))

    assert "any-device-lost" in clash


# --- explain, diff, simulate, verify ---


def test_explain_names_what_the_next_best_costs_and_what_binds(problem, plan):
    explanation = explain(problem, plan)

    assert {w.replica for w in explanation.replicas} == {r.id for r in plan.replicas}
    hub = next(w for w in explanation.replicas if w.replica.startswith("out@hub"))
    assert hub.without_device is None
    for row in explanation.binding:
        assert row.saves > 0


def test_explain_refuses_another_problem(problem, plan):
    with pytest.raises(DigestMismatch):
        explain(asking(problem, accuracy_at_least=0.8), plan)


def test_a_plan_does_not_differ_from_itself_and_differs_from_another(problem, plan):
    assert difference(plan, plan).empty
    better = solve(asking(problem, accuracy_at_least=0.97))
    found = difference(plan, better)

    assert not found.empty
    assert found.accuracy == pytest.approx(0.97 - plan.predicted.accuracy)
    assert 0 < found.rerouted_share <= 1


def test_items_are_drawn_as_they_were_seen(problem, plan):
    """One line or seven: the work is that of three, and the slowest requests take longer than with three each."""

    def seeing(items):
        edges = [change(e, items_seen=items) if e.source == "detect" else e for e in problem.edges]
        return simulate(
            change(problem, edges=edges), plan, SimulatedLoad(requests=8000, scale=0.2, seed=5)
        )

    alike, spread = seeing([]), seeing([1, 1, 7])
    assert sum(spread.busy.values()) == pytest.approx(sum(alike.busy.values()), rel=0.05)
    assert spread.latency_ms["p90"] > 1.05 * alike.latency_ms["p90"]


def test_simulated_throughput_and_load_are_the_planned_ones(problem, plan):
    outcome = simulate(problem, plan, SimulatedLoad(requests=6000, arrivals="constant"))
    planned = {}
    for replica in plan.replicas:
        planned[replica.device] = planned.get(replica.device, 0.0) + replica.utilization

    assert outcome.throughput_rps == pytest.approx(12, rel=0.02)
    assert outcome.lost == 0
    for device, share in planned.items():
        assert outcome.busy.get(device, 0.0) >= share * 0.9


def test_requests_that_come_evenly_wait_less(problem, plan):
    def coming(arrivals):
        stages = [change(s, arrivals=arrivals) if s.kind == "source" else s for s in problem.stages]
        return change(problem, stages=stages)

    even, poisson = (simulate(coming(a), plan).latency_ms for a in ("constant", "poisson"))
    assert poisson == simulate(problem, plan).latency_ms, "poisson is what is taken for granted"
    assert even["p95"] < poisson["p95"]
    asked = simulate(coming("constant"), plan, SimulatedLoad(arrivals="poisson")).latency_ms
    assert asked == poisson, "who simulates may ask for other arrivals"


def test_recorded_arrivals_are_played_as_they_are(problem, plan):
    times = [10.0 * i for i in range(200)]
    calm = simulate(problem, plan, SimulatedLoad(times=times))
    assert calm.completed == 200
    assert calm.throughput_rps == pytest.approx(0.1, rel=0.05)
    flood = simulate(problem, plan, SimulatedLoad(times=[0.0] * 200))
    assert flood.latency_ms["p95"] > 2 * calm.latency_ms["p95"]


def test_a_simulation_is_the_same_for_the_same_seed(problem, plan):
    assert simulate(problem, plan, SimulatedLoad(seed=3)) == simulate(
        problem, plan, SimulatedLoad(seed=3)
    )


def test_an_unknown_device_cannot_fail(problem, plan):
    with pytest.raises(InvalidDocument):
        simulate(problem, plan, SimulatedLoad(fail="nobody"))


@pytest.mark.parametrize(
    ("breach", "word"),
    [
        (lambda p: change(p, lanes=p.lanes[:-1]), "sum"),
        (lambda p: change(p, replicas=p.replicas[1:]), "no replica"),
        (lambda p: change(p, cost=change(p.cost, total_per_hour=0.0)), "costs"),
        (lambda p: change(p, predicted=change(p.predicted, throughput_rps=99.0)), "bring"),
        (lambda p: change(p, predicted=change(p.predicted, accuracy=0.99)), "accuracy"),
    ],
    ids=["lane-missing", "replica-missing", "cost", "overload", "accuracy"],
)
def test_a_breach_is_seen(problem, plan, breach, word):
    assert any(word in text for text in violations(problem, breach(plan)))


@pytest.mark.parametrize("method", ["equal-costs", "louvain", "spectral", "min-cut"])
def test_tiers_from_link_costs(method):
    if method in {"louvain", "min-cut"}:
        pytest.importorskip("networkx", reason="networkx is an extra")
    edge, cloud = [f"e{i}" for i in range(4)], [f"c{i}" for i in range(3)]
    prices = {(a, b): 1.0 for a in edge for b in cloud} | {(b, a): 9.0 for a in edge for b in cloud}
    costs = dict.fromkeys(edge, 0.1) | dict.fromkeys(cloud, 2.0)

    assert detect([*cloud, *edge], prices, costs, method=method) == [edge, sorted(cloud)]


def test_latency_and_survival_hold_together(problem):
    hubs = [change(problem.devices[2], name=f"hub-{i}") for i in (1, 2, 3)]
    profiles = [p for p in problem.profiles if p.device != "hub"]
    profiles += [
        change(p, device=hub.name) for hub in hubs for p in problem.profiles if p.device == "hub"
    ]
    asked = change(
        problem,
        devices=[*problem.devices[:2], *hubs],
        profiles=profiles,
        asks=change(problem.asks, latency_s={"p95": 0.25}, any_device_lost=doc.Degraded()),
    )
    plan = solve(asked)

    assert violations(asked, plan) == []
    assert plan.predicted.latency_ms["p95"] <= 250
    lost = next(r.device for r in plan.replicas if r.stage == "read" and r.items_per_second > 0)
    assert simulate(asked, plan, SimulatedLoad(fail=lost, fail_at=0.3)).lost < 0.02 * 4000
