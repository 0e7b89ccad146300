"""Watching: samples come, reports are kept once, a lost device is noticed and found again."""

import asyncio

from coordinator.fleet.lifecycle import DeviceState
from tiermesh import limits, wire
from tiermesh.v1 import telemetry_pb2


async def kept(mesh, count):
    """What devices reported, once that many events are in the journal."""
    async with asyncio.timeout(10):
        while len(found := await mesh.history(kinds=["worker-restarted"])) < count:
            await asyncio.sleep(0.01)
    return [(e.event.who, e.event.text) for e in found]


async def test_samples_of_all_devices_come_and_their_events_are_kept_once(
    open_mesh, serve, fake_agent
):
    agents = await serve.start(fake_agent("dev-1"), fake_agent("dev-2"))
    agents[0].samples = [telemetry_pb2.Sample(at=5.0, cpu_percent=12.0)]
    agents[0].events.add("worker-restarted", "killed by\nsignal 9")
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        for _ in range(2):
            seen = {}
            async for observed in mesh.watch():
                seen[observed.device.name] = observed.sample
                if len(seen) == 2:
                    break
            assert seen["dev-1"].cpu_percent == 12.0
        assert await kept(mesh, 1) == [("dev-1", "killed by signal 9")]


async def test_no_event_is_missed_by_a_reader_that_is_slow_and_none_is_kept_twice(
    open_mesh, serve, fake_agent
):
    (agent,) = await serve.start(fake_agent("dev-1"))
    texts = [f"number {i}" for i in range(200)]
    for _ in range(2):
        async with open_mesh() as mesh:
            await mesh.discover([agent.address], browse=False)
            watching = mesh.watch(interval_s=0.1)
            await anext(watching)
            for text in texts if agent.events.after(0) == [] else ():
                agent.events.add("worker-restarted", text)
            assert [text for _, text in await kept(mesh, len(texts))] == texts
            await watching.aclose()


async def test_events_that_nobody_took_in_time_are_said_to_be_missing(open_mesh, serve, fake_agent):
    (agent,) = await serve.start(fake_agent("dev-1"))
    for i in range(limits.DEVICE_EVENTS_KEPT + 7):
        agent.events.add("worker-restarted", f"number {i}")
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        mesh.sessions.to("dev-1")
        assert len(await kept(mesh, limits.DEVICE_EVENTS_KEPT)) == limits.DEVICE_EVENTS_KEPT
        (missing,) = await mesh.history(kinds=["device-noted"])
        assert missing.event.text.startswith("7 earlier events")


async def test_an_agent_that_started_again_reports_from_one_and_is_heard(
    open_mesh, serve, fake_agent
):
    port = wire.free_port()
    (agent,) = await serve.start(fake_agent("dev-1"), port=port)
    async with open_mesh() as mesh:
        await mesh.discover([agent.address], browse=False)
        mesh.sessions.to("dev-1")
        for start in (1, 2):
            agent.events.add("worker-restarted", f"start {start}")
            assert await kept(mesh, start)
            await serve.stop(agent)
            agent.start_again()
            await serve.start(agent, port=port)


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


async def test_a_look_takes_nobody_over_and_leaves_out_who_is_silent(open_mesh, serve, fake_agent):
    agents = await serve.start(fake_agent("dev-1"), fake_agent("dev-2"))
    agents[0].samples = [telemetry_pb2.Sample(at=5.0, cpu_percent=12.0)]
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        await serve.stop(agents[1])
        samples = await mesh.look()
    assert {device: s.cpu_percent for device, s in samples.items()} == {"dev-1": 12.0}
    assert agents[0].tenure.epoch == 0
