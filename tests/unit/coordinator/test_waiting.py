"""Waiting for a run: when it is over, and what makes it fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from coordinator.fleet import Fleet
from coordinator.fleet.state import Catalogue, PlanRecord, RunningPlan, WorkflowSource
from coordinator.keeping.waiting import Waiting, wait
from coordinator.telemetry.watching import Observed
from tiermesh.v1 import telemetry_pb2 as pb

WORKFLOW = """
workflow: read
slo: {latency: {p95: 3 s}}
stages:
  files: {source: files, path: in, rate: 1/s}
  out: {sink: jsonl, path: out, from: files}
"""
CAMS = ("cam-1", "cam-2")


@pytest.fixture
def running(made, fleet) -> Fleet:
    """Two cameras with a source each, and a server with the sink."""
    import msgspec

    devices = fleet(*(made.described(name) for name in (*CAMS, "server")))
    replicas = [("files", None, cam) for cam in CAMS] + [("out", None, "server")]
    plan = made.plan(replicas=replicas)
    serves = RunningPlan(
        plan=plan.digest,
        workflow_digest="w",
        generation=1,
        run="r",
        catalogue=Catalogue(),
        devices=[*CAMS, "server"],
        since=0.0,
    )
    return msgspec.structs.replace(
        devices,
        running={"read": serves},
        plans={plan.digest: PlanRecord(plan=plan, inputs={}, made_at=0.0)},
        workflows={"w": WorkflowSource(name="read", text=WORKFLOW, folder=".")},
    )


def sample(ended=10, within=10, *, accepted=None, finished=True, errors=0):
    source = pb.SourceSample(
        workflow="read",
        stage="files",
        run="r",
        accepted=ended if accepted is None else accepted,
        confirmed=ended,
        errors=errors,
        finished=finished,
    )
    source.windows.add(ended=ended, failed=errors, within={"p95": within})
    return pb.Sample(figures=pb.WorkerFigures(sources=[source]))


@dataclass
class Mesh:
    """Devices that say what they are told to, and then nothing more."""

    fleet: Fleet
    said: list[tuple[str, pb.Sample | None]]

    async def _stream(self):
        for device, heard in self.said:
            yield Observed(self.fleet.devices[device], heard)
        await asyncio.Event().wait()

    def watch(self, *, interval_s, devices):
        assert interval_s > 0
        assert {d.id for d in devices} == set(self.fleet.devices)
        return self._stream()


async def waited(fleet, *said, **options):
    return await wait(Mesh(fleet, list(said)), "read", **options)  # pyright: ignore[reportArgumentType]


async def test_a_run_is_over_only_once_all_its_sources_have_said_so(running):
    shown: list[bool] = []
    found = await waited(
        running,
        ("cam-1", sample()),
        ("server", pb.Sample()),
        ("cam-2", sample(ended=3, accepted=5)),
        ("cam-2", sample(ended=5, within=5)),
        show=lambda waiting: shown.append(waiting.is_over),
    )
    assert shown == [False, False, False, True]
    assert (found.ok, found.finished, found.wrong) == (True, True, [])
    assert (found.ledger.accepted, found.objectives[0].windows["run"].within) == (15, 15)


async def test_where_no_slo_is_asked_a_run_of_errors_alone_is_not_well_either(running):
    import msgspec

    text = WORKFLOW.replace("slo: {latency: {p95: 3 s}}\n", "")
    unasked = {"w": WorkflowSource(name="read", text=text, folder=".")}
    fleet = msgspec.structs.replace(running, workflows=unasked)
    all_errors = sample(ended=100, within=0, errors=100)
    found = await waited(fleet, ("cam-1", all_errors), ("cam-2", all_errors))
    assert found.finished
    assert not found.ok
    assert found.wrong == ["200 requests failed"]


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"errors": 1, "within": 199, "ended": 200}, "1 request failed"),
        ({"within": 94, "ended": 100}, "the SLO was missed"),
        ({"ended": 0, "within": 0}, "nothing was accepted: the sources found nothing to send"),
        ({"errors": 200, "within": 0, "ended": 200}, "200 requests failed"),
    ],
)
async def test_it_is_not_well_where_requests_failed_or_the_slo_was_missed(running, more, wrong):
    found = await waited(running, ("cam-1", sample(0, 0)), ("cam-2", sample(**more)))
    assert found.finished
    assert not found.ok
    assert wrong in found.wrong


async def test_a_run_that_is_not_over_in_time_is_not_well(running):
    found = await waited(running, ("cam-1", sample()), timeout_s=0.01)
    assert found.timed_out
    assert not found.finished
    assert "it was not over in time" in found.wrong


async def test_for_a_time_only_what_ended_meanwhile_is_judged(running):
    found = await waited(
        running,
        ("cam-1", sample(100, 0, finished=False, errors=7)),
        ("cam-2", sample(100, 0, finished=False)),
        ("cam-1", sample(160, 60, finished=False, errors=7)),
        ("cam-2", None),
        for_s=0.01,
    )
    assert (found.ok, found.timed_out, found.finished) == (True, False, False)
    run = found.objectives[0].windows["run"]
    assert (run.ended, run.within, found.failed) == (60, 60, 0)


def test_the_devices_with_a_source_are_waited_for(running):
    assert Waiting.of(running, "read").sources == set(CAMS)
