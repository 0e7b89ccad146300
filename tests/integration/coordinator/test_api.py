"""The API of the coordinator: the same calls over the socket of a running one and in process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat

import grpc.aio
import pytest

from coordinator.api import transports, unix_socket
from coordinator.api.client import CoordinatorClient, FleetState
from coordinator.api.messages import apply_request
from coordinator.api.server import serving
from coordinator.api.service import CoordinatorService
from coordinator.api.unix_socket import SOCKET_NAME
from coordinator.api.version import VERSION
from coordinator.fleet import apply
from coordinator.planning.options import Options
from coordinator.planning.simulate import SimulatedLoad
from tests.commands import until
from tiermesh import limits
from tiermesh.errors import (
    InvalidDocument,
    LimitExceeded,
    StorageFull,
    TiermeshError,
    Unreachable,
    Unsupported,
)
from tiermesh.v1 import coordinator_pb2 as pb

WORKFLOW = """
workflow: read
slo:
  rate: 4/s
stages:
  photos: {source: files, path: signs/, rate: 4/s, devices: [cam-1]}
  detect: {model: ocr-detect, from: photos, tiers: [hub]}
  text: {sink: jsonl, path: out/text.jsonl, from: detect, devices: [cam-1]}
"""
HOW = ("over the socket", "in process")


@pytest.fixture
async def agents(serve, fake_agent):
    # The plan needs the camera and the first hub; the second is of its class, and dearer.
    camera = fake_agent("cam-1", price=0.01, threads=1)
    hub = fake_agent("hub-1", tier="hub", host="b")
    camera.mean_s = 0.4
    second = fake_agent("hub-2", tier="hub", host="c", price=0.2)
    return await serve.start(camera, hub, second)


@pytest.fixture
def workflow_file(tmp_path):
    path = tmp_path / "read.yaml"
    path.write_text(WORKFLOW)
    return path


@pytest.fixture
def connected(open_mesh, tmp_path):
    """A client of a mesh, reached in one of two ways, and that mesh's service."""

    @contextlib.asynccontextmanager
    async def made(how, *agents):
        async with open_mesh() as mesh:
            service = CoordinatorService(mesh)
            await mesh.discover([agent.address for agent in agents], browse=False)
            if how == "in process":
                yield CoordinatorClient.in_process(service), service
                return
            state = tmp_path / "state"
            async with serving(state, service), CoordinatorClient.connect(state) as client:
                yield client, service

    return made


async def planned(client, path):
    workflow = await client.add_workflow_file(path)
    await client.measure(workflow.digest, batch_sizes=[1])
    return workflow, await client.make_plan(workflow.digest)


@pytest.mark.parametrize("how", HOW)
async def test_a_plan_is_made_applied_rolled_back_and_drained(
    how, connected, agents, workflow_file
):
    steps, standings = [], []
    async with connected(how, *agents) as (client, _):
        assert client.is_running == (how == "over the socket")
        workflow = await client.add_workflow_file(workflow_file)
        assert workflow.missing_profiles == 6
        measured = await client.measure(workflow.digest, batch_sizes=[1], report=steps.append)
        assert (measured.measured, measured.failed) == (4, [])
        assert {step.device for step in steps} == {"cam-1", "hub-1", "hub-2"}
        assert any(step.tally is not None and step.tally.total == 4 for step in steps)
        made = await client.make_plan(workflow.digest, tell=standings.append)
        assert made.plan.made_for.problem == made.problem.digest
        assert made.plan.digest in (await client.fleet()).fleet.plans

        (preview,) = await client.preview_apply(made.plan)
        assert {part.device for part in preview.parts} >= {"hub-1"}
        (rollout,) = await client.apply(made.plan.digest)
        assert (rollout.outcome, rollout.exit_code) == ("committed", 0)
        assert agents[1].generations == {"read": 1}
        await client.discover(browse=False)
        (again,) = await client.apply(made.plan)
        assert again.unchanged
        assert (await client.diff_plans(made.plan)).empty
        with pytest.raises(TiermeshError, match="nothing to roll"):
            await client.preview_rollback()
        drained = await client.drain("hub-1", dry_run=True)
        assert drained.drained is None
        assert [(m[2], m[3]) for m in drained.changes["read"].moved] == [("hub-1", "hub-2")]
        drained = await client.drain("hub-1")
        assert drained.drained
        assert [rollout.generation for rollout in drained.rollouts] == [2]
        assert await client.undo_drain("hub-1") == "hub-1"
        explained = await client.explain_plan(made.plan, made.problem)
        assert explained.objective == "cost"
        (status,) = await client.status(interval_s=0.1)
        assert status.generation == 2
        back, changes = await client.preview_rollback("read")
        assert (back.generation, back.running, back.plan) == (1, 2, made.plan.digest)
        assert [(m[2], m[3]) for m in changes.moved] == [("hub-2", "hub-1")]
        assert (await client.roll_back()).generation == 3


