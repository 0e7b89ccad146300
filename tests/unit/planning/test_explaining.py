"""What is said to bind: percentiles and the loss of a device among it, and that the savings are those of real plans."""

import msgspec
import pytest

from coordinator.planning import solve
from coordinator.planning.explain import explain
from tests.unit.planning.overflowing import batches, overflowing


def dear_and_slow():
    """Serving within 100 ms takes a device at 1 USD/h; within 130 ms one at 0.3 USD/h would do."""
    problem = overflowing(0.3, 0.3, p95=0.1, boxes=1, box=((1, 0.11),), terms=None)
    quick = msgspec.structs.replace(problem.devices[0], name="quick", price_per_hour=1.0)
    profile = msgspec.structs.replace(
        problem.profiles[0], device="quick", batches=batches(((1, 0.02),))
    )
    return msgspec.structs.replace(
        problem, devices=[*problem.devices, quick], profiles=[*problem.profiles, profile]
    )


def test_a_slower_percentile_saves_what_its_plan_saves():
    problem = dear_and_slow()
    plan = solve(problem)
    assert plan.cost.total_per_hour == pytest.approx(1.0)

    explanation = explain(problem, plan)
    row = next(b for b in explanation.binding if b.constraint.startswith("p95"))
    assert row.constraint == "p95 at most 100 ms"
    assert row.saves == pytest.approx(0.7)
    by_ms = float(row.relaxed_by.removesuffix(" ms"))
    asks = msgspec.structs.replace(problem.asks, latency_s={"p95": 0.1 + by_ms / 1e3})
    relaxed = solve(msgspec.structs.replace(problem, asks=asks))
    assert relaxed.cost.total_per_hour == pytest.approx(0.3)
    assert explanation.left_out == ["latency"]


def test_a_stage_that_is_pinned_is_said_to_be():
    problem = overflowing(4, 0.3, boxes=1, terms=None)
    stages = [
        msgspec.structs.replace(s, external=False, pinned={"box": 1.0})
        if s.kind == "source"
        else msgspec.structs.replace(s, devices=["box"])
        for s in problem.stages
    ]
    problem = msgspec.structs.replace(problem, stages=stages, links=[])
    explanation = explain(problem, solve(problem))
    reasons = {w.replica.partition("@")[0]: w.reason for w in explanation.replicas}
    assert reasons == {s.name: f"the workflow or the fleet pins `{s.name}` to box" for s in stages}


def test_percentiles_that_do_not_bind_are_not_named():
    problem = overflowing(4, 0.3, p95=0.5, boxes=1, terms=None)
    explanation = explain(problem, solve(problem))

    assert not any(b.constraint.startswith("p95") for b in explanation.binding)


def test_to_survive_any_loss_has_its_price():
    problem = overflowing(30, 0.3, boxes=3, terms=None)
    plain = msgspec.to_builtins(problem)
    plain["asks"]["any_device_lost"] = {}
    problem = msgspec.convert(plain, type(problem))
    plan = solve(problem)
    assert plan.cost.total_per_hour == pytest.approx(0.6)

    explanation = explain(problem, plan)
    row = next(b for b in explanation.binding if b.constraint == "any device may be lost")
    assert row.saves == pytest.approx(0.3)
    assert explanation.left_out == []
