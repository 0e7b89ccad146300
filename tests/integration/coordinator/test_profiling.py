"""Profiling over the wire: what is missing is measured once, hosts take turns, failures stay alone."""

import asyncio

from coordinator.profiling.profiler import ProfileOptions
from tiermesh.errors import Unsupported

QUICK = ProfileOptions(batch_sizes=(1, 2), time_limit_s=5.0)


async def started(mesh, serve, *agents):
    await serve.start(*agents)
    await mesh.discover([a.address for a in agents], browse=False)


async def test_missing_profiles_are_measured_and_kept(open_mesh, serve, fake_agent, workflow_file):
    agent = fake_agent()
    seen = []
    async with open_mesh() as mesh:
        await started(mesh, serve, agent)
        workflow = await mesh.read_workflow(workflow_file)
        await mesh.profile(workflow, options=QUICK, report=seen.append)
        (profiles,) = mesh.fleet.profiles.values()
        assert sorted(p.variant for p in profiles.values()) == ["v3", "v4"]
        assert {p.subject for p in seen} == {"ocr-detect/v3", "ocr-detect/v4"}
        assert seen[-1].doing == "measured, 50 ms ± 1 %"
        assert (seen[0].tally.done, seen[0].tally.total) == (0, 2)
        assert (seen[-1].tally.done, seen[-1].tally.total) == (2, 2)
        assert agent.calls.count("profile") == 2
        await mesh.profile(workflow, options=QUICK)
        assert agent.calls.count("profile") == 2
        await mesh.profile(workflow, options=QUICK, again=True)
        assert agent.calls.count("profile") == 4
    async with open_mesh() as mesh:
        assert len(next(iter(mesh.fleet.profiles.values()))) == 2


async def test_devices_of_a_host_take_turns_and_hosts_do_not_wait_for_each_other(
    open_mesh, serve, fake_agent, workflow_file, gauge
):
    agents = [
        fake_agent(f"dev-{host}-{i}", host=host, slowdown=1.0 + i) for host in "ab" for i in (1, 2)
    ]
    release = asyncio.Event()
    for agent in agents:
        agent.gauge = gauge
        agent.hold["measure"] = release
    async with open_mesh() as mesh:
        await started(mesh, serve, *agents)
        workflow = await mesh.read_workflow(workflow_file)
        both = asyncio.Event()

        def report(progress):
            if gauge.all_now == 2:
                both.set()

        profiling = asyncio.ensure_future(mesh.profile(workflow, options=QUICK, report=report))
        await asyncio.wait_for(both.wait(), 20)
        release.set()
        await profiling
    assert gauge.most == {"a": 1, "b": 1}
    assert gauge.all_most == 2


async def test_a_failing_device_does_not_stop_the_others(
    open_mesh, serve, fake_agent, workflow_file
):
    bad, good = fake_agent("bad", host="a", threads=1), fake_agent("good", host="b", threads=2)
    bad.fail["profile"] = Unsupported("the sensor is too hot")
    async with open_mesh() as mesh:
        await started(mesh, serve, bad, good)
        await mesh.profile(await mesh.read_workflow(workflow_file), options=QUICK)
        assert len(mesh.fleet.profiles[mesh.fleet.devices["good"].device_class]) == 2
        failures = mesh.fleet.profile_failures["bad"]
        assert len(failures) == 2
        assert all("too hot" in why for why in failures.values())


async def test_a_device_that_dies_in_the_middle_is_a_failure_with_a_reason(
    open_mesh, serve, fake_agent, workflow_file
):
    agent = fake_agent()
    agent.hold["measure"] = asyncio.Event()
    async with open_mesh() as mesh:
        await started(mesh, serve, agent)
        workflow = await mesh.read_workflow(workflow_file)
        measuring = asyncio.Event()
        profiling = asyncio.ensure_future(
            mesh.profile(workflow, options=QUICK, report=lambda p: p.done and measuring.set())
        )
        await asyncio.wait_for(measuring.wait(), 20)
        await serve.stop(agent)
        await profiling
        assert len(mesh.fleet.profile_failures["dev-1"]) == 2


async def test_a_variant_whose_runtime_is_missing_is_a_profile_that_says_so(
    open_mesh, serve, fake_agent, workflow_file, ladders
):
    ladders.add("ocr-detect", "tiny", runtime="litert")
    agent = fake_agent()
    async with open_mesh() as mesh:
        await started(mesh, serve, agent)
        await mesh.profile(await mesh.read_workflow(workflow_file), options=QUICK)
        (profiles,) = mesh.fleet.profiles.values()
        by_name = {p.variant: p.cannot_run for p in profiles.values()}
        assert by_name == {"v3": None, "v4": None, "tiny": "the runtime litert is not installed"}


async def test_a_profile_of_a_device_that_changed_meanwhile_is_not_kept(
    open_mesh, serve, fake_agent, workflow_file
):
    agent = fake_agent()
    async with open_mesh() as mesh:
        await started(mesh, serve, agent)
        agent.threads = 7
        await mesh.profile(await mesh.read_workflow(workflow_file), options=QUICK)
        assert mesh.fleet.profiles == {}
        assert all("changed" in why for why in mesh.fleet.profile_failures["dev-1"].values())


async def test_what_was_measured_is_kept_when_measuring_is_interrupted(
    open_mesh, serve, fake_agent, workflow_file
):
    agent = fake_agent()
    async with open_mesh() as mesh:
        await started(mesh, serve, agent)
        workflow = await mesh.read_workflow(workflow_file)
        second = asyncio.Event()

        def report(progress):
            if progress.tally.done == 1:
                agent.hold["measure"] = asyncio.Event()
                second.set()

        profiling = asyncio.ensure_future(mesh.profile(workflow, options=QUICK, report=report))
        await asyncio.wait_for(second.wait(), 20)
        profiling.cancel()
        await asyncio.gather(profiling, return_exceptions=True)
    async with open_mesh() as mesh:
        (profiles,) = mesh.fleet.profiles.values()
        assert len(profiles) == 1
        happened = [e.event for e in await mesh.history(kinds=["profile-measured"])]
        assert [(event.number, event.total) for event in happened] == [(1, 2)]