@pytest.mark.parametrize("how", HOW)
async def test_several_plans_are_applied_until_one_fails(how, connected, agents, workflow_file):
    async with connected(how, *agents) as (client, service):
        _, first = await planned(client, workflow_file)
        text = WORKFLOW.replace("workflow: read", "workflow: other")
        other = await client.add_workflow(text, str(workflow_file.parent))
        second = await client.make_plan(other.digest)
        third = await client.add_workflow(text.replace("other", "third"), "")
        assert third.name in {w.name for w in await client.workflows()}
        await client.remove_workflow("third")
        assert third.name not in {w.name for w in await client.workflows()}
        with pytest.raises(InvalidDocument, match="no workflow `third` is known"):
            await client.remove_workflow("third")
        rollouts = await client.apply(first.plan, second.plan.digest)
        with pytest.raises(TiermeshError, match="`other` cannot be removed"):
            await client.remove_workflow("other")
        assert [r.workflow for r in rollouts] == ["read", "other"]
        assert {w.name for w in await client.workflows() if w.generation} == {"read", "other"}
        agents[1].fail["prepare"] = StorageFull("the disk is full")
        rollouts = await client.apply(first.plan, second.plan.digest, run="again")
        assert [(r.workflow, r.exit_code) for r in rollouts] == [("read", 4)]
        assert service.mesh.fleet.rollouts["other"].generation == 1


@pytest.mark.parametrize("how", HOW)
async def test_problems_are_solved_and_played_without_being_kept(
    how, connected, agents, workflow_file
):
    async with connected(how, *agents) as (client, _):
        workflow, made = await planned(client, workflow_file)
        problem = await client.problem(workflow.digest, without_devices=["hub-2"])
        assert "hub-2" not in {device.name for device in problem.devices}
        heard = []
        again = await client.make_plan(problem, Options(time_limit_s=5.0), tell=heard.append)
        assert again.problem == problem
        assert again.plan.digest not in (await client.fleet()).fleet.plans
        assert all(news.bound is not None or news.objective is not None for news in heard)
        outcome = await client.simulate_plan(made.plan, made.problem, SimulatedLoad(requests=200))
        assert (outcome.completed, outcome.lost) == (200, 0)
        assert {f"{v.model}/{v.name}" for v in await client.variants()} == {
            "ocr-detect/v3",
            "ocr-detect/v4",
        }
        held = await client.profiles("ocr-detect/v3", "hub-1")
        assert [names for names, _ in held] == [["hub-1", "hub-2"]]
        too_much = SimulatedLoad(requests=2_000_000)
        with pytest.raises(InvalidDocument, match="nothing to simulate"):
            await client.simulate_plan(made.plan, made.problem, too_much)


@pytest.mark.parametrize("how", HOW)
async def test_an_error_keeps_what_why_fix_and_its_fields(how, connected, agents, workflow_file):
    async with connected(how, *agents) as (client, _):
        with pytest.raises(InvalidDocument, match="no device `moon`") as caught:
            await client.forget_device("moon")
        assert caught.value.fix == "Known: cam-1, hub-1, hub-2"
        _, made = await planned(client, workflow_file)
        agents[1].price = 9.0
        await client.discover([agents[1].address], browse=False)
        with pytest.raises(TiermeshError, match="the fleet is not the one") as caught:
            await client.apply(made.plan)
        assert caught.value.kind == "digest-mismatch"
        assert caught.value.fields["changed"] == ["device hub-1: price_per_hour was 0.1, is 9.0"]


@pytest.mark.parametrize("how", HOW)
async def test_the_fleet_is_watched_and_resumed_from_a_number(how, connected, agents):
    async with connected(how, *agents) as (client, service):
        async with contextlib.aclosing(client.watch_fleet()) as changes:
            state = await anext(changes)
            assert isinstance(state, FleetState)
            assert {d.name for d in state.fleet.ready} == {"cam-1", "hub-1", "hub-2"}
            await service.mesh.note("first")
            first = await anext(changes)
            assert (first.number, first.event.text) == (state.number + 1, "first")
        await service.mesh.note("second")
        await client.forget_device("hub-1")
        async with contextlib.aclosing(client.watch_fleet(first.number)) as changes:
            missed = [await anext(changes), await anext(changes)]
        assert [entry.event.kind for entry in missed] == ["operator-noted", "device-left"]
        fleet = state.fleet
        for entry in (first, *missed):
            fleet = apply(entry.event, fleet)
        assert fleet.named("hub-1").state == service.mesh.fleet.named("hub-1").state == "left"


