"""A real stream on loopback whose sender says what it should not, or whose receiver says nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc.aio
import pytest

from agent.serving.endpoints.sink import SinkState
from agent.serving.flow import Flow
from agent.serving.instructions import Instruction, Notice
from agent.serving.routing.generation import Generation
from agent.serving.stream_io.transport import Incoming, Outgoing
from agent.serving.streams.sender import SILENCE_S
from tests.simulation.serving.test_mesh import CHAIN, assign
from tiermesh import PROTOCOL_VERSION, codec, limits, wire
from tiermesh.frames import Frame, Kind, pack
from tiermesh.v1 import streaming_pb2 as pb


class Driver:
    """The receiving end: a flow, and what it says."""

    def __init__(self) -> None:
        self._flow = Flow("w", "b", 1)
        self._flow.sinks["out"] = SinkState("run")
        assignment = assign(CHAIN, [(1.0, "aaab", "----")], "ab", count=1)["b"]
        self._flow.prepare(Generation(assignment, 0.0))
        self._flow.commit(1, 0.0)
        self.said: list[Instruction] = []

    def now(self) -> float:
        return time.monotonic()

    def flow(self, workflow: str) -> Flow | None:
        return self._flow if workflow == "w" else None

    def changed(self) -> None:
        self.said += self._flow.take_instructions()


@pytest.fixture
async def driver() -> Driver:
    return Driver()


@pytest.fixture
async def address(driver: Driver) -> AsyncIterator[str]:
    incoming = Incoming(driver, "b")
    server = wire.server(wire.LOOPBACK)
    incoming.add_to(server)
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    yield f"127.0.0.1:{port}"
    incoming.close()
    await server.stop(None)


async def replies(address: str, *messages: bytes) -> list[pb.StreamReply]:
    """What the receiver answers to these messages, until it ends the call or has acknowledged."""
    async with wire.channel(wire.LOOPBACK, address, wire.ANY_AGENT) as channel:
        stub = channel.stream_stream(
            "/tiermesh.v1.Streams/Stream", response_deserializer=pb.StreamReply.FromString
        )
        call = stub()
        for message in messages:
            await call.write(message)
        heard: list[pb.StreamReply] = []
        while (reply := await call.read()) is not grpc.aio.EOF:
            heard.append(reply)
            if reply.WhichOneof("reply") == "refusal" or len(heard) > len(messages):
                break
        call.cancel()
        return heard


def hello(**fields: object) -> bytes:
    said = {
        "protocol_version": PROTOCOL_VERSION, "workflow": "w", "sender": "a", "receiver": "b",
        "sender_epoch": 1, "oldest": 1,
    }  # fmt: skip
    return codec.hello(pb.Hello(**{**said, **fields}))  # type: ignore[arg-type]


def unreadable(first: int) -> bytes:
    message = pb.StreamMessage(frames=pb.Frames(first=first, headers=b"\xc1")).SerializeToString()
    return len(message).to_bytes(4, "little") + message


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"protocol_version": 999}, "speaks protocol"),
        ({"receiver": "c"}, "this is the device b"),
        ({"workflow": "x"}, "not served here"),
        ({"sender": "stranger"}, "is not part of"),
    ],
)
async def test_a_hello_that_is_not_for_this_worker_is_refused(
    address: str, wrong: dict[str, object], why: str
) -> None:
    (reply,) = await replies(address, hello(**wrong))
    assert why in reply.refusal.why


async def test_what_cannot_be_read_is_named_counted_and_in_the_end_refused(
    address: str, driver: Driver
) -> None:
    for _ in range(limits.MALFORMED_MESSAGES):
        heard = await replies(address, hello(), unreadable(1))
        assert heard[-1].refusal.unreadable == 1
        assert "headers of frames cannot be read" in heard[-1].refusal.why
    (reply,) = await replies(address, hello())
    assert "is refused for a minute" in reply.refusal.why
    notices = [said for said in driver.said if isinstance(said, Notice)]
    assert [said.kind for said in notices] == ["message-unreadable"], "one of a crowd"


async def test_a_stream_goes_on_after_a_message_that_cannot_be_read(
    address: str, driver: Driver
) -> None:
    await replies(address, hello(), unreadable(1))
    frame = Frame(
        Kind.ERROR, 1, 0, "0" * 32, 1, "read", "out", ("a",), 0.0, 0.0, pack({}), "it is odd"
    )
    heard = await replies(address, hello(), codec.encode(1, [frame], driver.now()))
    assert heard[0].welcome.ack.next == 1
    assert heard[-1].ack.next == 2
    assert driver.flow("w").sinks["out"].is_writing("0" * 32)  # type: ignore[union-attr]


async def test_a_stream_that_is_hung_up_before_it_is_welcomed_is_tried_again(
    driver: Driver,
) -> None:
    hellos: asyncio.Queue[bytes] = asyncio.Queue()

    async def say_nothing(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        hellos.put_nowait(await context.read())
        await asyncio.Event().wait()

    handler = grpc.stream_stream_rpc_method_handler(say_nothing)
    server = wire.server(wire.LOOPBACK)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tiermesh.v1.Streams", {"Stream": handler}),)
    )
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    flow = driver.flow("w")
    assert flow is not None
    stream = Outgoing(driver, flow, "a", f"127.0.0.1:{port}", wire.LOOPBACK)
    try:
        async with asyncio.timeout(10):
            for _ in range(3):
                assert codec.decode_hello(await hellos.get()).receiver == "a"
                stream.hang_up()
    finally:
        await stream.close()
        await server.stop(None)


class Stuck:
    """A channel whose calls never get under way."""

    def __init__(self) -> None:
        self.hellos: asyncio.Queue[bytes] = asyncio.Queue()

    def stream_stream(self, *_: object, **__: object) -> Callable[[], Stuck]:
        return lambda: self

    async def write(self, message: bytes) -> None:
        self.hellos.put_nowait(message)
        await asyncio.Event().wait()

    def cancel(self) -> None:
        pass

    async def close(self) -> None:
        pass


async def test_a_call_that_never_gets_under_way_is_given_up(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(wire.rpc, "channel", lambda *_, **__: stuck)
    flow = driver.flow("w")
    assert flow is not None
    stream = Outgoing(driver, flow, "a", "127.0.0.1:1", wire.LOOPBACK)
    try:
        async with asyncio.timeout(4 * SILENCE_S):
            for _ in range(2):
                await stuck.hellos.get()
    finally:
        await stream.close()
