"""Control sessions over loopback: cut at each moment, ends that start again, two coordinators, peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest

from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.mesh import Mesh
from coordinator.profiling.profiler import ProfileOptions
from coordinator.rollout import steps as steps_module
from coordinator.rollout.steps import Steps
from tiermesh import PROTOCOL_VERSION, limits, wire
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import LimitExceeded, TakenOver, TiermeshError, Unreachable
from tiermesh.session import BEAT_S
from tiermesh.v1 import control_pb2 as pb
from tiermesh.v1 import control_pb2_grpc

QUICK = ProfileOptions(batch_sizes=(1,), time_limit_s=5.0)
DONE_S = 20.0


class Link:
    """Forwards connections to an agent; cuts them when told, or by itself after `left` chunks."""

    def __init__(self, target):
        self.target = target
        self.left = None
        self.writers = set()
        self.server = None
        self.port = 0

    async def open(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def refuse(self):
        """Cut, and take no connection until it is opened again."""
        self.server.close()
        self.cut()

    def cut(self):
        self.left = None
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        host, port = wire.split_address(self.target)
        ends = [(reader, writer), await asyncio.open_connection(host, port)]
        self.writers |= {w for _, w in ends}
        (a, b), (c, d) = ends
        try:
            await asyncio.gather(self.pass_on(a, d), self.pass_on(c, b))
        finally:
            self.writers -= {w for _, w in ends}

    async def pass_on(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.left is not None:
                    self.left -= 1
                    if self.left < 0:
                        self.cut()
                        return
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@pytest.fixture
async def agent(serve, fake_agent):
    (agent,) = await serve.start(fake_agent("dev-1"), port=wire.free_port())
    return agent


@pytest.fixture
async def link(agent):
    made = Link(agent.address)
    await made.open()
    yield made
    await made.refuse()


@pytest.fixture
async def mesh(open_mesh, link):
    async with open_mesh() as mesh:
        await mesh.discover([f"127.0.0.1:{link.port}"], browse=False)
        yield mesh


@pytest.fixture
async def ready(mesh, workflow_file, make_plan):
    """Rolls a plan for the one device out, as a new run."""
    workflow = await mesh.read_workflow(workflow_file)
    await mesh.profile(workflow, options=QUICK)
    plan = make_plan(await mesh.problem(workflow), ["dev-1"])
    await mesh.plan_made(plan)

    async def roll_out(run="run"):
        async with asyncio.timeout(DONE_S):
            return await mesh.apply(plan, run=run)

    return roll_out


def assignment(generation):
    return Assignment(
        workflow="read",
        generation=generation,
        plan="by hand",
        run="run",
        device="dev-1",
        replicas=[],
        stages={},
        lanes=[],
        replica_devices={},
        peers={},
    )


async def until_called(agent, step):
    async with asyncio.timeout(DONE_S):
        while step not in agent.calls:
            await asyncio.sleep(0.005)


def times(agent, step):
    return agent.calls.count(step)


# --- the link ----------------------------------------------------------------------------------------------------


async def test_round_trips_are_measured_and_breaks_are_counted(link, mesh):
    watching = mesh.watch(interval_s=0.1)
    session = mesh.sessions.to("dev-1")
    try:
        async with asyncio.timeout(DONE_S):
            async for observed in watching:
                if observed.link is not None and not observed.link.reconnects:
                    assert 0 < observed.link.least_ms <= observed.link.rtt_ms < 1_000
                    link.cut()
                elif observed.link is not None:
                    break
        assert session.link.reconnects == 1
    finally:
        await watching.aclose()


async def test_an_agent_that_knows_no_pings_is_watched_all_the_same(agent, mesh, monkeypatch):
    from agent import control

    monkeypatch.setattr(control._Talk, "note", lambda _self, _message: None)
    watching = mesh.watch(interval_s=0.1)
    for _ in range(3):
        observed = await anext(watching)
        assert observed.sample is not None
        assert observed.link is None
    await watching.aclose()


# --- breaks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepare", "load", "commit"])
@pytest.mark.parametrize("away", [False, True], ids=["cut", "cut-and-away"])
async def test_a_break_in_the_middle_of_a_step_costs_nothing(agent, link, ready, step, away):
    agent.hold[step] = asyncio.Event()
    rolling_out = asyncio.ensure_future(ready())
    await until_called(agent, step)
    await link.refuse() if away else link.cut()
    agent.hold[step].set()
    if away:
        # What was asked comes to its end although nobody can hear of it.
        done = agent.generations if step == "commit" else agent.prepared
        async with asyncio.timeout(DONE_S):
            while not done:
                await asyncio.sleep(0.005)
        await link.open()
    applied = await rolling_out
    assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    assert agent.generations == {"read": 1}
    assert (times(agent, "prepare"), times(agent, "commit")) == (1, 1), "each once"


async def test_cut_after_any_chunk_each_command_is_carried_out_once(agent, link, mesh):
    steps = Steps(mesh.sessions, "dev-1")
    await steps.prepare(assignment(1))
    cuts = range(12)
    for generation, chunks in enumerate(cuts, start=2):
        link.left = chunks
        async with asyncio.timeout(DONE_S):
            await steps.prepare(assignment(generation))
            await steps.commit("read", generation)
        assert agent.generations == {"read": generation}
    assert times(agent, "prepare") == 1 + len(cuts)
    assert times(agent, "commit") == len(cuts)


async def test_what_was_given_up_while_nobody_could_hear_it_is_never_done(
    agent, link, mesh, monkeypatch
):
    monkeypatch.setattr(steps_module, "PATIENCE_S", 0.2)
    steps = Steps(mesh.sessions, "dev-1")
    await steps.prepare(assignment(1))
    await link.refuse()
    with pytest.raises(Unreachable, match="dev-1 does not answer"):
        await steps.commit("read", 1)
    await link.open()
    await steps.abort("read", 1)
    assert times(agent, "commit") == 0
    assert agent.prepared == {}


async def test_a_short_break_is_no_loss_and_samples_go_on(agent, link, mesh):
    seen = 0
    async with contextlib.aclosing(mesh.watch(interval_s=0.1)) as watching:
        async for observed in watching:
            assert observed.sample is not None, observed.why
            seen += 1
            if seen in (2, 4):
                link.cut()
            if seen == 6:
                break
    assert await mesh.history(kinds=["device-lost"]) == []


# --- ends that start again ---------------------------------------------------------------------------------------


async def start_again(agent, serve):
    """What a kill -9 and a start are to an agent: what it had prepared is gone."""
    port = wire.split_address(agent.address)[1]
    await serve.stop(agent)
    await agent.commands.close()
    agent.hold.clear()
    agent.prepared.clear()
    agent.start_again()
    await serve.start(agent, port=port)


@pytest.mark.parametrize("step", ["prepare", "load"])
async def test_an_agent_killed_while_it_prepares_is_asked_again(agent, serve, ready, step):
    agent.hold[step] = asyncio.Event()
    rolling_out = asyncio.ensure_future(ready())
    await until_called(agent, step)
    await start_again(agent, serve)
    applied = await rolling_out
    assert applied.outcome is RolloutOutcome.COMMITTED, applied.failures
    assert agent.generations == {"read": 1}


async def test_an_agent_killed_before_it_could_switch_ends_the_rollout_consistently(
    agent, serve, ready, mesh
):
    agent.hold["commit"] = asyncio.Event()
    rolling_out = asyncio.ensure_future(ready())
    await until_called(agent, "commit")
    await start_again(agent, serve)
    applied = await rolling_out
    assert (applied.outcome, applied.exit_code) == (RolloutOutcome.ABORTED, 4)
    assert (agent.generations, agent.prepared, mesh.fleet.running) == ({}, {}, {})


async def test_a_new_coordinator_takes_up_what_a_killed_one_had_asked(agent, mesh, tmp_path):
    agent.hold["load"] = asyncio.Event()
    asking = asyncio.ensure_future(Steps(mesh.sessions, "dev-1").prepare(assignment(1)))
    await until_called(agent, "load")
    async with Mesh.open(tmp_path / "other") as second:
        await second.discover([agent.address], browse=False)
        again = asyncio.ensure_future(Steps(second.sessions, "dev-1").abort("read", 1))
        with pytest.raises(TakenOver):
            await asking
        await again
    assert agent.prepared == {}, "what the first had begun has been given up"


# --- more than one coordinator -----------------------------------------------------------------------------------


async def test_the_coordinator_before_may_only_look(agent, mesh, tmp_path):
    await Steps(mesh.sessions, "dev-1").prepare(assignment(1))
    async with Mesh.open(tmp_path / "other") as second:
        await second.discover([agent.address], browse=False)
        await Steps(second.sessions, "dev-1").commit("read", 1)
        async with asyncio.timeout(DONE_S):
            await mesh.sessions.to("dev-1").stepped_down()
            with pytest.raises(TakenOver):
                await Steps(mesh.sessions, "dev-1").abort("read", 1)
        async with contextlib.aclosing(mesh.watch()) as watching:
            assert (await anext(watching)).sample is not None
        await Steps(second.sessions, "dev-1").prepare(assignment(2))
    assert (agent.generations, agent.prepared["read"].generation) == ({"read": 1}, 2)


async def test_looking_takes_nothing_over(agent, mesh, open_mesh, tmp_path):
    steps = Steps(mesh.sessions, "dev-1")
    await steps.prepare(assignment(1))
    agent.events.add("peer-lost", "hub-1")
    async with Mesh.open(tmp_path / "state", read_only=True) as looking:
        async with contextlib.aclosing(looking.watch(interval_s=0.1)) as watching:
            observed = await anext(watching)
        assert [e.text for e in observed.sample.events] == ["hub-1"]
        with pytest.raises(TakenOver, match="a read-only session cannot send commands"):
            await Steps(looking.sessions, "dev-1").commit("read", 1)
    await steps.commit("read", 1)


# --- peers that misbehave ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def raw(agent, **changed):
    """A call that says what it likes; the first message is a proper one unless it is changed."""
    opening = {
        "protocol_version": PROTOCOL_VERSION,
        "device": "dev-1",
        "coordinator": "raw",
        **changed,
    }
    async with wire.channel(wire.LOOPBACK, agent.address, wire.ANY_AGENT) as channel:
        call = control_pb2_grpc.ControlStub(channel).Session()
        await call.write(pb.Down(wanted=1, open=pb.Open(**opening)))
        yield call
        call.cancel()


async def refusal(call):
    """The error that ends a call."""
    try:
        async with asyncio.timeout(DONE_S):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return wire.raised_by(error, "dev-1")
    raise AssertionError("it ends without an error")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"protocol_version": 1}, f"speaks protocol {PROTOCOL_VERSION}, not 1"),
        ({"device": "dev-2"}, "this is the device dev-1, not dev-2"),
        ({"coordinator": ""}, "must start with `open`"),
        ({"coordinator": "x" * 65}, "must start with `open`"),
        ({"epoch": 7}, "another coordinator has taken over this device"),
    ],
)
async def test_what_does_not_fit_is_refused_with_one_clear_error(agent, changed, said):
    async with raw(agent, **changed) as call:
        assert said in str(await refusal(call))


COMMIT = pb.Command(call=1, commit=pb.Generation(workflow="read", generation=1))


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        (pb.Down(number=2, wanted=1, command=COMMIT), TiermeshError, "message 1 is due"),
        (pb.Down(wanted=9), TiermeshError, "wants message 9"),
    ],
)
async def test_numbers_that_cannot_be_end_the_call(agent, message, kind, said):
    async with raw(agent) as call:
        await call.read()
        await call.write(message)
        error = await refusal(call)
        assert isinstance(error, kind)
        assert said in str(error)


async def test_a_peer_that_talks_too_much_is_cut_off(agent):
    async with raw(agent) as call:
        await call.read()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(limits.CONTROL_UNNUMBERED_PER_S + 1):
                await call.write(pb.Down(wanted=1))
        assert isinstance(await refusal(call), LimitExceeded)


async def test_more_commands_than_a_device_takes_are_answered_with_the_limit(agent):
    agent.hold["prepare"] = asyncio.Event()
    many = limits.CONTROL_COMMANDS + 1
    async with raw(agent) as call:
        await call.read()
        for number in range(1, many + 1):
            prepare = pb.Prepare(assignment=wire_form(assignment(number)))
            command = pb.Command(call=number, prepare=prepare)
            await call.write(pb.Down(number=number, wanted=1, command=command))
        async with asyncio.timeout(DONE_S):
            while (up := await call.read()).WhichOneof("message") != "answer":
                pass
        assert up.answer.call == many
        assert isinstance(wire.decode_error(up.answer.outcome.error), LimitExceeded)


def wire_form(of):
    from tiermesh.documents.reading import encode_json

    return encode_json(of)


async def test_an_agent_without_anything_to_say_says_so_every_second(agent):
    loop = asyncio.get_running_loop()
    async with raw(agent) as call:
        await call.read()
        begun = loop.time()
        async with asyncio.timeout(DONE_S):
            beat = await call.read()
        assert (beat.number, beat.WhichOneof("message")) == (0, None)
        assert loop.time() - begun < 3 * BEAT_S