@pytest.mark.parametrize("how", HOW)
async def test_lists_come_in_pages(how, connected, agents, monkeypatch):
    async with connected(how, *agents) as (client, service):
        for number in range(7):
            await service.mesh.note(f"note {number}")
        monkeypatch.setattr(limits, "API_PAGE", 2)
        told = await client.events(kinds=["operator-noted"])
        assert [event.text for event in told] == [f"note {number}" for number in range(7)]
        newest = await client.events(kinds=["operator-noted"], limit=3)
        assert [event.text for event in newest] == ["note 4", "note 5", "note 6"]
        monkeypatch.setattr(limits, "API_PAGE", 1)
        assert [d.name for d in (await client.devices()).devices] == [
            "cam-1",
            "hub-1",
            "hub-2",
        ]
        request = pb.ListDevicesRequest(page_size=5)
        with pytest.raises(LimitExceeded, match="a page of 5 entries"):
            await client._transport.call("list_devices", request)
        with pytest.raises(LimitExceeded, match="plans in one call"):
            await client.apply(*["sha256:0"] * (limits.API_PLANS + 1))


@pytest.mark.parametrize("how", HOW)
async def test_samples_are_streamed(how, connected, agents):
    async with connected(how, *agents) as (client, _):
        seen = set()
        async with contextlib.aclosing(client.watch_samples(interval_s=0.1)) as samples:
            async for sample in samples:
                assert sample.HasField("sample")
                seen.add(sample.device)
                if len(seen) == 3:
                    break
        assert seen == {"cam-1", "hub-1", "hub-2"}


@pytest.mark.parametrize("how", HOW)
async def test_a_rollout_is_held_resumed_and_cancelled(how, connected, agents, workflow_file):
    async with connected(how, *agents) as (client, service):
        _, made = await planned(client, workflow_file)
        agents[1].hold["prepare"] = asyncio.Event()
        applying = asyncio.ensure_future(client.apply(made.plan))
        await until(lambda: "prepare" in agents[1].calls, "a device prepares")
        await client.hold_rollout("read")
        assert service.mesh.fleet.rollouts["read"].held
        await client.hold_rollout("read", hold=False)
        assert not service.mesh.fleet.rollouts["read"].held
        await client.cancel_rollout("read", "enough")
        agents[1].hold["prepare"].set()
        (rollout,) = await applying
        assert (rollout.outcome, rollout.exit_code) == ("aborted", 4)
        with pytest.raises(InvalidDocument, match="no rollout of `read` is in progress"):
            await client.cancel_rollout("read")


@pytest.mark.parametrize("how", HOW)
async def test_an_interrupted_rollout_is_undone_before_the_call_ends(
    how, connected, agents, workflow_file
):
    async with connected(how, *agents) as (client, service):
        _, made = await planned(client, workflow_file)
        agents[1].hold["prepare"] = asyncio.Event()
        applying = asyncio.ensure_future(client.apply(made.plan))
        await until(lambda: "prepare" in agents[1].calls, "a device prepares")
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        assert service.mesh.fleet.rollouts["read"].outcome == "aborted"
        assert "abort" in agents[1].calls


async def test_settings_are_those_of_a_running_coordinator(connected):
    class Keeping:
        auto_replan = True

    async with connected("over the socket") as (client, service):
        assert not (await client.settings()).HasField("auto_replan")
        with pytest.raises(Unsupported, match="no settings"):
            await client.set_auto_replan(on=False)
        service.keeping = Keeping()
        assert (await client.settings()).auto_replan
        assert not (await client.set_auto_replan(on=False)).auto_replan
        assert service.keeping.auto_replan is False


# --- over the socket only ------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


async def test_another_version_is_one_clear_error(connected, state):
    async with connected("over the socket"):
        with pytest.raises(Unsupported, match=r"and this client 0\.0\.1/1") as caught:
            async with CoordinatorClient.connect(state, version="0.0.1/1"):
                pass
        assert caught.value.fields["coordinator"] == VERSION
        assert "Restart that coordinator" in caught.value.fix


