"""Rollouts over the wire: everything or nothing, and what ran before is never lost."""

import asyncio

import pytest

from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.profiling.profiler import ProfileOptions
from tiermesh.errors import (
    DigestMismatch,
    InvalidDocument,
    StaleGeneration,
    StorageFull,
    Unsupported,
)

QUICK = ProfileOptions(batch_sizes=(1, 2), time_limit_s=5.0)


class Ready:
    """A mesh with two profiled devices, a problem, and the agents behind it."""

    def __init__(self, mesh, agents, workflow, problem, make_plan):
        self.mesh = mesh
        self.agents = agents
        self.workflow = workflow
        self.problem = problem
        self.make_plan = make_plan

    async def plan(self, *devices, **options):
        plan = self.make_plan(self.problem, devices or ["dev-1", "dev-2"], **options)
        await self.mesh.plan_made(plan)
        return plan


@pytest.fixture
async def ready(open_mesh, serve, fake_agent, workflow_file, make_plan):
    agents = await serve.start(
        fake_agent("dev-1", host="a"), fake_agent("dev-2", host="b", price=0.2)
    )
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        workflow = await mesh.read_workflow(workflow_file)
        await mesh.profile(workflow, options=QUICK)
        problem = await mesh.problem(workflow, source_bytes={"photos": 50_000.0})
        yield Ready(mesh, agents, workflow, problem, make_plan)


async def test_a_plan_is_pushed_prepared_and_committed_everywhere(ready):
    seen = []
    plan = await ready.plan()
    applied = await ready.mesh.apply(plan, report=seen.append)
    assert applied.outcome is RolloutOutcome.COMMITTED
    assert (applied.generation, applied.run, applied.exit_code) == (1, "run-1", 0)
    for agent in ready.agents:
        assert agent.generations == {"read": 1}
        assert agent.calls.index("prepare") < agent.calls.index("commit")
    assert ready.mesh.fleet.running["read"].plan == plan.digest
    assert {p.doing for p in seen} >= {"push", "prepared", "committed"}


async def test_the_same_plan_again_changes_nothing(ready):
    plan = await ready.plan()
    await ready.mesh.apply(plan)
    await ready.mesh.discover(browse=False)
    before = [list(a.calls) for a in ready.agents]
    again = await ready.mesh.apply(plan)
    assert again.unchanged
    assert again.generation == 1
    assert [list(a.calls) for a in ready.agents] == before


async def test_a_new_run_of_the_same_plan_is_a_new_generation(ready):
    plan = await ready.plan()
    await ready.mesh.apply(plan)
    applied = await ready.mesh.apply(plan, run="evening")
    assert (applied.generation, applied.run) == (2, "evening")


async def test_a_device_that_is_left_out_stops_after_the_others_have_switched(ready):
    await ready.mesh.apply(await ready.plan())
    applied = await ready.mesh.apply(await ready.plan("dev-1"))
    assert applied.outcome is RolloutOutcome.COMMITTED
    assert applied.run == "run-1", "what runs goes on"
    assert ready.agents[0].generations == {"read": 2}
    assert ready.agents[1].generations == {}
    assert "stop" not in ready.agents[0].calls


@pytest.mark.parametrize("step", ["stat", "prepare", "load"])
async def test_a_failure_before_the_switch_aborts_everywhere_and_what_ran_runs_on(ready, step):
    first = await ready.plan("dev-1")
    await ready.mesh.apply(first)
    ready.agents[1].fail[step] = StorageFull("no room left", fix="Free some")
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.outcome is RolloutOutcome.ABORTED
    assert applied.exit_code == 4
    assert "no room left" in applied.failures["dev-2"]
    assert ready.agents[0].generations == {"read": 1}
    assert ready.agents[0].prepared == {}
    assert "commit" not in ready.agents[1].calls
    assert ready.mesh.fleet.running["read"].plan == first.digest


