"""Rollouts on real agents and workers while requests come in: none fails, whatever happens to the coordinator."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter

import pytest
from msgspec.structs import replace

from coordinator.api.client import CoordinatorClient
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.journal.store import Journal
from coordinator.keeping.draining import Draining
from coordinator.mesh import Mesh
from coordinator.telemetry.status import ledger_of
from coordinator.variants import Ladders
from tests.agents import CHECKOUT, AgentProcess, put_words, write_workflow
from tiermesh.errors import TiermeshError

RATE = 50
WORKFLOW = f"""
workflow: shout
slo: {{rate: {RATE}/s}}
stages:
  files: {{source: files, path: in, rate: {RATE}/s, repeat: true, devices: [cam-1]}}
  upper: {{map: code, from: files, tiers: [hub]}}
  out:   {{sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}}
"""


@pytest.fixture
async def agents(tmp_path):
    put_words(tmp_path / "cam-1" / "data" / "in", 20)
    names = {"cam-1": "edge", "hub-1": "hub", "hub-2": "hub"}
    started = [AgentProcess(tmp_path / name, name, tier) for name, tier in names.items()]
    for agent in started:
        await agent.start()
    yield started
    await asyncio.gather(*(agent.stop() for agent in started))


@pytest.fixture
def state(ladder_folder):
    return ladder_folder / "home" / "coordinator"


@pytest.fixture
def opened(ladder_folder, state, agents):
    """Opens the mesh of the agents."""

    async def ladders():
        home = ladder_folder / "home"
        return await asyncio.to_thread(Ladders.open, ladder_folder / "variants", home)

    async def enter(stack):
        mesh = await stack.enter_async_context(
            Mesh.open(state, ladders=await ladders(), home=ladder_folder / "home")
        )
        addresses = [a.address for a in agents]
        await mesh.discover(addresses, expect=3, browse=False, timeout_s=30.0)
        return mesh

    return enter


async def two_plans(mesh, ladder_folder):
    """A plan with `upper` on one hub, and one with it on the other."""
    workflow = await mesh.read_workflow(write_workflow(ladder_folder, WORKFLOW))
    plan = await mesh.plan(workflow)
    (hub,) = {r.device for r in plan.replicas if r.stage == "upper"}
    other = moved(plan, hub, {"hub-1": "hub-2", "hub-2": "hub-1"}[hub])
    await mesh.plan_made(other)
    # What the planner's own plan was made from holds for the moved one.
    return plan, other


def moved(plan, here, there):
    """The plan with one device in another's place."""

    def name(replica_id):
        return replica_id.replace(f"@{here}", f"@{there}")

    replicas = [
        replace(r, id=name(r.id), device=there if r.device == here else r.device)
        for r in plan.replicas
    ]
    lanes = [
        replace(
            lane,
            path={stage: name(r) for stage, r in lane.path.items()},
            backup={stage: name(r) for stage, r in lane.backup.items()},
        )
        for lane in plan.lanes
    ]
    return replace(plan, replicas=replicas, lanes=lanes)


async def confirmed_beyond(mesh, run, count):
    """The ledger once more than `count` requests have been confirmed."""
    samples = {}
    async for observed in mesh.watch(interval_s=0.1):
        if observed.sample is not None:
            samples[observed.device.id] = observed.sample
        ledger = ledger_of(samples.values(), "shout", run)
        if ledger.confirmed > count:
            return ledger
    raise AssertionError


def results(agents):
    """What the sink wrote, by request id."""
    path = agents[0].folder / "data" / "out" / "text.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_results(agents, at_least):
    """Each request has ended once, in a result."""
    lines = results(agents)
    assert len(lines) > at_least
    assert {line["outcome"] for line in lines} == {"result"}
    assert set(Counter(line["id"] for line in lines).values()) == {1}


