"""The loop on real agents, each a process of its own: a workflow without models goes from file to results."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from coordinator.fleet import validate
from coordinator.fleet.lifecycle import Outcome
from coordinator.runner import Mesh
from coordinator.status import ledger_of
from tiermesh import wire

ROOT = Path(__file__).parents[3]
WORKFLOW = """
workflow: shout
slo: {rate: 20/s}
stages:
  files: {source: files, path: in, rate: 20/s, count: 12, devices: [cam-1]}
  upper: {map: code, from: files, devices: [hub-1]}
  out:   {sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}
"""
CODE = """
class Upper:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"text": bytes(payload["image"]).decode().upper()}
"""
RUN_AGENT = "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))"


class Process:
    """An agent's process."""

    def __init__(self, folder, name, tier):
        self.folder = folder
        self.name = name
        self.tier = tier
        self.port = wire.free_port()
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    async def start(self):
        words = ["run", "--no-announce", "--state", self.folder, "--name", self.name]
        words += ["--tier", self.tier, "--port", self.port, "--threads", 1, "--price", 0.01]
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN_AGENT, *map(str, words)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


@pytest.fixture
async def agents(tmp_path):
    data = tmp_path / "cam-1" / "data" / "in"
    data.mkdir(parents=True)
    for i in range(12):
        (data / f"{i:02}.txt").write_text(f"word {i}")
    started = [
        Process(tmp_path / "cam-1", "cam-1", "edge"),
        Process(tmp_path / "hub-1", "hub-1", "hub"),
    ]
    for agent in started:
        await agent.start()
    yield started
    await asyncio.gather(*(agent.stop() for agent in started))


@pytest.fixture
def workflow_path(ladder_folder):
    code = ladder_folder / "code"
    code.mkdir()
    (code / "stage.toml").write_text('entry = "upper:Upper"\n')
    (code / "upper.py").write_text(CODE)
    path = ladder_folder / "shout.yaml"
    path.write_text(WORKFLOW)
    return path


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
    assert applied.outcome is Outcome.COMMITTED, applied.failures
    ledger = await finished(mesh, "morning")
    assert (ledger.accepted, ledger.results, ledger.errors) == (12, 12, 0)
    lines = (tmp_path / "cam-1" / "data" / "out" / "text.jsonl").read_text().splitlines()
    texts = {json.loads(line)["payload"]["text"] for line in lines}
    assert texts == {f"WORD {i}" for i in range(12)}

    await mesh.discover(browse=False)
    assert (await mesh.apply(plan)).unchanged
    again = await mesh.apply(plan, run="evening")
    assert (again.outcome, again.generation, again.sent_bytes["hub-1"]) == (Outcome.COMMITTED, 2, 0)


@pytest.mark.slow
async def test_a_killed_agent_aborts_the_rollout_and_the_other_serves_on(
    mesh, agents, workflow_path
):
    plan = await mesh.plan(await mesh.read_workflow(workflow_path))
    assert (await mesh.apply(plan, run="one")).outcome is Outcome.COMMITTED
    agents[1].process.kill()
    await agents[1].process.wait()
    applied = await mesh.apply(plan, run="two")
    assert applied.outcome is Outcome.ABORTED
    assert list(applied.failures) == ["hub-1"]
    assert mesh.fleet.running["shout"].generation == 1
    await mesh.discover(browse=False)
    assert mesh.fleet.named("cam-1").description.generations == {"shout": 1}
    assert mesh.fleet.named("hub-1").state == "suspect"
