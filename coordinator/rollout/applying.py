"""Applying a plan: check it against what it was made for and against the fleet, then roll it out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from coordinator.artifacts.transfer import PathOf
from coordinator.fleet import events
from coordinator.fleet.lifecycle import Phase, RolloutOutcome
from coordinator.fleet.state import Device, Purpose, RunningPlan
from coordinator.planning.snapshot import changes, inputs_of
from coordinator.progress import Report, silent
from coordinator.rollout.assignment import check, refuse_functions
from coordinator.rollout.rollouts import RolloutContext, RolloutResult, Rollouts, Target
from coordinator.sessions.channels import Channels
from tiermesh import ids
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import DigestMismatch, TiermeshError

__all__ = ["Applying", "Part", "RolloutContext", "RolloutResult", "Target"]


@dataclass(frozen=True, slots=True)
class Part:
    """What a device would get. `lacking_bytes` is None where the device did not say (`why`)."""

    device: str
    assignment: Assignment
    lacking_bytes: int | None
    why: str = ""


class Applying:
    """One plan on its way to the devices.

    A plan that is applied must have been made for the fleet as it is. One that is rolled back to has served
    before: it only has to fit, on the devices that it uses.
    """

    def __init__(
        self,
        keeper: RolloutContext,
        channels: Channels,
        target: Target,
        path_of: PathOf,
        *,
        purpose: Purpose = "apply",
        report: Report = silent,
    ) -> None:
        self._keeper = keeper
        self._path_of = path_of
        self._purpose: Purpose = purpose
        self._name = target.plan.workflow
        self._rollouts = Rollouts(keeper, self._name, path_of, report=report)
        self.target = target

    def check(self) -> None:
        """Refuse a plan whose workflow or fleet has moved on, or that cannot be served as written.

        Raises:
            DigestMismatch: naming what changed.
            InvalidDocument: the plan does not fit the workflow.
            Unsupported: it uses functions, on which no agent runs.
        """
        plan, workflow = self.target.plan, self.target.workflow
        refuse_functions(plan)
        if plan.made_for.workflow != workflow.digest:
            raise DigestMismatch(
                f"this plan was made for another version of the workflow `{workflow.workflow}`",
                why=f"it names {plan.made_for.workflow or 'none'}, and the file is {workflow.digest}",
                fix="Replan: coordinator plan",
                expected=plan.made_for.workflow,
                found=workflow.digest,
            )
        if self._purpose == "rollback":
            self._check_devices()
        else:
            self._check_fleet()
        check(plan, workflow, self.target.catalogue, self._ready())

    def _check_fleet(self) -> None:
        plan, fleet = self.target.plan, self._keeper.fleet
        now = inputs_of(fleet, self.target.workflow, self.target.catalogue, self._keeper.network)
        found = ids.digest_value(now)
        if plan.made_for.fleet == found:
            return
        record = fleet.plans.get(plan.digest)
        changed = changes(record.inputs, now) if record is not None else []
        raise DigestMismatch(
            "the fleet is not the one that this plan was made for",
            why="; ".join(changed[:10])
            or f"the plan names {plan.made_for.fleet or 'none'}, and this fleet is {found}",
            fix="Replan: coordinator plan",
            expected=plan.made_for.fleet,
            found=found,
            changed=changed,
        )

    def _check_devices(self) -> None:
        """That every device that the plan uses is there, and as fast as it was when the plan was made."""
        fleet, ready = self._keeper.fleet, self._ready()
        inputs = fleet.plans[self.target.plan.digest].inputs
        changed: list[str] = []
        for name in sorted({r.device for r in self.target.plan.replicas}):
            device, before = fleet.named(name), inputs.get(f"device {name}", {})
            if name not in ready:
                state = f"is {device.state}: {device.why}" if device is not None else "is gone"
                changed.append(f"{name} {state}".rstrip(": "))
            elif before.get("class") not in (None, ready[name].device_class):
                changed.append(f"{name} is another device, or has changed, since")
        if changed:
            raise DigestMismatch(
                "the plan that served before no longer fits the fleet",
                why="; ".join(changed[:10]),
                fix="Replan: coordinator plan",
                changed=changed,
            )

    def _ready(self) -> dict[str, Device]:
        return {device.name: device for device in self._keeper.fleet.ready}

    async def preview(self, run: str | None = None) -> list[Part]:
        """What each device would get, and how much would have to be sent; nothing is touched."""
        generation = self._keeper.fleet.next_generation(self._name)
        run = self._rollouts.run_of(self.target, run)
        parts = self._rollouts.assignments(self.target, generation, run)
        return list(
            await asyncio.gather(*(self._part(device, part) for device, part in parts.items()))
        )

    async def _part(self, device_id: str, assignment: Assignment) -> Part:
        device = self._keeper.fleet.devices[device_id]
        try:
            artifacts = assignment.artifacts.values()
            lacking = await self._keeper.distribution.lacking(device, artifacts)
        except TiermeshError as error:
            return Part(device.name, assignment, None, str(error))
        return Part(device.name, assignment, lacking)

    async def apply(self, run: str | None = None) -> RolloutResult:
        """Roll it out. A failure before any device has switched leaves what runs; one after restores it.

        When this is cancelled before all devices are prepared, the rollout is given up first.
        """
        await self._rollouts.finish()
        self.check()
        running = self._keeper.fleet.running.get(self._name)
        if running is not None and run in (None, running.run) and self._runs_already(running):
            return self._applied_already(running)
        plan = self.target.plan
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
        return await self._rollouts.roll_out(self.target, self._purpose, run)

    def _runs_already(self, running: RunningPlan) -> bool:
        plan, devices = self.target.plan, self._keeper.fleet.devices
        reported = {devices[d].description.generations.get(self._name, 0) for d in running.devices}
        return (
            running.plan == plan.digest
            and running.workflow_digest == self.target.workflow.digest
            and running.catalogue == self.target.catalogue
            and reported == {running.generation}
        )

    def _applied_already(self, running: RunningPlan) -> RolloutResult:
        names = [self._keeper.fleet.devices[d].name for d in running.devices]
        return RolloutResult(
            workflow=self._name,
            plan=running.plan,
            generation=running.generation,
            run=running.run,
            outcome=RolloutOutcome.COMMITTED,
            phases=dict.fromkeys(names, Phase.COMMITTED),
            unchanged=True,
        )
