"""A change of the verdict on an SLO is told once it has held, and once."""

from __future__ import annotations

import pytest

from coordinator.fleet import Fleet, apply
from coordinator.fleet.state import Catalogue, PlanRecord, RunningPlan, WorkflowSource
from coordinator.keeping.verdicts import Judging
from coordinator.replanning.causes import Cause, CauseKind
from coordinator.telemetry.attainment import FEWEST
from coordinator.telemetry.watching import Observed
from tests.unit.coordinator.conftest import Made
from tiermesh.v1 import telemetry_pb2 as pb

WORKFLOW = """
workflow: read
slo: {latency: {p95: 3 s}}
stages:
  files: {source: files, path: in, rate: 1/s}
  out: {sink: jsonl, path: out, from: files}
"""


class Mesh:
    """A mesh with one device on which `read` runs, and what was recorded."""

    def __init__(self) -> None:
        made = Made()
        plan = made.plan(replicas=[("files", None, "cam-1"), ("out", None, "cam-1")])
        serves = RunningPlan(
            plan=plan.digest,
            workflow_digest="w",
            generation=3,
            run="r",
            catalogue=Catalogue(),
            devices=["cam-1"],
            since=0.0,
        )
        self.fleet = Fleet(
            devices=apply(made.described("cam-1"), Fleet()).devices,
            running={"read": serves},
            plans={plan.digest: PlanRecord(plan=plan, inputs={}, made_at=0.0)},
            workflows={"w": WorkflowSource(name="read", text=WORKFLOW, folder=".")},
        )
        self.told: list[tuple[str, str, int]] = []

    def now(self) -> float:
        return 5.0

    async def record(self, event) -> None:
        self.told.append((event.before, event.verdict, event.generation))


def said(mesh, source):
    sample = pb.Sample(figures=pb.WorkerFigures(sources=[source]))
    return Observed(mesh.fleet.devices["cam-1"], sample)


@pytest.fixture
def heard():
    """Takes what the source counts, and says what has been told by then."""
    mesh, newest = Mesh(), dict[str, Observed]()
    judging = Judging(mesh, newest)  # pyright: ignore[reportArgumentType]

    async def hear(ended, within):
        source = pb.SourceSample(workflow="read", run="r")
        for seconds in (60, 600, 0):
            source.windows.add(seconds=seconds, ended=ended, within={"p95": within})
        newest["cam-1"] = said(mesh, source)
        await judging.look()
        return mesh.told

    return hear


async def test_a_verdict_is_recorded_once_it_has_held_for_some_requests(heard):
    assert await heard(200, 100) == []
    assert await heard(200 + FEWEST - 1, 100) == []
    missed = [("no-data", "missed", 3)]
    assert await heard(200 + FEWEST, 100) == missed
    assert await heard(900, 400) == missed, "told already"
    await heard(10_000, 9_990)
    assert await heard(10_000 + FEWEST, 9_990) == [*missed, ("missed", "met", 3)]


async def test_a_device_that_is_silent_says_nothing(heard):
    assert await heard(0, 0) == []


async def test_a_missed_slo_is_told_with_what_is_measured_to_be_otherwise_and_a_kept_one_is_not():
    mesh, newest = Mesh(), dict[str, Observed]()
    told = []

    async def record(event):
        told.append((event.verdict, event.causes))

    mesh.record = record
    causes = [Cause(CauseKind.MORE_LOAD, "read", f"cause {number}") for number in range(9)]
    judging = Judging(mesh, newest, lambda name: causes if name == "read" else [])
    for ended, within in [(200, 100), (300, 100), (10_000, 9_990), (10_300, 10_290)]:
        source = pb.SourceSample(workflow="read", run="r")
        for seconds in (60, 600, 0):
            source.windows.add(seconds=seconds, ended=ended, within={"p95": within})
        newest["cam-1"] = said(mesh, source)
        await judging.look()
    assert told == [("missed", ["cause 0", "cause 1", "cause 2"]), ("met", [])]
