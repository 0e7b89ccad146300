"""Real agents and workers whose load changes, or that become slow: the mesh plans again, and says why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from coordinator.fleet.lifecycle import ReplanOutcome
from coordinator.keeping import Keeping
from coordinator.mesh import Mesh
from coordinator.profiling.profiler import ProfileOptions
from coordinator.replanning import Policy
from tests.agents import AgentProcess, put_words
from tests.doubler import linear_model, zipped
from tests.integration.coordinator.ladders import FakeLadders
from tiermesh.documents.variant import Bundle, Variant

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mesh")]

ITEM_S = 0.03
CALM, BUSY = 10, 32
POLICY = Policy(settle_s=0.2, dwell_s=0.5)
QUICK = ProfileOptions(batch_sizes=(1,), min_repeats=10, max_repeats=20, time_limit_s=5.0)
CODE = f"""
import time
import numpy as np


class Slow:
    def __init__(self, files, options):
        pass

    def items(self, payload):
        time.sleep({ITEM_S})
        return [{{"x": np.ones(2, dtype=np.float32)}}]

    def result(self, payload, outputs):
        return {{"y": outputs[0]["y"]}}

    def samples(self):
        return [{{"image": b"word"}}]

    def check(self, index, result):
        return None
"""
WORKFLOW = f"""
workflow: shout
slo: {{rate: {CALM}/s}}
stages:
  files: {{source: files, path: in, ARRIVALS, repeat: true, devices: [cam-1]}}
  slow:  {{model: slow, from: files, tiers: [hub]}}
  out:   {{sink: jsonl, path: out/text.jsonl, from: slow, devices: [cam-1]}}
"""
EVEN = f"rate: {CALM}/s"


def times_of(*phases):
    """Arrivals at a rate for so many seconds each, one after the other."""
    times, begun = [], 0.0
    for rate, seconds in phases:
        times += [begun + (i + 1) / rate for i in range(int(rate * seconds))]
        begun += seconds
    return times


@pytest.fixture
def ladders(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    made = FakeLadders(folder)
    code = made.artifact(zipped({"slow.py": CODE}))
    made.by_model["slow"] = [
        Variant(
            model="slow",
            name="v1",
            runtime="onnx",
            precision="fp32",
            model_file="model.onnx",
            files={"model.onnx": made.artifact(linear_model([[1, 0], [0, 1]]))},
            bundle=Bundle(artifact=code, entry="slow:Slow", requires=["numpy"]),
        )
    ]
    return made


@pytest.fixture
async def agents(tmp_path):
    prices = {"cam-1": ("edge", 0.01), "hub-1": ("hub", 0.1), "hub-2": ("hub", 0.2)}
    put_words(tmp_path / "cam-1" / "data" / "in", 4)
    started = [
        AgentProcess(tmp_path / name, name, tier, price=price)
        for name, (tier, price) in prices.items()
    ]
    for agent in started:
        await agent.start()
    yield started
    await asyncio.gather(*(agent.stop() for agent in started))


class Kept:
    """A mesh that keeps the workflow, and what happened in it."""

    def __init__(self, mesh, keeping):
        self.mesh = mesh
        self.keeping = keeping

    async def until(self, condition, seconds=40.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await self.mesh.change.wait()

    def hubs(self):
        """The hubs that serve."""
        fleet = self.mesh.fleet
        running = fleet.running.get("shout")
        names = {fleet.devices[d].name for d in running.devices} if running else set()
        return names - {"cam-1"}

    async def replans(self):
        """Reasons and outcomes, in order."""
        told = await self.mesh.history(kinds=["replan-ended"])
        return [(e.event.reason, e.event.outcome) for e in told]

    def worker(self, name):
        """The process id of a device's worker."""
        device = self.mesh.fleet.named(name)
        return self.keeping.newest[device.id].sample.worker.pid


@pytest.fixture
def keep(tmp_path, agents, ladders):
    @contextlib.asynccontextmanager
    async def kept(arrivals, **options):
        path = tmp_path / "shout.yaml"
        path.write_text(WORKFLOW.replace("ARRIVALS", arrivals))
        async with Mesh.open(tmp_path / "state", ladders=ladders, home=tmp_path / "home") as mesh:
            await mesh.discover([a.address for a in agents], expect=3, browse=False, timeout_s=30.0)
            workflow = await mesh.read_workflow(path)
            await mesh.profile(workflow, options=QUICK)
            keeping = Keeping(mesh, [workflow], policy=POLICY, **options)
            task = asyncio.create_task(keeping.run())
            try:
                yield Kept(mesh, keeping)
                assert not task.done(), task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    return kept


@pytest.fixture
def swinging(tmp_path):
    """Arrivals that are three times as many for a while."""
    times = times_of((CALM, 3.0), (BUSY, 13.0), (CALM, 60.0))
    text = "".join(f"{at:.4f}\n" for at in times)
    (tmp_path / "cam-1" / "data" / "times").write_text(text)
    return "arrivals: trace, trace: times"


async def test_a_load_that_rises_is_given_a_second_device_and_one_that_falls_gives_it_back(
    keep, swinging
):
    async with keep(swinging) as on:
        await on.until(lambda: on.hubs() == {"hub-1"})
        await on.until(lambda: on.hubs() == {"hub-1", "hub-2"})
        await on.until(lambda: on.hubs() == {"hub-1"})
        await on.until(lambda: on.mesh.fleet.replans["shout"].outcome is not None)
        replans = await on.replans()
    replaced = ReplanOutcome.REPLACED
    assert replans == [("operator", replaced), ("load-change", replaced), ("load-change", replaced)]


async def test_without_auto_replan_a_change_of_load_is_only_told(keep, swinging):
    async with keep(swinging, auto_replan=False) as on:
        await on.until(lambda: on.hubs() == {"hub-1"})
        await on.until(lambda: replan_of(on).outcome is ReplanOutcome.ADVISED)
        assert replan_of(on).reason == "load-change"
        assert on.hubs() == {"hub-1"}
        assert on.mesh.fleet.generations == {"shout": 1}


def replan_of(on):
    return on.mesh.fleet.replans["shout"]


async def slow_down(on, name):
    """A worker that is stopped for most of the time."""
    while True:
        pid = on.worker(name)
        if pid:
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(5 * ITEM_S)
            finally:
                os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(ITEM_S)


async def test_a_device_that_has_become_slow_is_left_because_its_times_drift(keep):
    async with keep(EVEN) as on:
        await on.until(lambda: on.hubs() == {"hub-1"})
        slowing = asyncio.create_task(slow_down(on, "hub-1"))
        try:
            await on.until(lambda: on.hubs() == {"hub-2"})
        finally:
            slowing.cancel()
            await asyncio.gather(slowing, return_exceptions=True)
        await on.until(lambda: replan_of(on).outcome is not None)
        replans = await on.replans()
        why = replan_of(on).why
    replaced = ReplanOutcome.REPLACED
    assert replans == [("operator", replaced), ("profile-drift", replaced)]
    assert "slow@hub-1" in why
