"""Cheaper variants held ready as headroom."""

import pytest
from msgspec.structs import replace

from coordinator.planning import Options, solve
from coordinator.planning.spares import with_spares
from coordinator.planning.verify import violations
from tests.unit.planning.test_questions import (
    asking,
    problem,  # noqa: F401  # pyright: ignore[reportUnusedImport] - a fixture
)
from tiermesh.documents.plan import Spare


@pytest.fixture(scope="module")
def accurate(problem):  # noqa: F811
    """The most accurate plan, for a floor below it."""
    return solve(problem, Options(objective="accuracy"))


def test_where_the_floor_leaves_slack_quicker_variants_are_loaded_on_devices_in_use(
    problem,  # noqa: F811
    accurate,
):
    plan = with_spares(accurate, problem)
    added = [r for r in plan.replicas if r not in accurate.replicas]
    assert added
    assert {r.device for r in added} <= {r.device for r in accurate.replicas}
    assert all(r.items_per_second == 0.0 and r.utilization == 0.0 for r in added)
    assert plan.lanes == accurate.lanes
    assert plan.cost == accurate.cost
    assert violations(problem, plan) == []


def test_each_spare_lane_has_its_accuracy_and_passes_a_replica_that_is_loaded_for_it(
    problem,  # noqa: F811
    accurate,
):
    plan = with_spares(accurate, problem)
    added = {r.id: r for r in plan.replicas if r not in accurate.replicas}
    table = {(c.variants["detect"], c.variants["read"]): c.accuracy for c in problem.accuracy.table}
    variants = {r.id: r.variant for r in plan.replicas}
    assert plan.spares
    for lane in plan.spares:
        assert isinstance(lane, Spare)
        assert len(set(lane.path.values()) & added.keys()) == 1
        chosen = variants[lane.path["detect"]], variants[lane.path["read"]]
        assert lane.accuracy == table[chosen]


def test_there_are_none_without_slack_without_a_floor_or_without_memory(
    problem,  # noqa: F811
    accurate,
):
    tight = [replace(d, memory_mb=1.0) for d in problem.devices]
    for other in (
        asking(problem, accuracy_at_least=accurate.predicted.accuracy),
        asking(problem, accuracy_at_least=None),
        replace(problem, devices=tight),
    ):
        assert with_spares(accurate, other) == accurate


def test_where_every_request_has_the_floor_no_spare_lane_is_below_it(
    problem,  # noqa: F811
    accurate,
):
    plan = with_spares(accurate, asking(problem, accuracy_at_least=0.91, every_request=True))
    assert plan.spares
    assert all(lane.accuracy >= 0.91 for lane in plan.spares)


def test_it_is_asked_for(problem):  # noqa: F811
    assert solve(problem, Options(objective="accuracy")).spares == []
    assert solve(problem, Options(objective="accuracy", spares=True)).spares != []
