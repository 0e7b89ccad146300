"""Each kind of credentials through one body: a port, a channel, a probe, a held port, a socket, an announcement."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import grpc.aio
import msgspec
import pytest

from tests.unit.contract.mutual_tls import Authority
from tiermesh import PROTOCOL_VERSION, wire
from tiermesh.errors import InvalidDocument, TiermeshError, Unreachable, Unsupported
from tiermesh.v1 import device_pb2, device_pb2_grpc

ELSEWHERE = ["0.0.0.0", "192.0.2.7", "::", "2001:db8::1", "example.org"]  # noqa: S104
KINDS = [wire.LOOPBACK, wire.INSECURE_LAN]
ME = "0a1b2c"


class Describing(device_pb2_grpc.DeviceServicer):
    async def Describe(self, request, context):
        return device_pb2.DescribeReply(device_id=ME, name=context.peer())


@contextlib.asynccontextmanager
async def serving(credentials: wire.Credentials) -> AsyncGenerator[str]:
    server = wire.server(credentials)
    device_pb2_grpc.add_DeviceServicer_to_server(Describing(), server)
    port = wire.bind(server, credentials, "127.0.0.1", 0)
    await server.start()
    try:
        yield wire.join_address("127.0.0.1", port)
    finally:
        await server.stop(None)


async def described(channel: grpc.aio.Channel) -> str:
    """The id that a device says of itself; TiermeshError where it cannot be asked."""
    request = device_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION)
    try:
        reply = await device_pb2_grpc.DeviceStub(channel).Describe(request, timeout=5)
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, "the device") from None
    return reply.device_id


@pytest.fixture(params=["loopback", "insecure-lan", "mutual-tls"])
def credentials(request: pytest.FixtureRequest, tmp_path: Path) -> wire.Credentials:
    if request.param == "mutual-tls":
        return Authority(tmp_path / "mesh").issue(ME)
    return {one.__struct_config__.tag: one for one in KINDS}[request.param]


async def test_a_call_crosses(credentials: wire.Credentials) -> None:
    async with serving(credentials) as address:
        for expected in (wire.agent(ME), wire.ANY_AGENT):
            async with wire.channel(credentials, address, expected) as channel:
                assert await described(channel) == ME


async def test_a_channel_to_a_peer_is_kept(credentials: wire.Credentials) -> None:
    async with serving(credentials) as address:
        kept = wire.PeerChannel(credentials, address, wire.agent(ME))
        assert kept.current() is kept.current()
        assert await described(kept.current()) == ME
        await kept.close()


async def test_a_probe_tells_a_refusal_from_an_answer(credentials: wire.Credentials) -> None:
    expected = wire.agent(ME)
    async with serving(credentials) as address:
        assert not await wire.is_refused(credentials, address, expected, timeout_s=5)
    assert await wire.is_refused(credentials, address, expected, timeout_s=5)


async def test_a_held_port_is_for_one_who_knows(credentials: wire.Credentials) -> None:
    address = f"127.0.0.1:{wire.free_port()}"
    host, port = wire.split_address(address)
    held = wire.HeldPort(credentials, address)
    assert await wire.is_refused(credentials, address, wire.agent(ME), timeout_s=5)
    with wire.listening_socket(credentials, host, port):
        assert not await wire.is_refused(credentials, address, wire.agent(ME), timeout_s=5)
        with pytest.raises(TiermeshError, match=rf"cannot listen on {address}.*in use"):
            wire.HeldPort(credentials, address)
    held.close()


async def test_a_port_is_not_held_where_its_user_could_not_bind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    address = f"127.0.0.1:{wire.free_port()}"
    wire.HeldPort(wire.LOOPBACK, address)
    wire.HeldPort(wire.LOOPBACK, address).close()


def test_a_system_that_hands_on_no_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(Unsupported, match=r"POSIX.*Serve on a device with Linux or macOS"):
        wire.process_pair()


async def test_a_port_that_is_taken_is_said_in_words(credentials: wire.Credentials) -> None:
    async with serving(credentials) as address:
        host, port = wire.split_address(address)
        for opens in (
            lambda: wire.bind(wire.server(credentials), credentials, host, port),
            lambda: wire.listening_socket(credentials, host, port),
        ):
            with pytest.raises(TiermeshError, match=rf"cannot listen on {address}.*0 for a free"):
                opens()


async def test_what_is_no_address_is_refused_by_all(credentials: wire.Credentials) -> None:
    for connects in (
        lambda: wire.channel(credentials, "hub-1", wire.ANY_AGENT),
        lambda: wire.PeerChannel(credentials, "hub-1", wire.ANY_AGENT),
        lambda: wire.HeldPort(credentials, "hub-1"),
    ):
        with pytest.raises(InvalidDocument, match=r"127\.0\.0\.1:7070"):
            connects()


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_beyond_loopback(credentials: wire.Credentials, host: str) -> None:
    """Loopback refuses each use of an address elsewhere, and names it, the reason and the fix; others use it."""
    address, expected = wire.join_address(host, 7070), wire.agent(ME)
    uses: dict[str, Callable[[], object]] = {
        "connect to": lambda: wire.channel(credentials, address, expected),
        "listen on": lambda: wire.bind(wire.server(credentials), credentials, host, 7070),
    }
    if credentials == wire.LOOPBACK:
        uses |= {
            "listen on (held)": lambda: wire.HeldPort(credentials, address),
            "listen on (socket)": lambda: wire.listening_socket(credentials, host, 7070),
        }
        for use, opens in uses.items():
            with pytest.raises(wire.AddressRefused) as refused:
                opens()
            error = refused.value
            assert error.what == f"refusing to {use.partition(' (')[0]} {address}"
            assert "not encrypted" in error.why
            assert "--insecure-lan" in error.fix
            assert error.fields == {"address": address}
        with pytest.raises(wire.AddressRefused, match="refusing to connect to"):
            await wire.is_refused(credentials, address, expected, timeout_s=5)
        return
    async with wire.channel(credentials, address, expected):
        pass
    assert credentials.check(host, address, "listen on") is None


def test_what_is_announced(credentials: wire.Credentials) -> None:
    own = ["127.0.0.1", "10.0.0.5", "fe80::1", "10.0.1.5"]
    if credentials.reaches_network:
        every = ["10.0.0.5", "10.0.1.5"]
        assert wire.announced(credentials, "10.0.0.5", own) == (["10.0.0.5"], ["10.0.0.5"])
        assert wire.announced(credentials, "0.0.0.0", own) == (every, every)  # noqa: S104
        assert wire.announced(credentials, "::", ["127.0.0.1"]) == ([], [])
    else:
        assert wire.announced(credentials, "127.0.0.1", own) == (["127.0.0.1"], ["127.0.0.1"])
        with pytest.raises(wire.AddressRefused, match="announce on"):
            wire.multicast(credentials, ["10.0.0.5"])


@pytest.mark.parametrize("credentials", KINDS)
def test_a_message_says_the_kind_and_what_a_command_line_calls_it(
    credentials: wire.AnyCredentials,
) -> None:
    text = msgspec.json.encode(credentials)
    assert msgspec.json.decode(text, type=wire.AnyCredentials) == credentials
    assert bool(credentials.options) == bool(credentials.warning) == credentials.reaches_network
    assert all(option in credentials.warning for option in credentials.options)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="kind"):
        msgspec.json.decode(b'{"kind": "none-at-all"}', type=wire.AnyCredentials)


# What a kind with certificates needs of the rest: nothing. See `tests.unit.contract.mutual_tls`.


async def test_the_expected_identity_is_verified_in_the_handshake(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "mesh")
    hub, camera = authority.issue("hub-1"), authority.issue("cam-1")
    async with serving(hub) as address:
        async with wire.channel(camera, address, wire.agent("hub-1")) as right:
            assert await described(right) == ME
        async with wire.channel(camera, address, wire.agent("hub-2")) as wrong:
            with pytest.raises(Unreachable):
                await described(wrong)


async def test_a_client_without_a_certificate_of_the_mesh_is_not_heard(tmp_path: Path) -> None:
    hub = Authority(tmp_path / "mesh").issue("hub-1")
    stranger = Authority(tmp_path / "other").issue("cam-1")
    async with serving(hub) as address:
        for credentials in (stranger, wire.LOOPBACK):
            async with wire.channel(credentials, address, wire.agent("hub-1")) as channel:
                with pytest.raises(TiermeshError):
                    await described(channel)


async def test_certificates_are_renewed_while_both_ends_run(tmp_path: Path) -> None:
    """The server takes the new files at the next handshake; a peer channel makes another channel."""
    authority = Authority(tmp_path / "mesh")
    hub, camera = authority.issue("hub-1"), authority.issue("cam-1")
    async with serving(hub) as address:
        kept = wire.PeerChannel(camera, address, wire.agent("hub-1"))
        before = kept.current()
        assert await described(before) == ME
        old = await asyncio.to_thread(ssl_certificate, address, tmp_path / "mesh/cam-1")
        for device in ("hub-1", "cam-1"):
            authority.issue(device)
        assert kept.current() is not before
        assert await described(kept.current()) == ME
        assert await described(before) == ME  # what has begun goes on
        new = await asyncio.to_thread(ssl_certificate, address, tmp_path / "mesh/cam-1")
        assert new != old
        await kept.close()


def ssl_certificate(address: str, folder: Path) -> bytes:
    """The certificate that a server presents now."""
    import socket
    import ssl

    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    name = wire.agent("hub-1").server_name
    with (
        socket.create_connection(wire.split_address(address), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""