@pytest.mark.slow
async def test_no_request_fails_while_a_stage_moves_to_another_device_and_that_one_is_drained(
    opened, agents, ladder_folder
):
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        mesh = await opened(stack)
        first, second = await two_plans(mesh, ladder_folder)
        assert (await mesh.apply(first, run="one")).outcome is RolloutOutcome.COMMITTED
        begun = await confirmed_beyond(mesh, "one", RATE)
        assert (await mesh.apply(second)).outcome is RolloutOutcome.COMMITTED
        between = await confirmed_beyond(mesh, "one", begun.confirmed + RATE)
        (used,) = {r.device for r in second.replicas if r.stage == "upper"}
        draining = await Draining.of(mesh, mesh.fleet.named(used))
        assert [a.outcome for a in await draining.carry_out()] == [RolloutOutcome.COMMITTED]
        ended = await confirmed_beyond(mesh, "one", between.confirmed + RATE)
        await mesh.discover(browse=False)
        running = {d.name: d.description.generations for d in mesh.fleet.devices.values()}
    assert ended.errors == 0
    assert ended.accepted == ended.confirmed + ended.in_flight
    (stays,) = {"hub-1", "hub-2"} - {used}
    assert running == {"cam-1": {"shout": 3}, stays: {"shout": 3}, used: {}}
    check_results(agents, 3 * RATE)


class Victims:
    """Coordinators at work that die in the middle of the next rollout; one at a time."""

    def __init__(self, ladder_folder, state, agents):
        self.folder = ladder_folder
        self.state = state
        self.named = [word for a in agents for word in ("--device", a.address)]
        self.process = None

    async def start(self, number):
        words = ["run", "--no-auto-replan", "--no-browse", *self.named]
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "proto")])
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.coordinator.killed", str(number), *words),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "TIERMESH_HOME": str(self.folder / "home")},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        said = b""
        while b"is at work" not in said:
            line = await self.process.stderr.readline()
            assert line, said.decode()
            said += line

    async def settled(self):
        """The fleet, once nothing is open of what the one before left."""
        fleet = await asyncio.to_thread(self.read)
        while fleet.rollouts["shout"].outcome in (None, RolloutOutcome.BROKEN):
            await asyncio.sleep(0.02)
            fleet = await asyncio.to_thread(self.read)
        return fleet

    def read(self):
        journal = Journal.read_only(self.state)
        try:
            return journal.load()
        finally:
            journal.close()

    async def apply(self, plan):
        """The exit code of `apply`; None where the coordinator died of it."""
        try:
            async with CoordinatorClient.connect(self.state) as client:
                (rollout,) = await client.apply(plan.digest)
        except TiermeshError:
            return None
        return rollout.exit_code

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
        if self.process is not None:
            await self.process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_coordinator_killed_after_each_event_of_a_rollout_finishes_or_undoes_it_when_it_runs_again(
    opened, agents, ladder_folder, state
):
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        mesh = await opened(stack)
        plans = await two_plans(mesh, ladder_folder)
        assert (await mesh.apply(plans[0], run="one")).outcome is RolloutOutcome.COMMITTED
        await confirmed_beyond(mesh, "one", RATE)
    victims = Victims(ladder_folder, state, agents)
    ends, number, code = [], 0, None
    try:
        for number in range(1, 20):
            await victims.start(number)
            fleet = await victims.settled()
            ends.append(fleet.rollouts["shout"].outcome)
            await one_generation(victims, fleet)
            other = next(p for p in plans if p.digest != fleet.running["shout"].plan)
            code = await victims.apply(other)
            if code is not None:
                break
            await victims.process.communicate()
            assert victims.process.returncode == -9
    finally:
        await victims.stop()
    assert code == 0
    # Started, pushed, prepared and switched on two devices each, and the one that is left stopped.
    assert number == 9
    assert set(ends) == {RolloutOutcome.COMMITTED, RolloutOutcome.ABORTED}
    async with Mesh.open(state, read_only=True) as mesh:
        await mesh.discover(browse=False)
        so_far = await confirmed_beyond(mesh, "one", 0)
        ledger = await confirmed_beyond(mesh, "one", so_far.confirmed + RATE)
    assert ledger.errors == 0
    assert ledger.accepted == ledger.confirmed + ledger.in_flight
    check_results(agents, ledger.confirmed - RATE)


async def one_generation(victims, fleet):
    """Every device of the plan serves the generation that the journal names, and no other device serves."""
    running = fleet.running["shout"]
    expected = {
        d.name: running.generation for d in fleet.devices.values() if d.id in running.devices
    }
    async with Mesh.open(victims.state, read_only=True) as mesh:
        await mesh.discover(browse=False)
        said = {d.name: d.description.generations for d in mesh.fleet.devices.values()}
    assert {name: g["shout"] for name, g in said.items() if g} == expected
