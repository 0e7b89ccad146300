"""Discovery against real servers: devices are found, and each way to fail has its reason."""

import asyncio

import pytest

from coordinator.discovery.browser import sighted
from coordinator.discovery.describe import Answer, NoAnswer, describe, describe_any
from coordinator.fleet.lifecycle import DeviceState, Reach
from coordinator.sessions.channels import Channels
from tiermesh import PROTOCOL_VERSION, wire
from tiermesh.errors import TiermeshError, Unsupported


@pytest.fixture
async def channels():
    opened = Channels()
    yield opened
    await opened.close()


async def why(channels, address, timeout_s=2.0):
    with pytest.raises(NoAnswer) as caught:
        await describe(channels, address, timeout_s)
    return caught.value.unreached


@pytest.fixture
async def listening():
    """A TCP server that answers with what the test says; None keeps it silent."""
    servers = []

    async def start(answer):
        async def talk(_reader, writer):
            try:
                if answer is None:
                    await asyncio.Event().wait()
                writer.write(answer)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

        tasks = set()

        def accept(reader, writer):
            task = asyncio.ensure_future(talk(reader, writer))
            tasks.add(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        servers.append((server, tasks))
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server, tasks in servers:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()


async def test_a_closed_port_is_refused(channels):
    assert (await why(channels, f"127.0.0.1:{wire.free_port()}")).reach is Reach.REFUSED


async def test_a_silent_port_times_out(channels, listening):
    address = await listening(None)
    assert (await why(channels, address, 0.3)).reach is Reach.TIMEOUT


async def test_a_web_server_is_not_an_agent(channels, listening):
    address = await listening(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    assert (await why(channels, address)).reach is Reach.NOT_AN_AGENT


async def test_a_grpc_server_without_the_service_is_not_an_agent(channels):
    server = wire.server(wire.LOOPBACK)
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    assert (await why(channels, f"127.0.0.1:{port}")).reach is Reach.NOT_AN_AGENT
    await server.stop(None)


async def test_a_name_that_does_not_resolve_says_so():
    opened = Channels(wire.INSECURE_LAN)
    reason = await why(opened, "no-such-host.invalid:7070", 5.0)
    assert reason.reach in (Reach.UNRESOLVED, Reach.TIMEOUT)
    await opened.close()


async def test_beyond_loopback_needs_a_flag(channels):
    reason = await why(channels, "192.0.2.1:7070")
    assert reason.reach is Reach.NOT_LOOPBACK


async def test_an_agent_of_another_protocol_is_named_with_both_versions(
    channels, serve, fake_agent
):
    (agent,) = await serve.start(fake_agent())
    agent.protocol = 0
    reason = await why(channels, agent.address)
    assert reason.reach is Reach.OTHER_VERSION
    assert "speaks protocol 0" in reason.detail
    assert f"coordinator 0.1.0 speaks {PROTOCOL_VERSION}" in reason.detail


async def test_an_agent_that_refuses_our_version_is_quoted(channels, serve, fake_agent):
    (agent,) = await serve.start(fake_agent())
    agent.fail["describe"] = Unsupported("this agent speaks protocol 7", fix="Upgrade")
    reason = await why(channels, agent.address)
    assert reason.reach is Reach.OTHER_VERSION
    assert "protocol 7" in reason.detail


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "../../etc"),
        ("tier", "no tier"),
        ("price", float("nan")),
        ("price", -1.0),
        ("usable_share", 3.0),
        ("data_address", "nowhere"),
    ],
)
async def test_a_description_that_cannot_be_used_names_the_field(
    channels, serve, fake_agent, field, value
):
    (agent,) = await serve.start(fake_agent())
    setattr(agent, field, value)
    reason = await why(channels, agent.address)
    assert reason.reach is Reach.BAD_DESCRIPTION
    assert field in reason.detail or field == "device"


async def test_devices_are_found_at_static_addresses_and_the_others_have_reasons(
    open_mesh, serve, fake_agent
):
    one, two = await serve.start(fake_agent("dev-1"), fake_agent("dev-2", tier="hub"))
    closed = f"127.0.0.1:{wire.free_port()}"
    async with open_mesh() as mesh:
        ready = await mesh.discover([one.address, two.address, closed], browse=False)
        assert [d.name for d in ready] == ["dev-1", "dev-2"]
        assert "refused" in mesh.fleet.sightings[closed].failures[0]


async def test_it_waits_for_devices_that_are_still_starting(open_mesh, serve, fake_agent):
    port = wire.free_port()
    async with open_mesh() as mesh:
        waiting = asyncio.ensure_future(
            mesh.discover([f"127.0.0.1:{port}"], expect=1, browse=False, timeout_s=20.0)
        )
        agent = fake_agent("late")
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        await serve.start(agent, port=port)
        assert [d.name for d in await waiting] == ["late"]


