"""The loop on real agents, each a process of its own: a workflow without models goes from file to results."""

from __future__ import annotations

import asyncio
import json

import pytest

from coordinator.fleet import validate
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.keeping.waiting import wait
from coordinator.mesh import Mesh
from coordinator.telemetry.status import ledger_of
from tests.agents import AgentProcess, put_words, write_workflow

WORKFLOW = """
workflow: shout
slo: {rate: 20/s, latency: {p95: 30 s}}
stages:
  files: {source: files, path: in, rate: 20/s, count: 12, devices: [cam-1]}
  upper: {map: code, from: files, devices: [hub-1]}
  out:   {sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}
"""


@pytest.fixture
async def agents(tmp_path):
    put_words(tmp_path / "cam-1" / "data" / "in", 12)
    started = [
        AgentProcess(tmp_path / "cam-1", "cam-1", "edge"),
        AgentProcess(tmp_path / "hub-1", "hub-1", "hub"),
    ]
    for agent in started:
        await agent.start()
    yield started
    await asyncio.gather(*(agent.stop() for agent in started))


@pytest.fixture
def workflow_path(ladder_folder):
    return write_workflow(ladder_folder, WORKFLOW)


@pytest.fixture
async def mesh(ladder_folder, agents):
    from coordinator.variants import Ladders

    home = ladder_folder / "home"
    ladders = await asyncio.to_thread(Ladders.open, ladder_folder / "variants", home)
    async with Mesh.open(ladder_folder / "state", ladders=ladders, home=home) as opened:
        await opened.discover([a.address for a in agents], expect=2, browse=False, timeout_s=30.0)
        yield opened
        validate(opened.fleet)


async def finished(mesh, run):
    """The ledger once the source has sent everything and the sink has confirmed it."""
    samples = {}
    async for observed in mesh.watch(interval_s=0.1):
        if observed.sample is not None:
            samples[observed.device.id] = observed.sample
        ledger = ledger_of(samples.values(), "shout", run)
        if ledger.finished and ledger.confirmed == ledger.accepted:
            return ledger
    raise AssertionError


@pytest.mark.slow
async def test_files_flow_through_two_devices_and_a_second_run_begins_again(
    mesh, agents, workflow_path, tmp_path
):
    assert [d.name for d in mesh.fleet.ready] == ["cam-1", "hub-1"]
    plan = await mesh.plan(await mesh.read_workflow(workflow_path))
    assert {r.stage: r.device for r in plan.replicas} == {
        "files": "cam-1",
        "upper": "hub-1",
        "out": "cam-1",
    }
    applied = await mesh.apply(plan, run="morning")
    assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    found = await wait(mesh, "shout", timeout_s=40.0)
    assert found.ok, found.wrong
    assert found.objectives[0].windows["run"].within == 12
    ledger = await finished(mesh, "morning")
    assert (ledger.accepted, ledger.results, ledger.errors) == (12, 12, 0)
    assert ledger.balanced
    lines = (tmp_path / "cam-1" / "data" / "out" / "text.jsonl").read_text().splitlines()
    texts = {json.loads(line)["payload"]["text"] for line in lines}
    assert texts == {f"WORD {i}" for i in range(12)}

    await mesh.discover(browse=False)
    assert (await mesh.apply(plan)).unchanged
    again = await mesh.apply(plan, run="evening")
    assert (again.outcome, again.generation, again.sent_bytes["hub-1"]) == (
        RolloutOutcome.COMMITTED,
        2,
        0,
    )


LINES_WORKFLOW = """
workflow: shout
slo: {rate: 20/s, latency: {p95: 30 s}}
stages:
  lines: {source: jsonl, path: in.jsonl, rate: 20/s, devices: [cam-1]}
  upper: {map: code, from: lines, devices: [hub-1]}
  out:   {sink: files, path: out, from: upper, devices: [cam-1]}
"""
WITH_FIELDS = """
class Upper:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"text": payload["text"].upper(), "blob": bytes(payload["number"])}
"""


@pytest.mark.slow
async def test_a_workflow_of_other_kinds_goes_from_lines_to_a_folder_of_results(
    mesh, agents, ladder_folder, tmp_path
):
    lines = [json.dumps({"text": f"word {i}", "number": i}) for i in range(12)]
    (tmp_path / "cam-1" / "data" / "in.jsonl").write_text("\n".join(lines))
    path = write_workflow(ladder_folder, LINES_WORKFLOW)
    (ladder_folder / "code" / "upper.py").write_text(WITH_FIELDS)
    applied = await mesh.apply(await mesh.plan(await mesh.read_workflow(path)), run="morning")
    assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    found = await wait(mesh, "shout", timeout_s=40.0)
    assert found.ok, found.wrong
    folder = tmp_path / "cam-1" / "data" / "out"
    told = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    assert {one["payload"]["text"] for one in told} == {f"WORD {i}" for i in range(12)}
    sizes = sorted(file.stat().st_size for file in folder.glob("*.blob.bin"))
    assert sizes == list(range(12))


@pytest.mark.slow
async def test_a_killed_agent_aborts_the_rollout_and_the_other_serves_on(
    mesh, agents, workflow_path
):
    plan = await mesh.plan(await mesh.read_workflow(workflow_path))
    assert (await mesh.apply(plan, run="one")).outcome is RolloutOutcome.COMMITTED
    agents[1].process.kill()
    await agents[1].process.wait()
    applied = await mesh.apply(plan, run="two")
    assert applied.outcome is RolloutOutcome.ABORTED
    assert list(applied.failures) == ["hub-1"]
    assert mesh.fleet.running["shout"].generation == 1
    await mesh.discover(browse=False)
    assert mesh.fleet.named("cam-1").description.generations == {"shout": 1}
    assert mesh.fleet.named("hub-1").state == "suspect"
