"""`agent run | status | doctor` as a device runs them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.planning.snapshot import inputs_of
from tests.commands import needs_proc, until
from tiermesh import ids
from tiermesh.errors import TiermeshError

pytestmark = [needs_proc, pytest.mark.slow]

WORKFLOW = """
workflow: shout
slo: {rate: 20/s}
stages:
  files: {source: files, path: in, rate: 20/s, devices: [cam-1]}
  upper: {STAGE, from: files, devices: [hub-1]}
  out:   {sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}
"""
CODE = """
class Upper:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"text": bytes(payload["image"]).decode().upper()}
"""
LADDER = """
model = "abacus"
stage = "stage"
model_file = "beads"
[variants.wood]
runtime = "abacus"
precision = "fp32"
licence = "Apache-2.0"
[variants.wood.files.beads]
registry = "pypi"
package = "none"
version = "1"
package_bytes = 1
path = "beads"
sha256 = "SHA256"
size_bytes = 5
"""


@pytest.fixture
def shout(tmp_path):
    """A workflow whose one stage is code; a function of what that stage is."""
    folder = tmp_path / "workflow"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "stage.toml").write_text('entry = "upper:Upper"\n')
    (folder / "code" / "upper.py").write_text(CODE)

    def written(stage="map: code"):
        path = folder / "shout.yaml"
        path.write_text(WORKFLOW.replace("STAGE", stage))
        return path

    return written


@pytest.fixture
async def two(new_agent, tmp_path):
    """Two agents that run, and 60 files for the first: three seconds of work."""
    data = tmp_path / "cam-1" / "data" / "in"
    data.mkdir(parents=True)
    for i in range(60):
        (data / f"{i:02}.txt").write_text(f"word {i}")
    agents = [new_agent("cam-1", "edge"), new_agent("hub-1", "hub")]
    return {agent.name: (agent, await agent.start()) for agent in agents}


@pytest.fixture
def results(tmp_path):
    """A function that gives the whole lines that the sink has written so far."""
    file = tmp_path / "cam-1" / "data" / "out" / "text.jsonl"

    def read():
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    return read


async def test_an_agent_says_what_it_is_and_ends_when_asked(new_agent, commands):
    agent = new_agent()
    running = await agent.start("--slowdown", 3)
    said = await agent.describe()
    assert (said.name, said.tier, said.price_per_hour) == ("cam-1", "edge", 0.01)
    assert json.loads(said.fingerprint)["emulated"] == {"slowdown": 3.0}

    by_folder = await commands.run("agent.cli", "status", "--state", agent.folder, "--json")
    by_address = await commands.run("agent.cli", "status", "--address", agent.address, "--json")
    for status in (by_folder, by_address):
        assert status.code == 0, status.said
        assert status.document["device"] == said.device_id
        assert status.document["generations"] == {}
        assert status.document["worker"]["state"] == "stopped"
    for_people = await commands.run("agent.cli", "status", "--state", agent.folder)
    assert for_people.out.startswith(f"device: {said.device_id}\nname: cam-1\ntier: edge\n")

    running.process.send_signal(signal.SIGTERM)
    await running.end()
    assert (running.code, commands.processes()) == (0, {})
    gone = await commands.run("agent.cli", "status", "--state", agent.folder, "--json")
    assert gone.code == 1
    assert gone.document["error"]["kind"] == "unreachable"


async def test_the_doctor_needs_no_agent(commands):
    doctor = await commands.run("agent.cli", "doctor", "--json")
    assert doctor.code == 0, doctor.said
    found = doctor.document
    assert found["cpu"]["cores_logical"] >= found["cpu"]["cores_physical"] >= 1
    assert found["memory_bytes"] > 0
    (onnx,) = (r for r in found["runtimes"] if r["name"] == "onnx")
    assert onnx.get("version") or onnx["unavailable"]


async def test_what_an_agent_cannot_start_with_is_said_and_exits_with_1(new_agent, commands):
    first = new_agent()
    await first.start()
    await first.describe()

    async def refused(agent, *words):
        ended = await agent.start(*words, "--json")
        await ended.end()
        assert (ended.code, "Traceback" in ended.said) == (1, False), ended.said
        return ended.document["error"]

    error = await refused(new_agent("cam-2"), "--host", "0.0.0.0")  # noqa: S104
    assert error["what"] == f"refusing to listen on {error['address']}"
    assert error["address"].startswith("0.0.0.0:")
    assert "--insecure-lan" in error["fix"]

    error = await refused(new_agent("cam-3"), "--port", first.port)
    assert error["what"] == f"cannot listen on {first.address}"

    error = await refused(first)
    assert error["what"].startswith("another agent runs with the state folder")
    pid = error["why"].removeprefix("its process is ")
    assert first.name in commands.processes()[int(pid)]
    assert (await first.describe()).name == "cam-1"


async def test_wrong_settings_exit_with_2_and_name_the_place(new_agent, tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text('state = "s"\nprice_per_hour = "cheap"\n')
    ended = await new_agent().start("--config", config, "--slowdown", 0.5, "--json")
    await ended.end()
    assert ended.code == 2
    assert ended.document["error"]["path"] in ("$.slowdown", "$.price_per_hour")


@pytest.mark.parametrize("victim", ["cam-1", "hub-1"])
async def test_a_killed_agent_resumes_without_the_coordinator_and_serves_on(
    two, coordinator, shout, results, victim
):
    async with coordinator(*(agent for agent, _ in two.values())) as mesh:
        plan = await mesh.plan(await mesh.read_workflow(shout()))
        assert (await mesh.apply(plan)).outcome is RolloutOutcome.COMMITTED
    await until(lambda: len(results()) >= 10, "results come")
    agent, running = two[victim]
    running.process.kill()
    await running.end()
    await agent.start()
    assert (await agent.describe()).device_id
    await until(lambda: len(results()) >= 60, "every request ends", 30)
    assert {r["outcome"] for r in results()} == {"result"}
    texts = [r["payload"]["text"] for r in results()]
    assert sorted(texts) == sorted(f"WORD {i}" for i in range(60)), "nothing twice, nothing lost"
    assert dict((await agent.describe()).generations) == {"shout": 1}


async def test_a_variant_without_its_runtime_is_refused_and_what_runs_is_untouched(
    two, coordinator, shout, results, tmp_path
):
    agents = [agent for agent, _ in two.values()]
    async with coordinator(*agents, variants=abacus(tmp_path)) as mesh:
        served = await mesh.plan(await mesh.read_workflow(shout()))
        assert (await mesh.apply(served)).outcome is RolloutOutcome.COMMITTED

        workflow = await mesh.read_workflow(shout("model: abacus"))
        hub = mesh.fleet.named("hub-1")
        await mesh.profile(workflow, devices=[hub])
        (variant,) = await mesh.variants(workflow)
        why = mesh.fleet.profile(hub, variant.digest).cannot_run
        assert "there is no runtime 'abacus'" in why
        with pytest.raises(TiermeshError, match="abacus"):
            await mesh.plan(workflow)

        catalogue = await mesh.catalogue(workflow)
        fleet = ids.digest_value(inputs_of(mesh.fleet, workflow, catalogue, mesh.network))
        edited = replace(
            served,
            made_for=replace(served.made_for, workflow=workflow.digest, fleet=fleet),
            replicas=[
                replace(r, variant="wood") if r.stage == "upper" else r for r in served.replicas
            ],
        )
        applied = await mesh.apply(edited)
        assert applied.outcome is RolloutOutcome.ABORTED
        assert list(applied.failures) == ["hub-1"]
        assert "there is no runtime 'abacus'" in applied.failures["hub-1"]
    for agent in agents:
        assert dict((await agent.describe()).generations) == {"shout": 1}
    await until(lambda: len(results()) == 60, "what ran runs on", 30)


def abacus(tmp_path: Path) -> Path:
    """A ladder whose one variant is for a runtime that no device has; its file is in the cache."""
    sha256 = hashlib.sha256(b"beads").hexdigest()
    cache = tmp_path / "home" / "artifacts" / "sha256"
    cache.mkdir(parents=True)
    (cache / sha256).write_bytes(b"beads")
    stage = tmp_path / "variants" / "abacus" / "stage"
    stage.mkdir(parents=True)
    (stage / "stage.toml").write_text('entry = "code:Stage"\n')
    (stage / "code.py").write_text("class Stage: ...\n")
    (stage.parent / "ladder.toml").write_text(LADDER.replace("SHA256", sha256))
    return tmp_path / "variants"


async def test_an_agent_tied_to_its_parent_ends_when_standard_input_closes(new_agent):
    agent = new_agent()
    running = await agent.start("--exit-with-stdin")
    await agent.describe()
    async with asyncio.timeout(20):
        await running.end()
    assert running.code == 0


async def test_status_asks_the_agent_of_the_folder_wherever_it_listens(new_agent, commands):
    agent = new_agent()
    command = await agent.start("--host", "127.0.0.2")
    await command.says(f"listening on 127.0.0.2:{agent.port}")
    asked = await commands.run("agent.cli", "status", "--state", agent.folder, "--json")
    assert asked.document["name"] == "cam-1"
