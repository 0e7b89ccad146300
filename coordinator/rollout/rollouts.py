"""The rollouts of one workflow: begin one and bring it to its end, or bring to an end what was left open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from coordinator.artifacts.distribution import Distribution
from coordinator.artifacts.transfer import PathOf
from coordinator.fleet import Desired, Fleet, events
from coordinator.fleet.file import FleetFile
from coordinator.fleet.lifecycle import EXIT_CODES, Phase, RolloutOutcome
from coordinator.fleet.state import Catalogue, Purpose, Rollout, RunningPlan
from coordinator.journal.reconcile import Pursuit, Recording
from coordinator.progress import Report, silent
from coordinator.rollout.assignment import assignments
from coordinator.rollout.rolling import RollingOut
from coordinator.sessions.session import Sessions
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Workflow


class RolloutContext(Recording, Protocol):
    """Who keeps the state, and knows the network, the time and who is asking, and brings artifacts to devices."""

    now: Callable[[], float]
    who: str
    network: FleetFile
    distribution: Distribution
    sessions: Sessions


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """How a rollout ended.

    `phases` and `failures` are by device name, and so is what was brought to it: `sent_bytes` from here,
    `fetched_bytes` from peers by their names. `batch_seconds` is what each replica (by id) took for a batch of the
    planned size just before it served, where it was measured: mean device seconds. `restored` tells of the rollout
    that followed when devices had already switched; `unchanged` that the plan already ran everywhere.
    """

    workflow: str
    plan: str
    generation: int
    run: str
    outcome: RolloutOutcome
    phases: Mapping[str, Phase]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    sent_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    fetched_bytes: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict[str, Mapping[str, int]]
    )
    batch_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    unchanged: bool = False
    restored: RolloutResult | None = None

    @property
    def exit_code(self) -> int:
        """0 when the plan runs; 4 when it was partly applied and rolled back."""
        return EXIT_CODES[self.restored.outcome if self.restored else self.outcome]


@dataclass(frozen=True, slots=True)
class Target:
    """A plan with all that its assignments follow from.

    Each replica is measured for `measure_s` seconds before it serves.
    """

    plan: Plan
    workflow: Workflow
    catalogue: Catalogue
    measure_s: float = 0.0


def target_of(fleet: Fleet, of: RunningPlan | Rollout) -> Target:
    """The target of a generation, from what the journal kept of it."""
    return Target(
        plan=fleet.plans[of.plan].plan,
        workflow=parse_workflow(fleet.workflows[of.workflow_digest].text),
        catalogue=of.catalogue,
    )


class Rollouts:
    """The rollouts of `workflow`, one at a time."""

    def __init__(
        self,
        keeper: RolloutContext,
        workflow: str,
        path_of: PathOf,
        *,
        report: Report = silent,
    ) -> None:
        self._keeper = keeper
        self._name = workflow
        self._path_of = path_of
        self._report = report

    async def roll_out(self, target: Target, purpose: Purpose, run: str | None) -> RolloutResult:
        """Roll a target out; where devices had switched when one failed, bring back what ran before.

        When this is cancelled before all devices are prepared, the rollout is given up first.
        """
        running = self._keeper.fleet.running.get(self._name)
        applied = await self._begin(target, purpose, self.run_of(target, run))
        if applied.outcome is not RolloutOutcome.BROKEN:
            return applied
        return replace(applied, restored=await self._restore(running, applied.run))

    async def finish(self) -> None:
        """Bring a rollout that an earlier coordinator left open to an end.

        It is finished where a device may have switched, and given up where none has. A restore goes on.
        """
        rollout = self._keeper.fleet.rollouts.get(self._name)
        if rollout is None or rollout.outcome is not None:
            return
        await self._release(rollout)
        parts: Mapping[str, Assignment] = {}
        if rollout.purpose == "restore" and not rollout.cancelled:
            parts = self._parts_of(rollout)
        elif not _past_return(rollout):
            await self._cancel(rollout, "the coordinator ended in the middle of it")
        await self._pursue(self._work(parts))

    async def settle(self) -> RolloutResult | None:
        """As `finish`; and what ran before a rollout that broke runs again. None where all was settled."""
        before = self._keeper.fleet.rollouts.get(self._name)
        if before is None or before.outcome not in (None, RolloutOutcome.BROKEN):
            return None
        await self.finish()
        applied = self._applied(self._work({}))
        if applied.outcome is not RolloutOutcome.BROKEN:
            return applied
        running = self._keeper.fleet.running.get(self._name)
        return replace(applied, restored=await self._restore(running, applied.run))

    async def _restore(self, running: RunningPlan | None, run: str) -> RolloutResult:
        """Bring back what ran before, on the devices that still can, under a new generation."""
        if running is None:
            return await self._begin(None, "restore", run)
        return await self._begin(target_of(self._keeper.fleet, running), "restore", running.run)

    async def _begin(self, target: Target | None, purpose: Purpose, run: str) -> RolloutResult:
        generation = self._keeper.fleet.next_generation(self._name)
        parts = self.assignments(target, generation, run) if target is not None else {}
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
                leaving=sorted(self._left_behind() - parts.keys()),
            )
        )
        await self._to_the_end(work)
        return self._applied(work)

    def _left_behind(self) -> set[str]:
        """The devices that may serve an older generation."""
        fleet = self._keeper.fleet
        running, last = fleet.running.get(self._name), fleet.rollouts.get(self._name)
        behind = set(running.devices if running is not None else ())
        if last is not None and last.outcome is RolloutOutcome.BROKEN:
            behind |= {d for d, phase in last.phases.items() if phase is Phase.COMMITTED}
        return behind

    async def _to_the_end(self, work: RollingOut) -> None:
        try:
            await self._pursue(work)
        except asyncio.CancelledError:
            rollout = self._keeper.fleet.rollouts[self._name]
            if rollout.purpose != "restore" and not _past_return(rollout):
                await self._cancel(rollout, "interrupted")
            await self._pursue(work)
            raise

    async def _pursue(self, work: RollingOut) -> None:
        desired = Desired(workflows=frozenset({self._name}))
        await Pursuit(self._keeper, desired, work).run()

    async def _release(self, rollout: Rollout) -> None:
        """Nobody is there any more who would let a rollout go on that an operator held."""
        if rollout.held:
            await self._keeper.record(
                events.RolloutHeld(
                    at=self._keeper.now(),
                    who=self._keeper.who,
                    workflow=self._name,
                    generation=rollout.generation,
                    hold=False,
                )
            )

    async def _cancel(self, rollout: Rollout, why: str) -> None:
        if rollout.outcome is None and not rollout.cancelled:
            await self._keeper.record(
                events.RolloutCancelled(
                    at=self._keeper.now(),
                    who=self._keeper.who,
                    workflow=self._name,
                    generation=rollout.generation,
                    why=why,
                )
            )

    def run_of(self, target: Target, run: str | None) -> str:
        """The name of the run: as given, or that of what runs, where it is of the same workflow."""
        running = self._keeper.fleet.running.get(self._name)
        if run is not None:
            return run
        if running is not None and running.workflow_digest == target.workflow.digest:
            return running.run
        return f"run-{self._keeper.fleet.next_generation(self._name)}"

    def assignments(self, target: Target, generation: int, run: str) -> dict[str, Assignment]:
        """Each device's part of the target, by device id."""
        fleet = self._keeper.fleet
        devices = {d.name: d for d in fleet.devices.values()}
        running = fleet.running.get(self._name)
        return assignments(
            target.plan,
            target.workflow,
            target.catalogue,
            devices,
            generation=generation,
            run=run,
            before=fleet.plans[running.plan].plan
            if running is not None and running.run == run
            else None,
            measure_s=target.measure_s,
        )

    def _parts_of(self, rollout: Rollout) -> Mapping[str, Assignment]:
        if not rollout.plan:
            return {}
        target = target_of(self._keeper.fleet, rollout)
        return self.assignments(target, rollout.generation, rollout.run)

    def _work(self, parts: Mapping[str, Assignment]) -> RollingOut:
        return RollingOut(
            self._keeper.distribution,
            self._keeper.sessions,
            self._keeper.fleet.devices,
            parts,
            self._path_of,
            now=self._keeper.now,
            report=self._report,
        )

    def _applied(self, work: RollingOut) -> RolloutResult:
        rollout = self._keeper.fleet.rollouts[self._name]
        return RolloutResult(
            workflow=self._name,
            plan=rollout.plan,
            generation=rollout.generation,
            run=rollout.run,
            outcome=rollout.outcome or RolloutOutcome.BROKEN,
            phases={self._device_name(d): phase for d, phase in rollout.phases.items()},
            failures={self._device_name(d): why for d, why in rollout.failures.items()},
            sent_bytes={self._device_name(d): b.sent_bytes for d, b in work.brought.items()},
            fetched_bytes={self._device_name(d): b.fetched_bytes for d, b in work.brought.items()},
            batch_seconds=work.measured,
        )

    def _device_name(self, device_id: str) -> str:
        device = self._keeper.fleet.devices.get(device_id)
        return device.name if device is not None else device_id


def _past_return(rollout: Rollout) -> bool:
    """Whether a device may have been told to switch: from then on going forward is the safe way."""
    members = set(rollout.members.values())
    return not rollout.giving_up and members <= {Phase.PREPARED, Phase.COMMITTED}
