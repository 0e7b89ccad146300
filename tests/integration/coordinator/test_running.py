"""Commands beside a running coordinator: it carries them out, and they answer as they do alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys

import jsonschema
import pytest

from coordinator.api import schemas
from coordinator.api.unix_socket import SOCKET_NAME
from tiermesh.errors import StorageFull
from tiermesh.session import Tenure

CHANGING = {"at", "seen_at", "since", "took_seconds", "seconds", "number", "so_far_usd"}
"""Times and counters, which no two runs of a command have in common."""
READING = {"profiles", "diff", "status", "wait", "explain", "events", "settings"}
COMMANDS = (
    "devices",
    "devices --offline",
    "profile read.yaml --batch-sizes 1",
    "profiles",
    "profiles ocr-detect/v3 --on moon",
    "plan read.yaml",
    "apply plan.json --dry-run",
    "apply plan.json",
    "apply nowhere.json",
    "diff plan.json",
    "artifacts",
    "workflows",
    "workflows --remove read",
    "drain hub-1",
    "drain moon",
    "rollback",
    "rollout cancel read",
    "status --interval 0.1",
    "wait --timeout 0.5s",
    "wait moon",
    "explain --now read --interval 0.2",
    "events --kind rollout-started",
    "devices --forget hub-1",
)


DOCUMENTS = {
    "devices": "Devices",
    "profile read.yaml --batch-sizes 1": "MeasurementReport",
    "plan read.yaml": "Plan",
    "apply plan.json --dry-run": "Preview",
    "apply plan.json": "RolloutReport",
    "diff plan.json": "Difference",
    "artifacts": "ArtifactReport",
    "wait --timeout 0.5s": "WaitedRun",
    "events --kind rollout-started": "Events",
}
"""What some commands print, as it is called in the published schema."""


def settled(document):
    """A document without what changes from one run to the next."""
    if isinstance(document, dict):
        return {k: settled(v) for k, v in document.items() if k not in CHANGING}
    if isinstance(document, list):
        return [settled(one) for one in document]
    return document


def differences(one, other, at):
    """Where two documents differ, and in what."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for k in one for d in differences(one[k], other[k], f"{at}.{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        both = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in both for d in differences(a, b, f"{at}[{i}]")]
    return [] if one == other else [(at, one, other)]


@pytest.fixture
def both_ways(planned, serve, folder, environment):
    """Runs commands on the planned mesh, alone or beside a running coordinator, each time as if for the first time."""
    home = folder / "home"
    kept = folder / "kept"
    shutil.copytree(home, kept)

    async def anew():
        await asyncio.to_thread(shutil.rmtree, home)
        await asyncio.to_thread(shutil.copytree, kept, home)
        ports = [int(agent.address.rpartition(":")[2]) for agent in planned]
        for agent in planned:
            await serve.stop(agent)
        for agent, port in zip(planned, ports, strict=True):
            agent.generations, agent.prepared, agent.tenure = {}, {}, Tenure()
            agent.start_again()
            await serve.start(agent, port=port)

    async def answers(commands):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.coordinator.several"),
            json.dumps(commands),
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    async def run(commands, coordinating=None):
        await anew()
        if coordinating is None:
            return await answers(commands)
        running = await coordinating()
        try:
            return await answers(commands)
        finally:
            running.terminate()
            await running.communicate()

    return run


@pytest.mark.slow
async def test_each_command_answers_alike_beside_a_running_coordinator_and_alone(
    both_ways, start_coordinator
):
    words = []
    for command in COMMANDS:
        name, *more = command.split()
        finding = [] if name in READING else ["--no-browse"]
        words.append([name, *more, *finding, "--json"])
    alone = await both_ways(words)
    beside = await both_ways(words, lambda: start_coordinator("--no-auto-replan"))
    for command, one, other in zip(COMMANDS, alone, beside, strict=True):
        assert differences(settled(one), settled(other), command) == []
    published = json.loads((schemas.FOLDER / schemas.FILE_NAME).read_text())
    for command, name in DOCUMENTS.items():
        _, document = beside[COMMANDS.index(command)]
        jsonschema.validate(document, {**published, "$ref": f"#/$defs/{name}"})
    codes = {command: code for command, (code, _) in zip(COMMANDS, alone, strict=True)}
    assert codes["apply plan.json"] == 0
    assert codes["drain hub-1"] == 3
    assert codes["drain moon"] == codes["apply nowhere.json"] == codes["rollout cancel read"] == 2


