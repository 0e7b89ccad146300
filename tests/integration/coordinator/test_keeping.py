"""Keeping a workflow served by agents that only keep the protocol: who is lost, what follows, and who may interfere."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import pytest

from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome
from coordinator.fleet.liveness import Timing
from coordinator.keeping import Keeping, workflow_controller
from coordinator.replanning import Policy
from coordinator.replanning.search import search
from tiermesh import wire
from tiermesh.errors import InvalidDocument, Unsupported
from tiermesh.v1 import telemetry_pb2

QUICK = Policy(settle_s=0.2, dwell_s=0.3, urgent_dwell_s=0.1, retry_s=0.1)
BRISK = Timing(suspect_after_s=0.4, failed_after_s=0.8, gone_after_s=0.1, hold_s=0.5)


@pytest.fixture
def beating(fake_agent):
    """An agent whose heart beats, until a test holds its breath."""

    class Beating(fake_agent):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self.breathes = asyncio.Event()
            self.breathes.set()

        async def sample(self):
            await self.breathes.wait()
            return telemetry_pb2.Sample(at=time.time(), generations=dict(self.generations))

    return Beating


@pytest.fixture
def agents(beating):
    """A camera that the source is on, and two hubs that can detect: the second is dearer."""
    return [
        beating("cam-1", price=0.01, host="a"),
        beating("hub-1", tier="hub", price=0.1, host="b"),
        beating("hub-2", tier="hub", price=0.2, host="c"),
    ]


WORKFLOW = """
workflow: read
slo:
  rate: 4/s
stages:
  photos: {source: files, path: signs/, rate: 4/s, devices: [cam-1]}
  detect: {model: ocr-detect, from: photos, tiers: [hub]}
  text: {sink: jsonl, path: out/text.jsonl, from: detect, devices: [cam-1]}
"""


class Kept:
    """A mesh that is kept, and waiting for what happens in it."""

    def __init__(self, mesh, keeping):
        self.mesh = mesh
        self.keeping = keeping

    async def until(self, condition, seconds=20.0):
        """Wait for a condition on the fleet."""
        async with asyncio.timeout(seconds):
            while True:
                change = self.mesh.change
                if condition(self.mesh.fleet):
                    return
                await change.wait()

    async def served_by(self, name, seconds=20.0):
        await self.until(lambda fleet: self.uses(fleet) == {"cam-1", name} and ended(fleet))

    def uses(self, fleet):
        running = fleet.running.get("read")
        return {fleet.devices[d].name for d in running.devices} if running else set()

    async def told(self, *kinds):
        return [e.event for e in await self.mesh.history(kinds=kinds)]


def ended(fleet):
    replan = fleet.replans.get("read")
    return replan is not None and replan.outcome is not None


@pytest.fixture
async def keep(open_mesh, serve, agents, tmp_path):
    """Starts the agents and keeps the workflow on them."""
    path = tmp_path / "read.yaml"
    path.write_text(WORKFLOW)

    @contextlib.asynccontextmanager
    async def kept(measured=True, **options):
        for agent in agents:
            await serve.start(agent, port=wire.free_port())
        async with open_mesh() as mesh:
            await mesh.discover([a.address for a in agents], browse=False)
            workflow = await mesh.read_workflow(path)
            if measured:
                await mesh.profile(workflow)
            keeping = Keeping(
                mesh, [workflow], policy=QUICK, timing=BRISK, interval_s=0.1, **options
            )
            task = asyncio.create_task(keeping.run())
            try:
                yield Kept(mesh, keeping)
                assert not task.done(), task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    return kept


async def until(condition, seconds=20.0):
    """Wait for what a fake agent is told."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def port_of(agent):
    return int(agent.address.rpartition(":")[2])


async def test_a_workflow_that_does_not_run_is_planned_and_applied(keep, agents):
    async with keep() as on:
        await on.served_by("hub-1")
        (began,) = await on.told("replan-started")
        (over,) = await on.told("replan-ended")
        assert (began.reason, began.why) == ("operator", "it does not run yet")
        assert (over.outcome, over.generation) == (ReplanOutcome.REPLACED, 1)
        assert over.after == on.mesh.fleet.running["read"].plan


