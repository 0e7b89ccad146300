"""Rolling back, draining, and taking up what a killed coordinator left, over the wire."""

from __future__ import annotations

import pytest

from coordinator.fleet import validate
from coordinator.fleet.lifecycle import Phase, RolloutOutcome
from coordinator.keeping.draining import Draining, undo
from coordinator.profiling.profiler import ProfileOptions
from tiermesh.errors import (
    DigestMismatch,
    Infeasible,
    InvalidDocument,
    StorageFull,
    TiermeshError,
    Unsupported,
)

QUICK = ProfileOptions(batch_sizes=(1, 2), time_limit_s=5.0)


class Ready:
    """A mesh of three profiled devices, and plans made by hand for it."""

    def __init__(self, mesh, agents, workflow, make_plan):
        self.mesh = mesh
        self.agents = agents
        self.workflow = workflow
        self.make_plan = make_plan

    async def apply(self, *devices, **options):
        problem = await self.mesh.problem(self.workflow)
        plan = self.make_plan(problem, devices, **options)
        await self.mesh.plan_made(plan)
        return await self.mesh.apply(plan)

    async def look_again(self):
        await self.mesh.discover(browse=False)

    @property
    def running(self):
        return self.mesh.fleet.running["read"]

    @property
    def generations(self):
        return {a.name: a.generations.get("read") for a in self.agents}


@pytest.fixture
async def agents(serve, fake_agent):
    return await serve.start(
        fake_agent("dev-1", host="a"),
        fake_agent("dev-2", host="b", price=0.2),
        fake_agent("dev-3", host="c", price=0.3),
    )


@pytest.fixture
async def ready(open_mesh, agents, workflow_file, make_plan):
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        workflow = await mesh.read_workflow(workflow_file)
        await mesh.profile(workflow, options=QUICK)
        yield Ready(mesh, agents, workflow, make_plan)


# --- rollback ----------------------------------------------------------------------------------------------------


async def test_a_rollback_brings_back_the_plan_before_as_a_new_generation(ready):
    first = await ready.apply("dev-1")
    await ready.apply("dev-2", source="dev-1")
    back = await ready.mesh.roll_back("read")
    assert (back.outcome, back.generation, back.plan) == (RolloutOutcome.COMMITTED, 3, first.plan)
    assert (ready.running.plan, ready.running.run) == (first.plan, "run-1"), "the run goes on"
    assert ready.generations == {"dev-1": 3, "dev-2": None, "dev-3": None}


async def test_each_rollback_goes_one_plan_further_back(ready):
    plans = [(await ready.apply(name, source="dev-1")).plan for name in ("dev-1", "dev-2", "dev-3")]
    assert (await ready.mesh.roll_back("read")).plan == plans[1]
    assert (await ready.mesh.roll_back("read")).plan == plans[0]
    with pytest.raises(TiermeshError, match="nothing to roll `read` back to") as caught:
        await ready.mesh.roll_back("read")
    assert "no other plan served it before" in caught.value.why


async def test_a_new_run_and_a_failed_rollout_are_no_steps_on_the_way_back(ready):
    first = await ready.apply("dev-1")
    second = await ready.apply("dev-2", source="dev-1")
    await ready.mesh.apply(ready.mesh.fleet.plans[second.plan].plan, run="evening")
    ready.agents[2].fail["prepare"] = StorageFull("no room")
    assert (await ready.apply("dev-3", source="dev-1")).outcome is RolloutOutcome.ABORTED
    del ready.agents[2].fail["prepare"]
    ready.agents[2].fail["commit"] = Unsupported("it lost its model")
    broken = await ready.apply("dev-3", source="dev-1")
    assert broken.restored.plan == second.plan
    assert (await ready.mesh.roll_back("read")).plan == first.plan


async def test_a_rollback_that_fails_is_undone_and_can_be_tried_again(ready):
    first = await ready.apply("dev-1")
    second = await ready.apply("dev-2", source="dev-1")
    ready.agents[0].fail["prepare"] = StorageFull("no room")
    failed = await ready.mesh.roll_back("read")
    assert (failed.outcome, failed.exit_code) == (RolloutOutcome.ABORTED, 4)
    assert ready.running.plan == second.plan
    ready.agents[0].fail.clear()
    assert (await ready.mesh.roll_back("read")).plan == first.plan


async def test_a_plan_that_no_longer_fits_is_refused_with_the_reason(ready, serve):
    await ready.apply("dev-2", source="dev-1")
    await ready.apply("dev-1")
    ready.agents[2].price = 9.0
    await ready.look_again()
    ready.mesh.rolling_back("read")  # what the plan does not use does not matter
    await serve.stop(ready.agents[1])
    await ready.look_again()
    with pytest.raises(DigestMismatch, match="no longer fits the fleet") as caught:
        await ready.mesh.roll_back("read")
    assert "dev-2 is suspect" in caught.value.why
    assert ready.generations["dev-1"] == 2


async def test_a_plan_for_a_device_that_changed_is_refused(ready):
    await ready.apply("dev-2", source="dev-1")
    await ready.apply("dev-1")
    ready.agents[1].threads = 8
    await ready.look_again()
    with pytest.raises(DigestMismatch) as caught:
        ready.mesh.rolling_back("read")
    assert "dev-2 is another device, or has changed" in caught.value.why


async def test_nothing_runs_so_nothing_is_rolled_back(ready):
    with pytest.raises(InvalidDocument, match="`read` does not run"):
        await ready.mesh.roll_back("read")


# --- drain -------------------------------------------------------------------------------------------------------


