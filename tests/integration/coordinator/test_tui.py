"""The terminal interface on a real mesh of agents that only keep the protocol: by keyboard alone."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from coordinator.api.client import CoordinatorClient
from coordinator.api.service import CoordinatorService
from coordinator.tui.live import LiveSession, OpenMesh
from tiermesh import wire
from tiermesh.v1 import telemetry_pb2

pytest.importorskip("textual", reason="the extra `tui` is not installed")

WORKFLOW = """
workflow: read
slo:
  rate: 4/s
stages:
  photos: {source: files, path: signs/, rate: 4/s, devices: [cam-1]}
  detect: {model: ocr-detect, from: photos, tiers: [hub]}
  text: {sink: jsonl, path: out/text.jsonl, from: detect, devices: [cam-1]}
"""


@pytest.fixture
def agents(fake_agent):
    """A camera that the source is on, and two hubs that can detect: the second is dearer."""

    class Beating(fake_agent):  # pyright: ignore[reportUntypedBaseClass]
        async def Watch(self, request, context):
            number = 0
            while True:
                number += 1
                yield telemetry_pb2.Sample(
                    number=number, at=time.time(), cpu_percent=5.0, generations=self.generations
                )
                await asyncio.sleep(request.interval_ms / 1_000)

    return [
        Beating("cam-1", price=0.01, host="a"),
        Beating("hub-1", tier="hub", price=0.1, host="b"),
        Beating("hub-2", tier="hub", price=0.2, host="c"),
    ]


async def until(pilot, condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await pilot.pause(0.02)


@pytest.fixture
def meshes():
    """The meshes that apps have opened."""
    return []


@pytest.fixture
async def shown(serve, agents, open_mesh, meshes, tmp_path):
    """Opens the app on a mesh whose workflow is known and measured, and does not run yet."""
    from coordinator.tui.app import TiermeshApp

    @contextlib.asynccontextmanager
    async def opened():
        for agent in agents:
            await serve.start(agent, port=wire.free_port())
        path = tmp_path / "read.yaml"
        path.write_text(WORKFLOW)
        addresses = tuple(agent.address for agent in agents)

        @contextlib.asynccontextmanager
        async def opening():
            async with open_mesh() as mesh:
                await mesh.discover(addresses, browse=False)
                await mesh.profile(await mesh.read_workflow(path))
                await mesh.plan(await mesh.read_workflow(path))
                service = CoordinatorService(mesh)
                meshes.append(mesh)
                yield OpenMesh(CoordinatorClient.in_process(service), service)

        session = LiveSession(opening, title="test", addresses=addresses, browse=False)
        app = TiermeshApp(session, repaint_s=0.05)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: len(app.view.fleet.ready) == 3 and app.view.fleet.plans)
            yield app, pilot

    return opened


async def applied(app, pilot):
    await pilot.press("3", "p")
    await until(pilot, lambda: app.candidate is not None and app.candidate.search == "found")
    await pilot.press("a", "y")


def serving(app):
    running = app.view.fleet.running.get("read")
    devices = app.view.fleet.devices
    return {devices[d].name for d in running.devices} if running else set()


async def test_a_plan_is_solved_and_applied_and_a_failure_is_answered(shown, agents, serve):
    async with shown() as (app, pilot):
        await applied(app, pilot)
        await until(pilot, lambda: serving(app) == {"cam-1", "hub-1"})
        assert agents[1].generations == {"read": 1}
        await pilot.press("2")
        await until(pilot, lambda: app.screen.board is not None)
        await serve.stop(agents[1])
        await until(pilot, lambda: serving(app) == {"cam-1", "hub-2"})
        await until(pilot, lambda: app.view.fleet.replans["read"].outcome is not None)
        await until(
            pilot, lambda: {c.title for c in app.screen.board.columns} == {"cam-1", "hub-2"}
        )
        kinds = [entry.event.kind for entry in app.view.journal]
        order = [kinds.index(k) for k in ("device-failed", "replan-started", "replan-ended")]
        assert order == sorted(order)


async def test_a_device_that_is_barred_is_not_used(shown, agents):
    async with shown() as (app, pilot):
        await pilot.press("3")
        form = app.screen.form
        row = next(i for i, r in enumerate(form.rows) if r.key == "hub-1")
        app.screen.query_one("#form").place(row)
        await pilot.press("enter")
        await until(pilot, lambda: app.candidate is not None and app.candidate.search == "found")
        await pilot.press("a", "y")
        await until(pilot, lambda: serving(app) == {"cam-1", "hub-2"})


async def test_an_apply_is_refused_when_the_fleet_has_changed_and_says_what(shown, agents, serve):
    async with shown() as (app, pilot):
        await pilot.press("3", "p")
        await until(pilot, lambda: app.candidate is not None and app.candidate.search == "found")
        await serve.stop(agents[1])
        await until(pilot, lambda: len(app.view.fleet.ready) == 2)
        await pilot.press("a", "y")
        await until(pilot, lambda: app._notifications)
        assert any("hub-1 is gone" in said.message for said in app._notifications)
        assert app.view.fleet.rollouts == {}


async def test_a_frontier_that_is_asked_for_early_lets_the_search_end(shown):
    async with shown() as (app, pilot):
        await pilot.press("3", "p", "f")
        await until(pilot, lambda: app.candidate is not None and app.candidate.search == "found")


async def test_asks_that_no_plan_meets_say_which_clash(shown):
    async with shown() as (app, pilot):
        await pilot.press("3", "enter", "ctrl+u", *"9000/s", "enter")
        await until(
            pilot, lambda: app.candidate is not None and app.candidate.search == "infeasible"
        )
        assert app.candidate.why


async def test_a_rollout_is_held_let_go_on_and_rolled_back(shown, agents):
    async with shown() as (app, pilot):
        agents[1].hold["prepare"] = asyncio.Event()
        await applied(app, pilot)
        await pilot.press("4")
        await until(pilot, lambda: "read" in app.view.fleet.rollouts)
        await pilot.press("space")
        await until(pilot, lambda: app.view.fleet.rollouts["read"].held)
        agents[1].hold["prepare"].set()
        await until(
            pilot,
            lambda: set(app.view.fleet.rollouts["read"].phases.values()) == {"prepared"},
        )
        await pilot.pause(0.2)
        assert agents[1].generations == {}
        await pilot.press("space")
        await until(pilot, lambda: serving(app) == {"cam-1", "hub-1"})


async def test_an_open_rollout_is_given_up(shown, agents):
    async with shown() as (app, pilot):
        agents[1].hold["prepare"] = asyncio.Event()
        await applied(app, pilot)
        await pilot.press("4")
        await until(pilot, lambda: "read" in app.view.fleet.rollouts)
        await pilot.press("x", "y")
        await until(pilot, lambda: app.view.fleet.rollouts["read"].outcome == "aborted")
        assert serving(app) == set()


async def test_beside_another_coordinator_the_mesh_is_followed(shown, open_mesh, agents, meshes):
    from coordinator.tui.app import TiermeshApp

    async with shown() as (app, pilot):
        await applied(app, pilot)
        await until(pilot, lambda: serving(app) == {"cam-1", "hub-1"})

        @contextlib.asynccontextmanager
        async def reading():
            async with open_mesh(read_only=True) as mesh:
                service = CoordinatorService(mesh, observer=True)
                client = CoordinatorClient.in_process(service)
                yield OpenMesh(client, refusal="another coordinator is at work")

        beside = TiermeshApp(LiveSession(reading, title="beside"), repaint_s=0.05)
        async with beside.run_test(size=(120, 40)) as second:
            await until(second, lambda: serving(beside) == {"cam-1", "hub-1"})
            await until(second, lambda: len(beside.view.telemetry.devices) == 3)
            assert beside.view.refusal
            await meshes[0].note("hello from the first")
            await until(second, lambda: beside.view.journal[-1].event.kind == "operator-noted")


@pytest.fixture
async def beside(standing, planned, folder, monkeypatch):
    """Opens the app beside a running coordinator."""
    from coordinator.cli import build_parser
    from coordinator.cli.output import CommandOutput
    from coordinator.cli.tui import _session
    from coordinator.tui.app import TiermeshApp

    monkeypatch.setenv("TIERMESH_HOME", str(folder / "home"))
    words = ["tui", "--no-browse", "--variants", str(folder / "variants")]
    parser = await asyncio.to_thread(build_parser)

    @contextlib.asynccontextmanager
    async def opened():
        session = _session(parser.parse_args(words), CommandOutput(json=False))
        app = TiermeshApp(session, repaint_s=0.05)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: len(app.view.fleet.ready) == 2 and app.view.fleet.plans)
            assert not app.view.refusal
            yield app, pilot

    return opened


async def test_a_running_coordinator_applies_and_rolls_back(beside, planned):
    async with beside() as (app, pilot):
        await applied(app, pilot)
        await until(pilot, lambda: "read" in app.view.fleet.running)
        assert planned[0].generations == {"read": 1}
        await until(pilot, lambda: len(app.view.telemetry.devices) == 2)
        await pilot.press("4", "b", "y")
        await until(pilot, lambda: app._notifications)
        assert any("no other plan" in said.message for said in app._notifications)


async def test_a_running_coordinators_rollout_is_held_let_go_on_and_given_up(beside, planned):
    async with beside() as (app, pilot):
        planned[0].hold["prepare"] = asyncio.Event()
        await applied(app, pilot)
        await pilot.press("4")
        await until(pilot, lambda: "read" in app.view.fleet.rollouts)
        await pilot.press("space")
        await until(pilot, lambda: app.view.fleet.rollouts["read"].held)
        await pilot.press("space")
        await until(pilot, lambda: not app.view.fleet.rollouts["read"].held)
        await pilot.press("x", "y")
        await until(pilot, lambda: app.view.fleet.rollouts["read"].outcome == "aborted")
        assert serving(app) == set()


async def test_a_running_coordinator_measures_a_variant_again_and_drains_a_device(beside, planned):
    async with beside() as (app, pilot):
        before = planned[0].calls.count("profile") + planned[1].calls.count("profile")
        await pilot.press("5")
        await until(pilot, lambda: app.screen.map is not None)
        await pilot.press("r", "y")
        await until(pilot, lambda: any(said.message == "measured" for said in app._notifications))
        assert planned[0].calls.count("profile") + planned[1].calls.count("profile") > before
        session, hub = app.session, app.view.fleet.named("hub-1").id
        app.work("drain", session.drain(hub))
        await until(pilot, lambda: app.view.fleet.devices[hub].state == "draining")
        app.work("undo the drain", session.drain(hub, undo=True))
        await until(pilot, lambda: app.view.fleet.devices[hub].state == "ready")


async def test_the_app_goes_on_when_its_coordinator_runs_again(
    beside, standing, start_coordinator, coordinator
):
    async with beside() as (app, pilot):
        known = len(app.view.journal)
        standing.terminate()
        await standing.communicate()
        await until(pilot, lambda: app._notifications)
        assert any("the coordinator ended" in said.message for said in app._notifications)
        again = await start_coordinator()
        try:
            applied_there = await coordinator("apply", "plan.json")
            assert applied_there.code == 0, applied_there.err
            await until(pilot, lambda: serving(app))
            numbers = [entry.number for entry in app.view.journal]
            assert len(numbers) > known
            assert numbers == sorted(set(numbers)), "none is missed, and none is told twice"
        finally:
            again.terminate()
            await again.communicate()
