"""The wire: errors that cross it whole, and addresses as text."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tiermesh import PROTOCOL_VERSION, wire
from tiermesh.errors import StaleGeneration, TiermeshError, Unreachable
from tiermesh.v1 import device_pb2, device_pb2_grpc


class Refusing(device_pb2_grpc.DeviceServicer):
    async def Describe(self, request, context):
        await wire.abort(
            context, StaleGeneration("too old", why="it is 3", fix="plan again", generation=3)
        )


@pytest.fixture
async def refusing() -> AsyncIterator[str]:
    server = wire.server(wire.LOOPBACK)
    device_pb2_grpc.add_DeviceServicer_to_server(Refusing(), server)
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    yield wire.join_address("127.0.0.1", port)
    await server.stop(None)


async def describe(address: str) -> TiermeshError:
    async with wire.channel(wire.LOOPBACK, address, wire.ANY_AGENT) as channel:
        request = device_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await device_pb2_grpc.DeviceStub(channel).Describe(request, timeout=5)
    return wire.raised_by(caught.value, address)


async def test_an_error_arrives_as_it_was_raised(refusing: str) -> None:
    error = await describe(refusing)
    assert type(error) is StaleGeneration
    assert (error.what, error.why, error.fix) == ("too old", "it is 3", "plan again")
    assert error.fields == {"generation": 3}


async def test_a_peer_that_is_not_there_is_unreachable() -> None:
    error = await describe(wire.join_address("127.0.0.1", wire.free_port()))
    assert isinstance(error, Unreachable)
    assert "does not answer" in error.what


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:x"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TiermeshError, match=r"127\.0\.0\.1:7070"):
        wire.split_address(text)


def test_addresses_of_both_families_are_split_and_joined() -> None:
    assert wire.split_address("[::1]:80") == ("::1", 80)
    assert wire.join_address("::1", 80) == "[::1]:80"
    assert wire.join_address(*wire.split_address("127.0.0.1:9")) == "127.0.0.1:9"
