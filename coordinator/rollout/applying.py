"""Applying a plan: check it against what it was made for, roll it out, go back when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from coordinator.channels import Channels
from coordinator.files import parse_workflow
from coordinator.fleet import Desired, events
from coordinator.fleet.file import FleetFile
from coordinator.fleet.lifecycle import EXIT_CODES, Outcome, Phase
from coordinator.fleet.state import Catalogue, Device, Purpose, Rollout, Running
from coordinator.planning.snapshot import changes, inputs_of
from coordinator.progress import Report, silent
from coordinator.pursuit import Pursuit, Recording
from coordinator.pushing import PathOf, Pushing
from coordinator.rollout.assignment import assignments, check
from coordinator.rollout.rolling import RollingOut
from tiermesh import ids
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import DigestMismatch, TiermeshError


class Keeper(Recording, Protocol):
    """Who keeps the state, and knows the network, the time and who is asking."""

    now: Callable[[], float]
    who: str
    network: FleetFile


@dataclass(frozen=True, slots=True)
class Applied:
    """How a rollout ended. `phases` and `failures` are by device name, `sent_bytes` too.

    `restored` tells of the rollout that followed when devices had already switched; `unchanged` that
    the plan already ran everywhere.
    """

    workflow: str
    plan: str
    generation: int
    run: str
    outcome: Outcome
    phases: Mapping[str, Phase]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    sent_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    unchanged: bool = False
    restored: Applied | None = None

    @property
    def exit_code(self) -> int:
        """0 when the plan runs; 4 when it was partly applied and rolled back."""
        return EXIT_CODES[self.restored.outcome if self.restored else self.outcome]


@dataclass(frozen=True, slots=True)
class Part:
    """What a device would get. `lacking_bytes` is None where the device did not say (`why`)."""

    device: str
    assignment: Assignment
    lacking_bytes: int | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A plan with all that its assignments follow from."""

    plan: Plan
    workflow: Workflow
    catalogue: Catalogue


