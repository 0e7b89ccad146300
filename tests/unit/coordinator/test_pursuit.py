"""The loop around `decide`: bounded, complete, and quick for a thousand devices."""

import asyncio

import pytest

from coordinator.fleet import Desired, Fleet, apply, validate
from coordinator.fleet.events import (
    ArtifactsPushed,
    DeviceDiscovered,
    RolloutAborted,
    RolloutCancelled,
    RolloutHeld,
    RolloutStarted,
)
from coordinator.fleet.instructions import AbortGeneration, Push
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.fleet.state import Catalogue
from coordinator.journal.reconcile import Pursuit


class Keeper:
    """The state in memory."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.change = asyncio.Event()

    async def record(self, *happened):
        for event in happened:
            self.fleet = apply(event, self.fleet)
        changed, self.change = self.change, asyncio.Event()
        changed.set()


@pytest.fixture
def keeper():
    keeper = Keeper()
    yield keeper
    validate(keeper.fleet)


def sighted(key):
    return DeviceDiscovered(at=1.0, who="t", sighting=key, addresses=[key], via="static")


async def test_a_thousand_devices_are_described_a_few_at_a_time(keeper, made):
    names = [f"d{i:04}" for i in range(1_000)]
    await keeper.record(*(sighted(name) for name in names))
    now = most = 0

    async def work(instruction):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return [made.described(instruction.sighting, at=5.0)]

    await Pursuit(keeper, Desired(described={}), work, parallel=32).run()
    assert [d.name for d in keeper.fleet.ready] == names
    assert 1 < most <= 32


async def test_it_ends_as_soon_as_there_is_enough_and_cancels_the_rest(keeper, made):
    await keeper.record(sighted("quick"), sighted("stuck"))
    cancelled = []

    async def work(instruction):
        if instruction.sighting == "stuck":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(instruction)
        return [made.described(instruction.sighting)]

    pursuit = Pursuit(
        keeper, Desired(described={}), work, enough=lambda fleet: len(fleet.ready) == 1
    )
    await asyncio.wait_for(pursuit.run(), 10)
    assert len(cancelled) == 1


async def test_what_others_record_meanwhile_is_new_work(keeper, made):
    done = asyncio.Event()

    async def work(instruction):
        done.set()
        return [made.described(instruction.sighting)]

    pursuing = asyncio.ensure_future(
        Pursuit(
            keeper,
            Desired(described={}),
            work,
            enough=lambda fleet: bool(fleet.ready),
            linger_s=30.0,
        ).run()
    )
    await asyncio.sleep(0)
    await keeper.record(sighted("late"))
    await asyncio.wait_for(pursuing, 10)
    assert done.is_set()


async def test_steps_of_a_rollout_that_was_given_up_are_cancelled_and_aborted(keeper):
    step = {"at": 1.0, "who": "t", "workflow": "read", "generation": 1}
    started = RolloutStarted(
        **step,
        plan="p",
        workflow_digest="w",
        run="r",
        purpose="apply",
        catalogue=Catalogue(),
        devices=["a"],
    )
    await keeper.record(started)
    pushing = asyncio.Event()

    async def work(instruction):
        from coordinator.fleet.events import RolloutAborted

        if isinstance(instruction, Push):
            pushing.set()
            await asyncio.Event().wait()
        assert isinstance(instruction, AbortGeneration)
        return [RolloutAborted(**step, device="a")]

    desired = Desired(workflows=frozenset({"read"}))
    pursuing = asyncio.ensure_future(Pursuit(keeper, desired, work).run())
    await asyncio.wait_for(pushing.wait(), 10)
    await keeper.record(RolloutCancelled(**step, why="no more"))
    await asyncio.wait_for(pursuing, 10)
    assert keeper.fleet.rollouts["read"].outcome is RolloutOutcome.ABORTED


async def test_what_nobody_expected_ends_it(keeper):
    await keeper.record(sighted("a"), sighted("b"))

    async def work(instruction):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Pursuit(keeper, Desired(described={}), work).run()


def held(hold):
    return RolloutHeld(at=2.0, who="me", workflow="read", generation=1, hold=hold)


async def test_a_rollout_that_is_held_waits_until_it_is_let_go_on(keeper, made):
    step = {"at": 1.0, "who": "me", "workflow": "read", "generation": 1}
    await keeper.record(made.described("a"))
    await keeper.record(
        RolloutStarted(
            **step,
            plan="p",
            workflow_digest="w",
            run="r",
            purpose="apply",
            catalogue=Catalogue(),
            devices=["a"],
        ),
        held(True),
    )
    begun = asyncio.Event()

    async def work(instruction):
        if isinstance(instruction, Push):
            begun.set()
            return [ArtifactsPushed(**step, device="a")]
        return [RolloutCancelled(**step, why="enough")]

    desired = Desired(workflows=frozenset({"read"}))
    enough = lambda fleet: bool(fleet.rollouts["read"].cancelled)  # noqa: E731
    pursuing = asyncio.ensure_future(Pursuit(keeper, desired, work, enough=enough).run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not begun.is_set()
    assert not pursuing.done()
    await keeper.record(held(False))
    await asyncio.wait_for(pursuing, 10)
    assert begun.is_set()


async def test_a_rollout_that_is_held_can_be_given_up(keeper, made):
    step = {"at": 1.0, "who": "me", "workflow": "read", "generation": 1}
    await keeper.record(made.described("a"))
    await keeper.record(
        RolloutStarted(
            **step,
            plan="p",
            workflow_digest="w",
            run="r",
            purpose="apply",
            catalogue=Catalogue(),
            devices=["a"],
        ),
        held(True),
        RolloutCancelled(**step, why="no more"),
    )
    seen = []

    async def work(instruction):
        seen.append(type(instruction))
        return [RolloutAborted(**step, device="a")]

    await asyncio.wait_for(Pursuit(keeper, Desired(workflows=frozenset({"read"})), work).run(), 10)
    assert seen == [AbortGeneration]
    assert keeper.fleet.rollouts["read"].outcome is RolloutOutcome.ABORTED