async def test_paths_are_those_of_the_folder_where_a_command_is_typed(
    coordinator, standing, folder, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["plan", folder / "read.yaml", "-o", "again.json", "--state"]
    planned_again = await coordinator(*words, folder / "home" / "coordinator", cwd=elsewhere)
    assert planned_again.code == 0, planned_again.err
    assert "USD/h" in planned_again.out
    assert (elsewhere / "again.json").is_file()


async def test_progress_errors_and_exit_codes_are_those_of_the_command(
    coordinator, standing, planned
):
    other = await coordinator("plan", "read.yaml", "--mesh", "another")
    assert other.code == 1
    assert "--mesh cannot be given while a coordinator is running" in other.err
    applied = await coordinator("apply", "plan.json", "--json")
    assert applied.code == 0, applied.err
    assert "cam-1 rollout: committed" in applied.err
    planned[0].fail["prepare"] = StorageFull("the disk is full")
    failed = await coordinator("apply", "plan.json", "--run", "another", "--json")
    assert failed.code == 4
    assert failed.document["outcome"] == "aborted"


async def test_settings_are_changed_while_it_runs(coordinator, standing):
    assert (await coordinator("settings", "--json")).document == {"auto_replan": True}
    changed = await coordinator("settings", "--auto-replan", "off", "--json")
    assert changed.document == {"auto_replan": False}
    assert "replanning: off" in (await coordinator("settings")).out


async def test_a_rollout_is_held_and_cancelled_by_commands(coordinator, started, standing, planned):
    planned[0].hold["prepare"] = asyncio.Event()
    process = await started("apply", "plan.json", "--json")
    await begun(planned[0])
    held = await coordinator("rollout", "hold", "read")
    assert (held.code, held.out) == (0, "the rollout of read is held\n")
    assert (await coordinator("rollout", "resume", "read")).code == 0
    cancelled = await coordinator("rollout", "cancel", "read", "--json")
    assert cancelled.document == {"workflow": "read", "action": "cancel"}
    planned[0].hold["prepare"].set()
    out, _ = await process.communicate()
    assert process.returncode == 4
    assert json.loads(out)["outcome"] == "aborted"


async def begun(agent):
    async with asyncio.timeout(30):
        while "prepare" not in agent.calls:
            await asyncio.sleep(0.05)


async def test_ctrl_c_gives_the_rollout_up_and_waits_for_that(started, standing, planned):
    planned[0].hold["prepare"] = asyncio.Event()
    process = await started("apply", "plan.json")
    await begun(planned[0])
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert "interrupted" in err.decode()
    assert all("abort" in agent.calls for agent in planned)
    assert planned[0].generations == {}


async def test_it_tells_what_happens_and_ends_in_peace(coordinator, standing, planned):
    await coordinator("apply", "plan.json")
    standing.terminate()
    out, err = await standing.communicate()
    assert standing.returncode == 0
    happened = [json.loads(line) for line in out.decode().splitlines()]
    kinds = [event["event"] for event in happened]
    assert "rollout-started" in kinds
    assert happened[-1]["text"] == "coordinator stopped by a signal"
    assert "keep serving" in err.decode()
    assert planned[0].generations == {"read": 1}, "serving goes on"
    after = await coordinator("devices", "--no-browse")
    assert after.code == 0, "commands work alone again"


async def test_a_killed_coordinators_socket_is_recognised_and_replaced(
    coordinator, start_coordinator, standing, folder
):
    standing.kill()
    await standing.communicate()
    assert (folder / "home" / "coordinator" / SOCKET_NAME).exists()
    alone = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert alone.code == 0, alone.err
    again = await start_coordinator()
    carried = await coordinator("apply", "plan.json", "--json")
    assert carried.document["unchanged"]
    again.terminate()
    await again.communicate()


async def test_a_second_coordinator_is_refused(coordinator, standing):
    second = await coordinator("run", "--no-browse")
    assert second.code == 1
    assert "another coordinator uses" in second.err