async def test_a_workflow_whose_file_has_changed_is_rolled_out_as_it_is_now(keep, agents, tmp_path):
    async with keep() as on:
        await on.served_by("hub-1")
        path = tmp_path / "read.yaml"
        path.write_text(WORKFLOW.replace("signs/", "others/"))
        changed = await on.mesh.read_workflow(path)
        keeping = Keeping(on.mesh, [changed], policy=QUICK, timing=BRISK, interval_s=0.1)
        task = asyncio.create_task(keeping.run())
        try:
            await on.until(
                lambda fleet: (
                    fleet.running["read"].workflow_digest == changed.digest and ended(fleet)
                )
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        over = (await on.told("replan-ended"))[-1]
        assert (over.outcome, over.text) == (ReplanOutcome.REPLACED, "the workflow has changed")
        assert on.mesh.fleet.running["read"].run == "run-2", "it begins a run of its own"


async def test_a_device_that_dies_is_replaced_and_taken_back_when_it_returns(keep, agents, serve):
    _, hub, spare = agents
    async with keep() as on:
        await on.served_by("hub-1")
        before = on.mesh.fleet.running["read"].plan
        port = port_of(hub)
        await serve.stop(hub)
        await on.served_by("hub-2")
        lost = (await on.told("replan-ended"))[-1]
        assert (lost.reason, lost.outcome) == ("device-failed", ReplanOutcome.REPLACED)
        assert "hub-1 is failed" in lost.why
        assert (lost.before, lost.after) == (before, on.mesh.fleet.running["read"].plan)
        assert lost.generation == 2
        assert spare.generations == {"read": 2}

        await serve.start(hub, port=port)
        await on.served_by("hub-1")
        back = (await on.told("replan-ended"))[-1]
        assert (back.reason, back.outcome) == ("device-returned", ReplanOutcome.REPLACED)
        assert "saved" in back.text
        states = [e.kind for e in await on.told("device-failed", "device-held", "device-returned")]
        assert states == ["device-failed", "device-held", "device-returned"]


async def test_the_plan_for_a_lost_device_is_there_before_and_what_it_needs_stands_by(
    keep, agents, serve, monkeypatch
):
    _, hub, spare = agents
    async with keep() as on:
        await on.served_by("hub-1")
        await until(lambda: spare.standing_by.get("read"))
        assert [r.partition("/")[0] for r in spare.standing_by["read"]] == ["detect@hub-2"]

        def no_search(*_args, **_more):
            raise AssertionError("a plan is there")

        monkeypatch.setattr(workflow_controller, "search", no_search)
        await serve.stop(hub)
        await on.served_by("hub-2")
        lost = (await on.told("replan-ended"))[-1]
        assert (lost.reason, lost.outcome) == ("device-failed", ReplanOutcome.REPLACED)
        assert lost.text.endswith("planned before hub-1 was lost")


async def test_the_plan_for_a_device_that_fails_again_is_kept_while_it_is_away(
    keep, agents, serve, monkeypatch
):
    _, hub, spare = agents
    async with keep() as on:
        await on.served_by("hub-1")
        await until(lambda: spare.standing_by.get("read"))
        port = port_of(hub)
        await serve.stop(hub)
        await on.served_by("hub-2")
        searched = []

        def noted(problem, *args, **more):
            searched.append({device.name for device in problem.devices})
            return search(problem, *args, **more)

        monkeypatch.setattr("coordinator.keeping.contingencies.search", noted)
        spare.standing_by.clear()
        await serve.start(hub, port=port)
        await on.served_by("hub-1")
        await until(lambda: spare.standing_by.get("read"))
        assert {"cam-1", "hub-2"} not in searched


async def test_without_contingencies_nothing_is_planned_ahead(keep, agents, serve, monkeypatch):
    _, hub, spare = agents
    monkeypatch.setattr(
        "tests.integration.coordinator.test_keeping.QUICK", replace(QUICK, contingencies=0)
    )
    async with keep() as on:
        await on.served_by("hub-1")
        await serve.stop(hub)
        await on.served_by("hub-2")
        lost = (await on.told("replan-ended"))[-1]
        assert "planned before" not in lost.text
        assert spare.standing_by == {}


async def test_a_device_that_returns_with_a_replaced_generation_is_told_to_stop_it(
    keep, agents, serve
):
    _, hub, _ = agents
    async with keep() as on:
        await on.served_by("hub-1")
        port = port_of(hub)
        await serve.stop(hub)
        await on.served_by("hub-2")
        on.keeping.auto_replan = False
        assert hub.generations == {"read": 1}
        await serve.start(hub, port=port)
        await on.until(lambda _fleet: hub.generations == {})
        assert on.uses(on.mesh.fleet) == {"cam-1", "hub-2"}


async def test_without_auto_replan_the_reason_is_told_and_nothing_is_rolled_out(
    keep, agents, serve
):
    async with keep(auto_replan=False) as on:
        await on.served_by("hub-1")
        await serve.stop(agents[1])
        await on.until(lambda fleet: fleet.replans["read"].outcome is ReplanOutcome.ADVISED)
        told = on.mesh.fleet.replans["read"]
        assert (told.reason, told.generation) == ("device-failed", 1)
        assert on.mesh.fleet.generations == {"read": 1}
        on.keeping.replan("read", "ada asked")
        await on.served_by("hub-2")


async def test_a_device_that_only_falls_silent_fails_too_and_its_late_heartbeat_brings_it_back(
    keep, agents
):
    hub = agents[1]
    async with keep() as on:
        await on.served_by("hub-1")
        hub.breathes.clear()
        await on.until(lambda fleet: fleet.devices["hub-1"].state is DeviceState.FAILED)
        assert "no heartbeat" in on.mesh.fleet.devices["hub-1"].why
        await on.served_by("hub-2")
        hub.breathes.set()
        await on.served_by("hub-1")


async def test_when_no_plan_is_left_this_is_said_and_what_runs_is_kept(keep, agents, serve):
    async with keep() as on:
        await on.served_by("hub-1")
        running = on.mesh.fleet.running["read"]
        ports = [port_of(a) for a in agents[1:]]
        for agent in agents[1:]:
            await serve.stop(agent)
        await on.until(lambda fleet: fleet.replans["read"].outcome is ReplanOutcome.INFEASIBLE)
        assert on.mesh.fleet.running["read"].plan == running.plan
        await serve.start(agents[2], port=ports[1])
        await on.served_by("hub-2")


async def test_a_plan_that_only_serves_a_part_is_rolled_out_and_says_so(keep, agents, serve):
    # Another device class, so that it is measured itself: with 0.7 of its time it detects 2 a second.
    agents[2].threads, agents[2].mean_s = 1, 0.35
    async with keep() as on:
        await on.served_by("hub-1")
        await serve.stop(agents[1])
        await on.until(lambda fleet: fleet.replans["read"].outcome is ReplanOutcome.DEGRADED)
        assert "2 of the 4 requests a second" in on.mesh.fleet.replans["read"].text
        assert on.uses(on.mesh.fleet) == {"cam-1", "hub-2"}


async def test_a_rollout_that_fails_is_tried_again(keep, agents, serve):
    spare = agents[2]
    async with keep() as on:
        await on.served_by("hub-1")
        spare.fail["load"] = Unsupported("no room")
        await serve.stop(agents[1])
        await on.until(lambda fleet: fleet.replans["read"].outcome is ReplanOutcome.FAILED)
        assert "no room" in on.mesh.fleet.replans["read"].text
        spare.fail.clear()
        await on.served_by("hub-2")


async def test_an_operators_plan_stands_until_a_device_of_it_fails(keep, agents, serve, make_plan):
    async with keep() as on:
        await on.served_by("hub-1")
        mesh = on.mesh
        workflow = mesh.workflow_of(mesh.fleet.plans[mesh.fleet.running["read"].plan].plan)
        dearer = make_plan(await mesh.problem(workflow), ["hub-2"], source="cam-1")
        await mesh.apply(dearer)
        replans = len(await on.told("replan-ended"))
        await asyncio.sleep(4 * QUICK.dwell_s)  # longer than any dwell of this policy so far
        assert len(await on.told("replan-ended")) == replans
        assert on.uses(mesh.fleet) == {"cam-1", "hub-2"}
        await serve.stop(agents[2])
        await on.served_by("hub-1")


@pytest.mark.parametrize("step", ["prepare", "commit"])
async def test_a_rollout_does_not_wait_for_a_device_that_has_failed(keep, agents, serve, step):
    _, hub, _ = agents
    hub.hold[step] = asyncio.Event()
    async with keep() as on:
        async with asyncio.timeout(10.0):
            while step not in hub.calls:
                await asyncio.sleep(0.01)
        await serve.stop(hub)
        # The session alone would be patient for 15 s.
        await on.served_by("hub-2", seconds=6.0)
        assert (await on.told("replan-ended"))[0].outcome is ReplanOutcome.FAILED


async def test_a_search_for_a_plan_ends_when_a_device_of_the_running_one_fails(
    keep, agents, serve, monkeypatch
):
    sought, waiting = threading.Event(), threading.Event()

    def endless(problem, running, options, policy, **more):
        if sought.is_set():
            return search(problem, running, options, policy, **more)
        sought.set()
        while True:
            options.watch.check()
            waiting.wait(0.01)

    async with keep() as on:
        await on.served_by("hub-1")
        monkeypatch.setattr(workflow_controller, "search", endless)
        on.keeping.replan("read", "ada asked")
        await asyncio.to_thread(sought.wait, 10.0)
        await serve.stop(agents[1])
        await on.served_by("hub-2", seconds=6.0)
        outcomes = [e.outcome for e in await on.told("replan-ended")]
        assert outcomes[1] is ReplanOutcome.FAILED


async def test_what_nobody_measured_is_measured_before_the_workflow_is_planned(keep):
    async with keep(measured=False) as on:
        await on.served_by("hub-1")
        (note,) = [e for e in await on.told("operator-noted") if "nobody measured" in e.text]
        assert "hub-1" in note.text
        (began,) = await on.told("replan-started")
        measured = await on.told("profile-measured")
        assert measured
        assert all(e.at <= began.at for e in measured)


async def test_a_first_plan_does_not_wait_for_all_measurements_and_is_made_anew_after_them(
    keep, agents, monkeypatch
):
    """The cheaper hub measures slowly; until it has, the other one serves."""
    monkeypatch.setattr(workflow_controller, "FIRST_PLAN_S", 0.2)
    slow = agents[2]
    slow.price, slow.threads, slow.hold["measure"] = 0.05, 3, asyncio.Event()
    async with keep(measured=False) as kept:
        await kept.served_by("hub-1")
        assert slow.address
        assert slow.fingerprint.device_class not in kept.mesh.fleet.profiles
        slow.hold["measure"].set()
        await kept.served_by("hub-2")
        of_class = kept.mesh.fleet.profiles[slow.fingerprint.device_class]
        assert len(of_class) == 2
        reasons = [event.reason for event in await kept.told("replan-started")]
        assert reasons == ["operator", "variant-added"], "once for both variants"


async def test_without_any_plan_all_is_measured_and_then_planned(keep, agents, monkeypatch):
    """What is measured first cannot do it; the device that can comes later."""
    monkeypatch.setattr(workflow_controller, "FIRST_PLAN_S", 0.0)
    for agent in agents[:2]:
        agent.mean_s = 1.0
    agents[2].threads, agents[2].hold["measure"] = 3, asyncio.Event()
    async with keep(measured=False) as kept:
        await kept.until(lambda fleet: len(fleet.profiles) == 1)
        agents[2].hold["measure"].set()
        await kept.served_by("hub-2")


async def test_a_device_of_an_unknown_class_that_comes_later_is_measured_and_used_if_it_pays(
    keep, beating, serve
):
    async with keep() as on:
        await on.served_by("hub-1")
        cheap = beating("hub-3", tier="hub", price=0.02, host="d", threads=1)
        await serve.start(cheap, port=wire.free_port())
        await on.mesh.discover([cheap.address], browse=False)
        await on.served_by("hub-3")
        (event, *_) = (await on.told("profile-measured"))[::-1]
        assert on.mesh.fleet.devices[event.device].name == "hub-3"


async def test_a_variant_that_is_added_is_measured_where_nothing_is_served(keep, ladders):
    async with keep() as on:
        await on.served_by("hub-1")
        added = ladders.add("ocr-detect", "v9")
        fleet = on.mesh.fleet
        await on.until(
            lambda fleet: any(added.digest in of_class for of_class in fleet.profiles.values())
        )
        (event,) = [e for e in await on.told("profile-measured") if e.profile.variant == "v9"]
        assert fleet.devices[event.device].name == "hub-2"


async def test_a_ladder_that_is_wrong_just_now_does_not_stop_what_is_kept(
    keep, agents, serve, ladders, monkeypatch
):
    def broken():
        raise InvalidDocument("the ladder is wrong", why="somebody is writing it")

    async with keep() as on:
        await on.served_by("hub-1")
        monkeypatch.setattr(ladders, "reload", broken)
        await serve.stop(agents[1])
        await on.served_by("hub-2")
        told = [e.text for e in await on.told("operator-noted")]
        assert sum("what was read before is used" in text for text in told) == 1


async def test_a_device_that_fails_while_the_one_before_it_drains_is_acted_upon_at_once(
    keep, agents, serve
):
    _, hub, spare = agents
    async with keep() as on:
        await on.served_by("hub-1")
        port = port_of(hub)
        await serve.stop(hub)
        await on.served_by("hub-2")
        spare.hold["stop"] = asyncio.Event()
        await serve.start(hub, port=port)
        async with asyncio.timeout(20.0):
            while "stop" not in spare.calls:
                await asyncio.sleep(0.01)
        assert on.uses(on.mesh.fleet) == {"cam-1", "hub-2"}, "the rollout is not over"
        await serve.stop(hub)
        await on.until(lambda fleet: on.uses(fleet) == {"cam-1", "hub-1"})
        spare.hold.clear()
        await on.served_by("hub-2", seconds=8.0)
