"""JellyBean's published example: the optimum under each set of rules (see the design of the planner)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coordinator.planning import Options, solve
from coordinator.planning.importers import jellybean

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "jellybean-vqa-medium"
FOLDERS = (FOLDER, Path(__file__).parents[5] / "shared" / "data" / "jellybean-vqa-medium")
RULES = Options(exclusive=True, single_variant=True)
JELLYBEAN_AT_56 = 7.5088


@pytest.fixture(scope="module")
def problem():
    folder = next((f for f in FOLDERS if f.is_dir()), None)
    if folder is None:
        pytest.skip("JellyBean's published example is not beside the repository")
    return jellybean.problem_from({f.name: f.read_bytes() for f in folder.iterdir()})


def at(problem, accuracy):
    asks = msgspec.structs.replace(problem.asks, accuracy_at_least=float(accuracy))
    return msgspec.structs.replace(problem, asks=asks)


@pytest.mark.parametrize(
    ("options", "cost"),
    [(RULES, 7.48502), (Options(single_variant=True), 7.0115), (Options(), 4.8988)],
    ids=["exclusive-single-variant", "single-variant", "default"],
)
def test_the_optimum_at_56(problem, options, cost):
    plan = solve(at(problem, 56), options)

    assert plan.cost.total_per_hour == pytest.approx(cost, abs=5e-5)
    assert plan.cost.total_per_hour < JELLYBEAN_AT_56
    assert plan.solver.termination == "optimal"
    assert plan.solver.gap <= 1e-6
    assert plan.predicted.accuracy >= 56 - 1e-9
    assert plan.predicted.throughput_rps == 40


@pytest.mark.parametrize("accuracy", [54, 55, 56, 57, 58])
def test_fewer_rules_never_cost_more(problem, accuracy):
    costs = [
        solve(at(problem, accuracy), options).cost.total_per_hour
        for options in (RULES, Options(single_variant=True), Options())
    ]

    assert costs == sorted(costs, reverse=True)


def test_under_the_rules_a_device_serves_one_stage_and_each_stage_one_variant(problem):
    plan = solve(at(problem, 57), RULES)

    assert len({r.device for r in plan.replicas}) == len(plan.replicas)
    assert len({(r.stage, r.variant) for r in plan.replicas}) == len(
        {r.stage for r in plan.replicas}
    )
