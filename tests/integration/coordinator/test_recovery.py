"""Devices that die, freeze and come back under load, as real processes: the mesh moves its work, and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from coordinator.fleet import validate
from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome
from coordinator.fleet.liveness import Timing
from coordinator.keeping import Keeping
from coordinator.mesh import Mesh
from coordinator.replanning import Policy
from coordinator.telemetry.status import ledger_of
from coordinator.variants import Ladders
from tests.agents import AgentProcess, put_words, write_workflow

REQUESTS = 200
WORKFLOW = f"""
workflow: shout
slo: {{rate: 20/s}}
stages:
  files: {{source: files, path: in, rate: 20/s, count: {REQUESTS}, repeat: true, devices: [cam-1]}}
  upper: {{map: code, from: files, tiers: [hub]}}
  out:   {{sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}}
"""
POLICY = Policy(settle_s=0.5, dwell_s=0.5)
TIMING = Timing(hold_s=1.0)


class Kept:
    """A workflow that is kept on real agents, with what they said last."""

    def __init__(self, mesh, keeping):
        self.mesh = mesh
        self.keeping = keeping

    @property
    def ledger(self):
        said = [o.sample for o in self.keeping.newest.values() if o.sample is not None]
        return ledger_of(said, "shout", self.mesh.fleet.running["shout"].run)

    def hub(self):
        plan = self.mesh.fleet.plans[self.mesh.fleet.running["shout"].plan].plan
        return next(r.device for r in plan.replicas if r.stage == "upper")

    def worker_of(self, name):
        return self.keeping.newest[self.mesh.fleet.named(name).id].sample.worker.pid

    async def until(self, condition, what, seconds=25.0):
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            events = [e.event for e in await self.mesh.history(limit=30)]
            raise AssertionError(f"not within {seconds:g} s: {what}\n{events}") from None

    async def replanned(self, reason, hub):
        """Wait until a replan for a reason has moved the work to a hub."""

        def moved():
            replan = self.mesh.fleet.replans.get("shout")
            named = replan is not None and replan.reason == reason
            return named and replan.outcome is ReplanOutcome.REPLACED and self.hub() == hub

        await self.until(moved, f"{reason}: the work is on {hub}")

    async def all_is_confirmed(self):
        await self.until(
            lambda: self.ledger.finished and self.ledger.confirmed == REQUESTS, "all are confirmed"
        )
        ledger = self.ledger
        assert (ledger.accepted, ledger.results, ledger.errors) == (REQUESTS, REQUESTS, 0)


@pytest.fixture
async def agents(tmp_path):
    put_words(tmp_path / "cam-1" / "data" / "in", 20)
    made = [
        AgentProcess(tmp_path / name, name, tier, price=price)
        for name, tier, price in (
            ("cam-1", "edge", 0.01),
            ("hub-1", "hub", 0.02),
            ("hub-2", "hub", 0.04),
        )
    ]
    for agent in made:
        await agent.start()
    yield made
    for agent in made:
        with contextlib.suppress(ProcessLookupError):
            agent.process.send_signal(signal.SIGCONT)
    await asyncio.gather(*(agent.stop() for agent in made))


@pytest.fixture
async def on(ladder_folder, agents):
    home = ladder_folder / "home"
    path = write_workflow(ladder_folder, WORKFLOW)
    ladders = await asyncio.to_thread(Ladders.open, ladder_folder / "variants", home)
    async with Mesh.open(ladder_folder / "state", ladders=ladders, home=home) as mesh:
        await mesh.discover([a.address for a in agents], expect=3, browse=False, timeout_s=30.0)
        workflow = await mesh.read_workflow(path)
        keeping = Keeping(mesh, [workflow], policy=POLICY, timing=TIMING)
        task = asyncio.create_task(keeping.run())
        kept = Kept(mesh, keeping)
        await kept.until(lambda: "shout" in mesh.fleet.running, "it runs")
        await kept.until(lambda: kept.ledger.confirmed >= 10, "requests are answered")
        assert kept.hub() == "hub-1"
        yield kept
        assert not task.done(), task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        validate(mesh.fleet)


@pytest.mark.slow
async def test_a_killed_device_is_replaced_and_taken_back_and_no_request_is_lost(on, agents):
    hub = agents[1]
    pids = (hub.process.pid, on.worker_of("hub-1"))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await hub.process.wait()
    await on.replanned("device-failed", "hub-2")
    assert on.mesh.fleet.named("hub-1").state is DeviceState.FAILED
    assert on.mesh.fleet.running["shout"].generation == 2
    assert not on.ledger.finished, "it happened while requests came"

    await hub.start()
    await on.replanned("device-returned", "hub-1")
    assert on.mesh.fleet.running["shout"].generation == 3
    await on.all_is_confirmed()
    wanted = ["device-failed", "replan-started", "replan-ended", "device-held", "device-returned"]
    kinds = [e.event.kind for e in await on.mesh.history(kinds=wanted)]
    assert kinds[2:] == [*wanted, "replan-started", "replan-ended"]


@pytest.mark.slow
async def test_a_frozen_device_is_replaced_and_what_it_serves_late_counts_once(on, agents):
    pids = (agents[1].process.pid, on.worker_of("hub-1"))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await on.replanned("device-failed", "hub-2")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    await on.replanned("device-returned", "hub-1")
    await on.all_is_confirmed()
    assert on.mesh.fleet.named("hub-1").state is DeviceState.READY