async def test_a_failure_while_switching_restores_what_ran(ready):
    first = await ready.plan("dev-1")
    await ready.mesh.apply(first)
    ready.agents[1].fail["commit"] = Unsupported("it lost its model")
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.outcome is RolloutOutcome.BROKEN
    assert applied.restored.outcome is RolloutOutcome.RESTORED
    assert applied.exit_code == 4
    assert ready.agents[0].generations == {"read": 3}
    running = ready.mesh.fleet.running["read"]
    assert (running.plan, running.generation, running.run) == (first.digest, 3, "run-1")


async def test_a_failure_while_switching_for_the_first_time_leaves_nothing_running(ready):
    ready.agents[1].fail["commit"] = Unsupported("it lost its model")
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.exit_code == 4
    assert ready.agents[0].generations == {}
    assert ready.mesh.fleet.running == {}


async def test_a_device_that_died_aborts_the_rollout(ready, serve):
    await serve.stop(ready.agents[1])
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.outcome is RolloutOutcome.ABORTED
    assert "does not answer" in applied.failures["dev-2"]
    assert ready.agents[0].generations == {}


async def test_a_plan_for_another_workflow_is_refused(ready, workflow_file, tmp_path):
    plan = await ready.plan()
    other = tmp_path / "other.yaml"
    other.write_text(workflow_file.read_text().replace("rate: 4/s\n  raw", "rate: 5/s\n  raw"))
    changed = await ready.mesh.read_workflow(other)
    assert changed.digest != ready.workflow.digest
    with pytest.raises(DigestMismatch, match="another version of the workflow"):
        await ready.mesh.apply(plan, workflow=changed)
    assert all("prepare" not in a.calls for a in ready.agents)


async def test_a_plan_for_a_workflow_nobody_saw_is_refused(ready, make_plan):
    from msgspec.structs import replace

    plan = await ready.plan()
    strange = replace(plan, made_for=replace(plan.made_for, workflow="sha256:" + "0" * 64))
    with pytest.raises(DigestMismatch, match="not known here"):
        await ready.mesh.apply(strange)


async def test_a_plan_for_another_fleet_is_refused_and_says_what_changed(ready, serve, fake_agent):
    plan = await ready.plan()
    ready.agents[0].price = 0.4
    (third,) = await serve.start(fake_agent("dev-3", host="c"))
    await ready.mesh.discover([third.address], browse=False)
    with pytest.raises(DigestMismatch, match="the fleet is not the one") as caught:
        await ready.mesh.apply(plan)
    assert "device dev-1: price_per_hour was 0.1, is 0.4" in caught.value.why
    assert "device dev-3 is new" in caught.value.why
    assert all("prepare" not in a.calls for a in ready.agents)


async def test_a_plan_is_refused_when_a_device_it_needs_is_gone(ready, serve):
    plan = await ready.plan()
    await serve.stop(ready.agents[1])
    await ready.mesh.discover(browse=False)
    with pytest.raises(DigestMismatch) as caught:
        await ready.mesh.apply(plan)
    assert "device dev-2 is gone" in caught.value.why


async def test_a_plan_that_was_edited_is_refused(ready):
    from msgspec.structs import replace

    plan = await ready.plan()
    with pytest.raises(InvalidDocument, match=r"\$\.lanes"):
        await ready.mesh.apply(replace(plan, lanes=plan.lanes[:1]))
    moved = [replace(plan.replicas[0], device="nowhere"), *plan.replicas[1:]]
    with pytest.raises(InvalidDocument, match=r"replicas\[0\]\.device"):
        await ready.mesh.apply(replace(plan, replicas=moved))
    device = next(r.device for r in plan.replicas if r.device != plan.replicas[0].device)
    moved = [replace(plan.replicas[0], device=device), *plan.replicas[1:]]
    with pytest.raises(InvalidDocument, match=rf"replicas\[0\]\.id.*is not on {device}"):
        await ready.mesh.apply(replace(plan, replicas=moved))