async def test_it_stops_waiting_at_the_timeout(open_mesh):
    async with open_mesh() as mesh:
        closed = f"127.0.0.1:{wire.free_port()}"
        assert await mesh.discover([closed], expect=1, browse=False, timeout_s=0.5) == []
        assert "refused" in mesh.fleet.sightings[closed].failures[0]


async def test_known_devices_are_asked_again_without_naming_them(open_mesh, serve, fake_agent):
    (agent,) = await serve.start(fake_agent())
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
    async with open_mesh() as mesh:
        agent.price = 0.9
        (device,) = await mesh.discover(browse=False)
        assert device.description.price_per_hour == 0.9
    await serve.stop(agent)
    async with open_mesh() as mesh:
        assert await mesh.discover(browse=False) == []
        assert mesh.fleet.devices["dev-1"].state is DeviceState.SUSPECT


async def test_finding_everything_as_it_was_adds_nothing_to_the_journal(
    open_mesh, serve, fake_agent
):
    (agent,) = await serve.start(fake_agent())
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        before = len(await mesh.history())
        await mesh.discover([agent.address], browse=False)
        assert len(await mesh.history()) == before


async def test_two_agents_with_one_identity_are_one_device_and_a_reason(
    open_mesh, serve, fake_agent
):
    one, two = await serve.start(fake_agent("same"), fake_agent("same"))
    async with open_mesh() as mesh:
        ready = await mesh.discover([one.address, two.address], browse=False)
        assert len(ready) == 1
        failures = [f for s in mesh.fleet.sightings.values() for f in s.failures]
        assert len(failures) == 1
        assert "was its folder copied?" in failures[0]


async def test_two_addresses_of_one_agent_are_one_device(open_mesh, serve, fake_agent):
    (agent,) = await serve.start(fake_agent("one"))
    port = agent.address.rpartition(":")[2]
    async with open_mesh() as mesh:
        ready = await mesh.discover([agent.address, f"localhost:{port}"], browse=False)
        assert [d.id for d in ready] == ["one"]
        assert all(not s.failures for s in mesh.fleet.sightings.values())


async def test_zeroconf_is_browsed_on_loopback(open_mesh, serve, fake_agent):
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    (agent,) = await serve.start(fake_agent("zc-1", name="over [bold]zeroconf[/]"))
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    info = AsyncServiceInfo(
        "_tiermesh._tcp.local.",
        "zc-1._tiermesh._tcp.local.",
        port=int(agent.address.rpartition(":")[2]),
        parsed_addresses=["127.0.0.1"],
        properties={"id": "zc-1"},
        server="zc-1.local.",
    )
    registered = await zeroconf.async_register_service(info)
    try:
        async with open_mesh() as mesh:
            await mesh.discover(expect=1, timeout_s=20.0)
            device = mesh.fleet.devices["zc-1"]
            assert device.name == "over-bold-zeroconf"
            assert mesh.fleet.sightings["zeroconf:zc-1"].via == "zeroconf"
    finally:
        await registered
        await zeroconf.async_close()


async def test_an_error_without_a_reason_keeps_what_was_said(serve, fake_agent, channels):
    (agent,) = await serve.start(fake_agent())
    agent.fail["describe"] = TiermeshError("out of order")
    reason = await why(channels, agent.address)
    assert reason.reach is Reach.OTHER
    assert "out of order" in reason.detail


async def test_only_the_device_that_announced_an_address_is_taken_for_it(
    channels, serve, fake_agent
):
    mine, other = await serve.start(fake_agent("dev-1"), fake_agent("dev-2"))
    addresses = [other.address, mine.address]
    found = await describe_any(channels, addresses, 5.0, wire.agent("dev-1"))
    assert isinstance(found, Answer)
    assert (found.device, found.address) == ("dev-1", mine.address)
    reasons = await describe_any(channels, [other.address], 5.0, wire.agent("dev-1"))
    assert not isinstance(reasons, Answer)
    (reason,) = reasons
    assert reason.reach is Reach.OTHER_DEVICE
    assert reason.detail == "dev-2 (dev-2) answers there, not dev-1"


async def test_an_announced_device_that_is_hidden_by_another_is_listed_with_the_reason(
    open_mesh, serve, fake_agent
):
    (other,) = await serve.start(fake_agent("dev-2"))
    async with open_mesh() as mesh:
        await mesh.record(
            sighted(1.0, "zeroconf:dev-1", [other.address], via="zeroconf"),
            sighted(1.0, "zeroconf:dev-2", [other.address], via="zeroconf"),
        )
        ready = await mesh.discover(browse=False)
        assert [d.name for d in ready] == ["dev-2"]
        (why,) = mesh.fleet.sightings["zeroconf:dev-1"].failures
        assert "dev-2 (dev-2) answers there" in why
