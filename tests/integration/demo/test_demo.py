"""`coordinator demo` as a user runs it: it survives a killed worker, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.cli.demo.agents import mesh_of
from tests.commands import Commands, needs_proc, until
from tests.fetched import fetched_ladders

# The first run on a machine measures nine variants on four devices; all demos take the whole machine.
pytestmark = [
    needs_proc,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("demo"),
]
PHOTOS = 24


@pytest.fixture(scope="module")
def home() -> Path:
    return fetched_ladders().cache.home


@pytest.fixture(scope="module")
def measured(home: Path) -> Path:
    """A state folder that lies with the artifacts, so that what was measured is there the next time, too."""
    return home / "tests" / "demo"


@pytest.fixture
async def commands(home: Path) -> AsyncIterator[Commands]:
    made = Commands(TIERMESH_HOME=str(home))
    yield made
    await made.close()


async def test_a_killed_worker_costs_no_photo_and_the_held_mesh_goes_on(
    commands: Commands, measured: Path
) -> None:
    words = ("--images", PHOTOS, "--kill-worker", "any", "--hold", "--state", measured, "--json")
    demo = await commands.start("coordinator.cli", "demo", *words)
    await demo.says("the mesh is held")
    status = await commands.run(
        "coordinator.cli", "status", "--state", measured / "coordinator", "--json"
    )
    options = ("--state", measured / "coordinator", "--mesh", mesh_of(measured))
    devices = await commands.run("coordinator.cli", "devices", *options, "--json")
    demo.process.send_signal(signal.SIGINT)
    await demo.end()
    assert demo.code == 0, demo.said
    assert status.code == devices.code == 0, status.said + devices.said
    assert status.document["workflows"][0]["ledger"]["results"] == PHOTOS
    assert {d["state"] for d in devices.document["devices"]} == {"ready"}
    document = demo.document
    ledger = document["ledger"]
    assert (ledger["accepted"], ledger["results"], ledger["errors"]) == (PHOTOS, PHOTOS, 0)
    assert (document["ok"], document["balanced"], document["wrong_form"]) == (True, True, [])
    assert 0 <= document["character_error_rate"] < 0.3
    assert document["measured"]["cost_per_hour"] == pytest.approx(
        document["cost"]["total_per_hour"]
    )
    victim = document["killed"].removeprefix("kill -9 of the worker of ").split()[0]
    assert any(e.startswith(f"{victim}: the worker ended: killed") for e in document["events"])
    assert commands.processes() == {}
    assert await restarted(commands, measured) == victim
    assert len(last_run(measured)) == len(set(last_run(measured))) == PHOTOS


async def restarted(commands: Commands, state: Path) -> str:
    """The device whose worker was last restarted, from the journal."""
    words = ("--kind", "worker-restarted", "--limit", 1, "--state", state / "coordinator", "--json")
    events = await commands.run("coordinator.cli", "events", *words)
    return events.document["events"][-1]["about"]


def last_run(state: Path) -> list[str]:
    """The names of the photos of the newest run, from the sinks' own files."""
    files = state.glob("agents/*/data/out/text.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    newest = max(lines, key=lambda line: line["finished_at"])["run"]
    return [line["name"] for line in lines if line["run"] == newest]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("step", ["profile", "serve"])
async def test_no_process_outlives_a_demo(
    commands: Commands, measured: Path, tmp_path: Path, how: signal.Signals, step: str
) -> None:
    # A new state folder has everything to measure; with what was measured the demo soon serves.
    state = tmp_path if step == "profile" else measured
    demo = await commands.start(
        "coordinator.cli", "demo", "--images", PHOTOS, "--state", state, "--json"
    )
    await demo.says(f"{step} ")
    doing = "agent.profiling.benchmark" if step == "profile" else "agent.serving.worker"
    await until(lambda: doing in " ".join(commands.processes().values()), f"{doing} runs")
    assert sum("agent.cli run" in words for words in commands.processes().values()) == 4
    demo.process.send_signal(how)
    await demo.end()
    assert demo.code == (130 if how is signal.SIGINT else -how), demo.said
    assert "Traceback" not in demo.said
    if how is signal.SIGKILL:
        await until(lambda: not commands.processes(), "the agents end with whoever started them")
    assert commands.processes() == {}


async def test_a_second_demo_leaves_the_first_alone(commands: Commands, tmp_path: Path) -> None:
    words = ("demo", "--images", PHOTOS, "--state", tmp_path, "--json")
    first = await commands.start("coordinator.cli", *words)
    await first.says("discover ")
    photos = set(tmp_path.glob("agents/*/data/signs/*.jpg"))
    second = await commands.run("coordinator.cli", "demo", "--seed", 8, *words[1:])
    assert second.code == 1
    assert "another coordinator" in second.document["error"]["what"]
    assert set(tmp_path.glob("agents/*/data/signs/*.jpg")) == photos
    assert first.code is None
    first.process.send_signal(signal.SIGINT)
    await first.end()
    assert (first.code, commands.processes()) == (130, {})
