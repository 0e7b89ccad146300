"""What is measured before a plan serves corrects what it predicts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coordinator.planning import Options, solve
from coordinator.planning.expected import expected, ratios
from tiermesh.documents.problem import (
    Asks,
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
)

HERE = Path(__file__).parent


@pytest.fixture
def problem() -> Problem:
    return Problem(
        name="w",
        tiers=["edge"],
        devices=[ProblemDevice(name="cam", tier="edge", price_per_hour=1.0)],
        stages=[
            ProblemStage(name="in", kind="source", rate_rps=2.0, pinned={"cam": 1.0}),
            ProblemStage(name="read", kind="model", variants=["v"]),
            ProblemStage(name="out", kind="sink", devices=["cam"]),
        ],
        edges=[
            ProblemEdge(source="in", target="read"),
            ProblemEdge(source="read", target="out"),
        ],
        profiles=[
            ProblemProfile(
                stage="read",
                variant="v",
                device="cam",
                batches=[BatchTime(batch_size=1, mean=0.1, percentiles={"p50": 0.1, "p95": 0.12})],
            )
        ],
        asks=Asks(),
    )


def test_a_replica_that_takes_longer_makes_requests_take_longer(problem: Problem) -> None:
    plan = solve(problem, Options())
    (replica,) = [r for r in plan.replicas if r.stage == "read"]
    slower = ratios(problem, plan, {replica.id: 0.15, "unknown": 1.0})
    assert slower == {("read", "v", "cam"): pytest.approx(1.5)}
    before, after = expected(problem, plan, {}), expected(problem, plan, slower)
    assert after.latency_ms["p50"] == pytest.approx(1.5 * before.latency_ms["p50"], rel=0.05)
    assert after.throughput_rps == plan.predicted.throughput_rps


def test_what_was_not_measured_is_predicted_as_profiled(problem: Problem) -> None:
    plan = solve(problem, Options())
    assert ratios(problem, plan, {}) == {}
    again = msgspec.structs.replace(plan, replicas=[])
    assert ratios(problem, again, {"read@cam/v": 0.2}) == {}
