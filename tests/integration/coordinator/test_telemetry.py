"""Watching: samples come, reports are kept once, a lost device is noticed and found again."""

import asyncio

from coordinator.fleet.lifecycle import DeviceState
from tiermesh import wire
from tiermesh.v1 import telemetry_pb2


def restarted(number, at):
    return telemetry_pb2.DeviceEvent(
        number=number, at=at, kind="worker-restarted", text="killed by\nsignal 9"
    )


async def test_samples_of_all_devices_come_and_their_events_are_kept_once(
    open_mesh, serve, fake_agent
):
    agents = await serve.start(fake_agent("dev-1"), fake_agent("dev-2"))
    agents[0].samples = [
        telemetry_pb2.Sample(number=1, at=5.0, cpu_percent=12.0, events=[restarted(1, 4.0)])
    ]
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        for _ in range(2):
            seen = {}
            async for observed in mesh.watch():
                seen[observed.device.name] = observed.sample
                if len(seen) == 2:
                    break
            assert seen["dev-1"].cpu_percent == 12.0
        kept = await mesh.history(kinds=["worker-restarted"])
        assert [(e.event.who, e.event.text) for e in kept] == [("dev-1", "killed by signal 9")]


async def test_an_agent_that_started_again_reports_from_one_and_is_heard(
    open_mesh, serve, fake_agent
):
    (agent,) = await serve.start(fake_agent("dev-1"))
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        for at in (4.0, 9.0):
            agent.samples = [telemetry_pb2.Sample(number=1, at=at, events=[restarted(1, at)])]
            async for observed in mesh.watch():
                assert observed.sample is not None
                break
        assert len(await mesh.history(kinds=["worker-restarted"])) == 2


async def test_a_device_that_dies_is_suspect_and_is_found_again(open_mesh, serve, fake_agent):
    port = wire.free_port()
    (agent,) = await serve.start(fake_agent("dev-1"), port=port)
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        watching = mesh.watch(interval_s=0.2)
        states = []
        async for observed in watching:
            if observed.sample is not None and not states:
                states.append(DeviceState.READY)
                await serve.stop(agent)
            elif observed.sample is None:
                states.append(DeviceState.SUSPECT)
                assert observed.why
                await serve.start(agent, port=port)
            elif DeviceState.SUSPECT in states:
                break
        assert mesh.fleet.devices["dev-1"].state is DeviceState.READY
        kinds = [e.event.kind for e in await mesh.history(about="dev-1")]
        assert "device-lost" in kinds
        await watching.aclose()


async def test_a_reader_that_stops_leaves_nothing_running(open_mesh, serve, fake_agent):
    (agent,) = await serve.start(fake_agent("dev-1"))
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        watching = mesh.watch()
        await anext(watching)
        assert any("_follow" in repr(t.get_coro()) for t in asyncio.all_tasks())
        await watching.aclose()
        following = [t for t in asyncio.all_tasks() if "_follow" in repr(t.get_coro())]
        assert following == []