async def test_a_coordinator_that_checks_no_versions_is_checked_by_its_client(
    connected, state, monkeypatch
):
    monkeypatch.setattr("coordinator.api.server.check_version", lambda *_: None)
    monkeypatch.setattr("coordinator.api.handlers.devices.VERSION", "9.9.9/1")
    with pytest.raises(Unsupported, match=r"has version 9\.9\.9/1"):
        async with connected("over the socket"):
            raise AssertionError("a client of another version was let in")


async def test_a_folder_without_a_coordinator_and_one_whose_coordinator_was_killed(state):
    state.mkdir()
    with pytest.raises(Unreachable, match="no coordinator runs in"):
        async with CoordinatorClient.connect(state):
            pass
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / SOCKET_NAME))
    with pytest.raises(Unreachable, match="no coordinator runs in"):
        async with CoordinatorClient.connect(state):
            pass


async def test_what_is_no_coordinator_is_one_clear_error(state, monkeypatch):
    monkeypatch.setattr(transports, "CONNECT_S", 2.0)
    state.mkdir()

    async def chat(_reader, writer):
        writer.write(b"220 mail ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(chat, state / SOCKET_NAME)
    async with server:
        with pytest.raises(Unreachable, match="does not answer as a coordinator"):
            async with CoordinatorClient.connect(state):
                pass


async def test_garbage_on_the_socket_does_not_disturb_other_clients(connected, state):
    async with connected("over the socket") as (client, _):
        for sent in (b"\x00\x00\x00\x02{}", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000):
            _, writer = await asyncio.open_unix_connection(state / SOCKET_NAME)
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
            writer.close()
        assert (await client.devices()).devices == []


async def test_bytes_that_are_no_request_are_refused(connected):
    async with connected("over the socket") as (client, _):
        channel = client._transport._channel
        call = channel.unary_unary("/tiermesh.v1.Coordinator/ListDevices")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\xff\xff\xff", metadata=client._transport._metadata())
        unknown = channel.unary_unary("/tiermesh.v1.Coordinator/Nothing")
        with pytest.raises(grpc.aio.AioRpcError):
            await unknown(b"", metadata=client._transport._metadata())
        assert (await client.devices()).devices == []


async def test_the_socket_is_for_its_own_user_only(connected, state, monkeypatch):
    async with connected("over the socket"):
        assert stat.S_IMODE((state / SOCKET_NAME).stat().st_mode) == 0o600
        monkeypatch.setattr(unix_socket.os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(Unsupported, match="is another user's"):
            async with CoordinatorClient.connect(state):
                pass
    assert not (state / SOCKET_NAME).exists()


async def test_long_paths_are_served(open_mesh, tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    async with (
        open_mesh() as mesh,
        serving(folder, CoordinatorService(mesh)),
        CoordinatorClient.connect(folder) as client,
    ):
        assert client.info.mesh == mesh.name


async def test_calls_end_with_the_coordinator_and_say_so(open_mesh, state):
    async with open_mesh() as mesh, contextlib.AsyncExitStack() as stack:
        async with serving(state, CoordinatorService(mesh)):
            client = await stack.enter_async_context(CoordinatorClient.connect(state))
            changes = client.watch_fleet()
            await anext(changes)
        with pytest.raises(TiermeshError, match="the coordinator ended before this was done"):
            await anext(changes)


async def test_a_client_that_vanishes_interrupts_its_call(connected, state, agents, workflow_file):
    async with connected("over the socket", *agents) as (client, service):
        _, made = await planned(client, workflow_file)
        agents[1].hold["prepare"] = asyncio.Event()
        async with CoordinatorClient.connect(state) as other:
            request = apply_request([made.plan])
            call = other._transport._channel.unary_stream(
                "/tiermesh.v1.Coordinator/Apply",
                pb.ApplyRequest.SerializeToString,
                pb.RolloutEvent.FromString,
            )(request, metadata=other._transport._metadata())
            await call.read()
            await until(lambda: "prepare" in agents[1].calls, "a device prepares")
        await until(
            lambda: service.mesh.fleet.rollouts["read"].outcome == "aborted", "it is undone"
        )


async def test_streams_have_a_limit(connected, monkeypatch):
    monkeypatch.setattr(limits, "API_CALLS", 1)
    async with connected("over the socket") as (client, _):
        async with contextlib.aclosing(client.watch_fleet()) as changes:
            await anext(changes)
            with pytest.raises(LimitExceeded, match="works on 1 calls already"):
                await anext(client.watch_fleet())
        async with contextlib.aclosing(client.watch_fleet()) as changes:
            assert await anext(changes)