class Applying:
    """One plan on its way to the devices."""

    def __init__(
        self,
        keeper: Keeper,
        channels: Channels,
        target: Target,
        path_of: PathOf,
        *,
        report: Report = silent,
    ) -> None:
        self._keeper = keeper
        self._channels = channels
        self._target = target
        self._path_of = path_of
        self._report = report
        self._name = target.plan.workflow

    def check(self) -> None:
        """Refuse a plan whose workflow or fleet has moved on, or that cannot be served as written.

        Raises:
            DigestMismatch: naming what changed.
            InvalidDocument: the plan does not fit the workflow.
        """
        plan, workflow = self._target.plan, self._target.workflow
        if plan.made_for.workflow != workflow.digest:
            raise DigestMismatch(
                f"this plan was made for another version of the workflow `{workflow.workflow}`",
                why=f"it names {plan.made_for.workflow or 'none'}, and the file is {workflow.digest}",
                fix="Plan again: coordinator plan",
                expected=plan.made_for.workflow,
                found=workflow.digest,
            )
        self._check_fleet()
        check(plan, workflow, self._target.catalogue, self._ready())

    def _check_fleet(self) -> None:
        plan, fleet = self._target.plan, self._keeper.fleet
        now = inputs_of(fleet, self._target.workflow, self._target.catalogue, self._keeper.network)
        found = ids.digest_value(now)
        if plan.made_for.fleet == found:
            return
        record = fleet.plans.get(plan.digest)
        changed = changes(record.inputs, now) if record is not None else []
        raise DigestMismatch(
            "the fleet is not the one that this plan was made for",
            why="; ".join(changed[:10])
            or f"the plan names {plan.made_for.fleet or 'none'}, and this fleet is {found}",
            fix="Plan again: coordinator plan",
            expected=plan.made_for.fleet,
            found=found,
            changed=changed,
        )

    def _ready(self) -> dict[str, Device]:
        return {device.name: device for device in self._keeper.fleet.ready}

    async def preview(self, run: str | None = None) -> list[Part]:
        """What each device would get, and how much would have to be sent; nothing is touched."""
        generation = self._keeper.fleet.next_generation(self._name)
        parts = self._assignments(self._target, generation, self._run(run, generation))
        return list(
            await asyncio.gather(*(self._part(device, part) for device, part in parts.items()))
        )

    async def _part(self, device_id: str, assignment: Assignment) -> Part:
        device = self._keeper.fleet.devices[device_id]
        try:
            pushing = Pushing(self._channels.to(device.address), device.name, self._path_of)
            lacking = await pushing.lacking(assignment.artifacts.values())
        except TiermeshError as error:
            return Part(device.name, assignment, None, str(error))
        return Part(device.name, assignment, lacking)

    async def apply(self, run: str | None = None) -> Applied:
        """Roll it out. A failure before any device has switched leaves what runs; one after restores it.

        When this is cancelled before all devices are prepared, the rollout is given up first.
        """
        await self._settle()
        self.check()
        running = self._keeper.fleet.running.get(self._name)
        if running is not None and run in (None, running.run) and self._runs_already(running):
            return self._applied_already(running)
        plan = self._target.plan
        if plan.digest not in self._keeper.fleet.plans:
            await self._keeper.record(
                events.PlanMade(
                    at=self._keeper.now(),
                    who=self._keeper.who,
                    workflow=self._name,
                    plan=plan,
                    inputs={},
                )
            )
        applied = await self._roll_out(self._target, "apply", run, self._left_behind())
        if applied.outcome is not Outcome.BROKEN:
            return applied
        restored = await self._restore(running, applied)
        return replace(applied, restored=restored)

    def _runs_already(self, running: Running) -> bool:
        plan, devices = self._target.plan, self._keeper.fleet.devices
        reported = {devices[d].description.generations.get(self._name, 0) for d in running.devices}
        return (
            running.plan == plan.digest
            and running.workflow_digest == self._target.workflow.digest
            and running.catalogue == self._target.catalogue
            and reported == {running.generation}
        )

    def _applied_already(self, running: Running) -> Applied:
        return Applied(
            workflow=self._name,
            plan=running.plan,
            generation=running.generation,
            run=running.run,
            outcome=Outcome.COMMITTED,
            phases={self._device_name(d): Phase.COMMITTED for d in running.devices},
            unchanged=True,
        )

    def _left_behind(self) -> set[str]:
        """The devices that may serve an older generation."""
        fleet = self._keeper.fleet
        running, last = fleet.running.get(self._name), fleet.rollouts.get(self._name)
        behind = set(running.devices if running is not None else ())
        if last is not None and last.outcome is Outcome.BROKEN:
            behind |= {d for d, phase in last.phases.items() if phase is Phase.COMMITTED}
        return behind

    async def _settle(self) -> None:
        """Bring a rollout that an earlier coordinator left open to an end."""
        rollout = self._keeper.fleet.rollouts.get(self._name)
        if rollout is None or rollout.outcome is not None:
            return
        work = self._work({})
        if not _past_return(rollout):
            await self._cancel(rollout, "the coordinator ended in the middle of it")
        await self._pursue(work)

    async def _restore(self, running: Running | None, broken: Applied) -> Applied:
        """Bring back what ran before, on the devices that still can, under a new generation."""
        if running is None:
            return await self._roll_out(None, "restore", broken.run, self._left_behind())
        fleet = self._keeper.fleet
        target = Target(
            plan=fleet.plans[running.plan].plan,
            workflow=parse_workflow(fleet.workflows[running.workflow_digest].text),
            catalogue=running.catalogue,
        )
        return await self._roll_out(target, "restore", running.run, self._left_behind())

    async def _roll_out(
        self, target: Target | None, purpose: Purpose, run: str | None, behind: set[str]
    ) -> Applied:
        fleet = self._keeper.fleet
        generation = fleet.next_generation(self._name)
        run = self._run(run, generation)
        parts = self._assignments(target, generation, run) if target is not None else {}
        work = self._work(parts)
        await self._keeper.record(
            events.RolloutStarted(
                at=self._keeper.now(),
                who=self._keeper.who,
                workflow=self._name,
                generation=generation,
                plan=target.plan.digest if target is not None else "",
                workflow_digest=target.workflow.digest if target is not None else "",
                run=run,
                purpose=purpose,
                catalogue=target.catalogue if target is not None else Catalogue(),
                devices=sorted(parts),
                leaving=sorted(behind - parts.keys()),
            )
        )
        await self._to_the_end(work)
        return self._applied(work)

    async def _to_the_end(self, work: RollingOut) -> None:
        try:
            await self._pursue(work)
        except asyncio.CancelledError:
            rollout = self._keeper.fleet.rollouts[self._name]
            if not _past_return(rollout):
                await self._cancel(rollout, "interrupted")
            await self._pursue(work)
            raise

    async def _pursue(self, work: RollingOut) -> None:
        desired = Desired(workflows=frozenset({self._name}))
        await Pursuit(self._keeper, desired, work).run()

    async def _cancel(self, rollout: Rollout, why: str) -> None:
        if rollout.outcome is None:
            await self._keeper.record(
                events.RolloutCancelled(
                    at=self._keeper.now(),
                    who=self._keeper.who,
                    workflow=self._name,
                    generation=rollout.generation,
                    why=why,
                )
            )

    def _run(self, run: str | None, generation: int) -> str:
        running = self._keeper.fleet.running.get(self._name)
        if run is not None:
            return run
        same = running is not None and running.workflow_digest == self._target.workflow.digest
        return running.run if running is not None and same else f"run-{generation}"

    def _assignments(self, target: Target, generation: int, run: str) -> dict[str, Assignment]:
        devices = {d.name: d for d in self._keeper.fleet.devices.values()}
        return assignments(
            target.plan,
            target.workflow,
            target.catalogue,
            devices,
            generation=generation,
            run=run,
        )

    def _work(self, parts: Mapping[str, Assignment]) -> RollingOut:
        return RollingOut(
            self._channels,
            self._keeper.fleet.devices,
            parts,
            self._path_of,
            now=self._keeper.now,
            report=self._report,
        )

    def _applied(self, work: RollingOut) -> Applied:
        rollout = self._keeper.fleet.rollouts[self._name]
        return Applied(
            workflow=self._name,
            plan=rollout.plan,
            generation=rollout.generation,
            run=rollout.run,
            outcome=rollout.outcome or Outcome.BROKEN,
            phases={self._device_name(d): phase for d, phase in rollout.phases.items()},
            failures={self._device_name(d): why for d, why in rollout.failures.items()},
            sent_bytes={self._device_name(d): sent for d, sent in work.sent_bytes.items()},
        )

    def _device_name(self, device_id: str) -> str:
        device = self._keeper.fleet.devices.get(device_id)
        return device.name if device is not None else device_id


def _past_return(rollout: Rollout) -> bool:
    """Whether a device may have been told to switch: from then on going forward is the safe way."""
    members = set(rollout.members.values())
    return not rollout.giving_up and members <= {Phase.PREPARED, Phase.COMMITTED}