async def test_a_generation_that_a_device_knows_is_never_given_out_again(ready):
    ready.agents[0].generations = {"read": 7}
    await ready.mesh.discover(browse=False)
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.generation == 8


async def test_a_device_that_runs_something_newer_refuses(ready):
    ready.agents[0].fail["prepare"] = StaleGeneration("generation 9 runs here")
    applied = await ready.mesh.apply(await ready.plan())
    assert applied.outcome is RolloutOutcome.ABORTED
    assert "generation 9" in applied.failures["dev-1"]


async def test_an_interrupted_rollout_is_given_up_first(ready):
    ready.agents[1].hold["prepare"] = asyncio.Event()
    prepared = asyncio.Event()

    def report(progress):
        if progress.doing == "prepared":
            prepared.set()

    applying = asyncio.ensure_future(ready.mesh.apply(await ready.plan(), report=report))
    await asyncio.wait_for(prepared.wait(), 20)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    rollout = ready.mesh.fleet.rollouts["read"]
    assert rollout.outcome is RolloutOutcome.ABORTED
    assert rollout.cancelled == "interrupted"
    assert ready.agents[0].prepared == {}


async def test_a_rollout_that_a_dead_coordinator_left_open_is_settled_first(ready):
    from coordinator.fleet.events import ArtifactsPushed, RolloutPrepared, RolloutStarted
    from coordinator.fleet.state import Catalogue

    plan = await ready.plan()
    step = {"at": 1.0, "who": "ada", "workflow": "read", "generation": 5}
    await ready.mesh.record(
        RolloutStarted(
            **step,
            plan=plan.digest,
            workflow_digest=ready.workflow.digest,
            run="old",
            purpose="apply",
            catalogue=Catalogue(),
            devices=["dev-1", "dev-2"],
        ),
        ArtifactsPushed(**step, device="dev-1"),
        ArtifactsPushed(**step, device="dev-2"),
        RolloutPrepared(**step, device="dev-1"),
    )
    applied = await ready.mesh.apply(plan)
    assert applied.outcome is RolloutOutcome.COMMITTED
    assert applied.generation == 6
    kinds = [e.event.kind for e in await ready.mesh.history(about="read")]
    assert "rollout-cancelled" in kinds
    assert all("abort" in a.calls for a in ready.agents)


async def test_a_preview_touches_nothing_and_counts_the_bytes(ready, ladders):
    big = ladders.add("ocr-detect", "v9", content=b"9" * 5_000)
    await ready.mesh.profile(ready.workflow, options=QUICK)
    for agent in ready.agents:
        agent.store.clear()
    ready.problem = await ready.mesh.problem(ready.workflow)
    plan = await ready.plan("dev-2", variant="v9")
    parts = {p.device: p for p in await (await ready.mesh.applying(plan)).preview()}
    assert parts["dev-2"].lacking_bytes == sum(a.size_bytes for a in big.artifacts)
    assert parts["dev-1"].lacking_bytes == 0
    assert all("prepare" not in a.calls for a in ready.agents)
    assert ready.mesh.fleet.rollouts == {}


async def test_assignments_carry_what_devices_need_to_serve_alone(ready):
    from tiermesh.documents.assignment import Assignment

    plan = await ready.plan()
    await ready.mesh.apply(plan)
    parts = await (await ready.mesh.applying(await ready.plan("dev-2"))).preview(run="next")
    (assignment,) = [p.assignment for p in parts if p.device == "dev-2"]
    assert isinstance(assignment, Assignment)
    assert assignment.peers["dev-1"].address == ready.agents[0].data_address
    assert set(assignment.replica_devices.values()) == {"dev-1", "dev-2"}
    assert [r.stage for r in assignment.replicas] == ["detect"]
    variant, source = assignment.replicas[0].variant, assignment.stages["photos"].source
    assert variant is not None
    assert source is not None
    assert (variant.name, source.rate_rps) == ("v3", 4.0)
    assert assignment.stages["detect"].outputs == ["text"]
    assert (assignment.run, assignment.generation) == ("next", 2)