async def test_a_drained_device_serves_nothing_and_is_left_out_until_undone(ready):
    await ready.apply("dev-2", source="dev-1")
    device = ready.mesh.fleet.named("dev-2")
    draining = await Draining.of(ready.mesh, device)
    (applied,) = await draining.carry_out()
    assert applied.outcome is RolloutOutcome.COMMITTED
    assert applied.phases["dev-2"] is Phase.STOPPED, "its requests in flight have ended"
    assert "dev-2" not in {r.device for r in draining.moves[0].after.replicas}
    assert ready.generations["dev-2"] is None
    await ready.look_again()
    drained = ready.mesh.fleet.named("dev-2")
    assert drained.state == "draining", "also once it answers again"
    assert "dev-2" not in {d.name for d in (await ready.mesh.problem(ready.workflow)).devices}
    await undo(ready.mesh, drained)
    assert ready.mesh.fleet.named("dev-2").state == "ready"


async def test_what_cannot_be_served_without_it_is_infeasible_and_nothing_changes(ready):
    await ready.apply("dev-1", "dev-2", "dev-3")
    for name in ("dev-2", "dev-3"):
        await (await Draining.of(ready.mesh, ready.mesh.fleet.named(name))).carry_out()
    before, calls = ready.mesh.fleet, [list(a.calls) for a in ready.agents]
    with pytest.raises(Infeasible, match="dev-1 cannot be drained") as caught:
        await Draining.of(ready.mesh, ready.mesh.fleet.named("dev-1"))
    assert "no device is ready" in caught.value.why
    assert caught.value.exit_code == 3
    assert ready.mesh.fleet == before
    assert [a.calls for a in ready.agents] == calls


async def test_a_drain_whose_rollout_fails_is_taken_back(ready):
    first = await ready.apply("dev-2", source="dev-1")
    draining = await Draining.of(ready.mesh, ready.mesh.fleet.named("dev-2"))
    for agent in ready.agents:
        agent.fail["prepare"] = StorageFull("no room")
    (applied,) = await draining.carry_out()
    assert applied.exit_code == 4
    assert ready.mesh.fleet.named("dev-2").state == "ready"
    assert ready.running.plan == first.plan


async def test_a_device_on_which_nothing_runs_is_only_marked(ready):
    await ready.apply("dev-1")
    draining = await Draining.of(ready.mesh, ready.mesh.fleet.named("dev-3"))
    assert draining.moves == []
    assert await draining.carry_out() == []
    assert ready.mesh.fleet.named("dev-3").state == "draining"


# --- a coordinator that dies -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a SIGKILL: nothing that the coordinator would do afterwards is done."""


def killed_at(mesh, number):
    """Have the mesh die right after its `number`-th event from now on is on disk."""
    left = number
    append = mesh._journal.append

    def dying(events):
        nonlocal left
        for event in events:
            if left <= 0:
                raise Killed
            append([event])
            left -= 1
        if left <= 0:
            raise Killed

    mesh._journal.append = dying


def consistent(agents, fleet):
    """All devices on the one generation that the coordinator believes in, and nothing prepared."""
    validate(fleet)
    running = fleet.running.get("read")
    expected = dict.fromkeys(running.devices, running.generation) if running else {}
    assert {a.device: a.generations["read"] for a in agents if "read" in a.generations} == expected
    assert all(a.prepared == {} for a in agents)
    assert all(r.outcome not in (None, RolloutOutcome.BROKEN) for r in fleet.rollouts.values())


FAILURES = [None, ("prepare", StorageFull("no room")), ("commit", Unsupported("no model"))]


# What is killed in the middle of a push has a file open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("failure", FAILURES, ids=["good", "prepare-fails", "commit-fails"])
async def test_killed_after_any_event_of_a_rollout_and_of_its_settling_it_ends_consistent(
    open_mesh, agents, workflow_file, make_plan, failure
):
    """Kill at event N for every N, then again in the middle of settling, and settle at last."""
    async with open_mesh() as mesh:
        await mesh.discover([a.address for a in agents], browse=False)
        workflow = await mesh.read_workflow(workflow_file)
        await mesh.profile(workflow, options=QUICK)
        ready = Ready(mesh, agents, workflow, make_plan)
        await ready.apply("dev-1")
        problem = await mesh.problem(workflow)
        plan = make_plan(problem, ["dev-2", "dev-3"], source="dev-2")
        await mesh.plan_made(plan)
    ends = set()
    for number in range(1, 40):
        if failure:
            agents[2].fail[failure[0]] = failure[1]
        died = await dies(open_mesh, number, lambda mesh: mesh.apply(plan))
        await dies(open_mesh, 1 + number % 4, lambda mesh: mesh.settle())
        agents[2].fail.clear()
        async with open_mesh() as mesh:
            await mesh.settle()
            consistent(agents, mesh.fleet)
            ends.add(mesh.fleet.rollouts["read"].outcome)
            await mesh.discover(browse=False)
            if mesh.fleet.running["read"].plan == plan.digest:
                await mesh.roll_back("read")
        if not died:
            break
    else:
        raise AssertionError("the rollout never came to its end")
    assert RolloutOutcome.ABORTED in ends
    assert ends & {RolloutOutcome.COMMITTED, RolloutOutcome.RESTORED} or failure == FAILURES[1]


async def dies(open_mesh, number, work):
    """Whether the coordinator died before it was done."""
    try:
        async with open_mesh() as mesh:
            killed_at(mesh, number)
            mesh.close = mesh.channels.close
            await work(mesh)
    except (Killed, BaseExceptionGroup):
        return True
    return False
