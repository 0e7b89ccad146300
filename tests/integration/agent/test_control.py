"""Control sessions with agents as processes: kill -9 in the middle of a rollout, SIGSTOP, and who commands then."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import pytest

from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.mesh import Mesh
from coordinator.rollout.steps import Steps
from tests.commands import needs_proc, until
from tiermesh.errors import TakenOver
from tiermesh.session import SILENCE_S

pytestmark = [needs_proc, pytest.mark.slow]

WORKFLOW = """
workflow: shout
slo: {rate: 20/s}
stages:
  files: {source: files, path: in, rate: 20/s, devices: [cam-1]}
  upper: {map: code, from: files, devices: [cam-1]}
  out:   {sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}
"""
# It takes until the test lets it go on.
CODE = """
import pathlib
import time

FOLDER = pathlib.Path("@HERE@")


class Upper:
    def __init__(self, files, options):
        (FOLDER / "begun").touch()
        while not (FOLDER / "go-on").exists():
            time.sleep(0.01)

    def apply(self, payload):
        return {"text": "word"}
"""


@pytest.fixture
async def one(new_agent, tmp_path):
    (tmp_path / "cam-1" / "data" / "in").mkdir(parents=True)
    (tmp_path / "cam-1" / "data" / "in" / "a.txt").write_text("a")
    agent = new_agent("cam-1", "edge")
    return agent, await agent.start()


@pytest.fixture
def shout(tmp_path):
    folder = tmp_path / "workflow"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "stage.toml").write_text('entry = "upper:Upper"\n')
    (folder / "code" / "upper.py").write_text(CODE.replace("@HERE@", str(tmp_path)))
    (folder / "shout.yaml").write_text(WORKFLOW)
    return folder / "shout.yaml"


async def kill(running):
    running.process.kill()
    await running.end()


async def test_an_agent_killed_while_it_prepares_starts_again_and_the_rollout_goes_on(
    one, coordinator, shout, tmp_path
):
    agent, running = one
    async with coordinator(agent) as mesh:
        plan = await mesh.plan(await mesh.read_workflow(shout))
        rolling_out = asyncio.ensure_future(mesh.apply(plan))
        await until((tmp_path / "begun").exists, "it prepares")
        running.process.kill()
        # Its worker ends once the stage's code lets it.
        (tmp_path / "go-on").touch()
        await running.end()
        await agent.start()
        applied = await rolling_out
        assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    assert dict((await agent.describe()).generations) == {"shout": 1}


async def test_an_agent_killed_once_the_assignment_is_on_disk_has_switched(
    one, coordinator, shout, tmp_path
):
    agent, running = one
    (tmp_path / "go-on").touch()
    kept = agent.folder / "assignments" / "shout.json"
    async with coordinator(agent) as mesh:
        plan = await mesh.plan(await mesh.read_workflow(shout))
        rolling_out = asyncio.ensure_future(mesh.apply(plan))
        async with asyncio.timeout(30):
            while not kept.exists():
                await asyncio.sleep(0.001)
        await kill(running)
        await agent.start()
        applied = await rolling_out
        assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    assert dict((await agent.describe()).generations) == {"shout": 1}


async def test_a_stopped_agent_is_noticed_within_seconds_and_found_again(one, coordinator):
    agent, running = one
    async with coordinator(agent) as mesh:
        async with contextlib.aclosing(mesh.watch(interval_s=0.5)) as watching:
            assert (await anext(watching)).sample is not None
            running.process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            async with asyncio.timeout(30):
                while (await anext(watching)).sample is not None:
                    pass
            assert time.monotonic() - stopped < 2 * SILENCE_S
            running.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(30):
                while (await anext(watching)).sample is None:
                    pass
        assert mesh.fleet.named("cam-1").state == "ready"


async def test_after_a_restart_the_agent_still_knows_whom_it_obeys(one, coordinator, tmp_path):
    agent, running = one
    async with coordinator(agent) as first:
        device = first.fleet.named("cam-1").id
        await Steps(first.sessions, device).abort("shout", 1)
        async with Mesh.open(tmp_path / "other") as second:
            await second.discover([agent.address], browse=False)
            await Steps(second.sessions, device).abort("shout", 1)
            await first.sessions.to(device).stepped_down()
            await kill(running)
            await agent.start()
            await agent.describe()
            await Steps(second.sessions, device).abort("shout", 1)
            with pytest.raises(TakenOver):
                await Steps(first.sessions, device).abort("shout", 1)
