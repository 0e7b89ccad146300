"""Carrying out the instructions of a rollout, one device at a time, and telling what happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from coordinator.artifacts.distribution import Brought, Distribution
from coordinator.artifacts.transfer import PathOf
from coordinator.fleet import events
from coordinator.fleet.instructions import (
    AbortGeneration,
    CommitGeneration,
    Instruction,
    PrepareGeneration,
    Push,
    RolloutInstruction,
    StopWorkflow,
)
from coordinator.fleet.state import Device
from coordinator.progress import Progress, Report, Transfer
from coordinator.rollout.steps import Steps
from coordinator.sessions.session import Sessions
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import StaleGeneration, TiermeshError


class RollingOut:
    """The work of one rollout. `devices` are by id, and so are the assignments."""

    def __init__(
        self,
        distribution: Distribution,
        sessions: Sessions,
        devices: Mapping[str, Device],
        assignments: Mapping[str, Assignment],
        path_of: PathOf,
        *,
        now: Callable[[], float],
        report: Report,
    ) -> None:
        self._distribution = distribution
        self._sessions = sessions
        self._devices = devices
        self._assignments = assignments
        self._path_of = path_of
        self._now = now
        self._report = report
        self.brought: dict[str, Brought] = {}
        self.measured: dict[str, float] = {}

    async def __call__(self, instruction: Instruction) -> Sequence[events.Event]:
        """Carry an instruction out; a device's failure is an event, not an exception."""
        assert isinstance(instruction, RolloutInstruction)  # noqa: S101 - only these are desired
        device = self._devices[instruction.device]
        try:
            event = await self._step(instruction, device)
        except TiermeshError as error:
            return [self._failed(instruction, error)]
        self._report(Progress(device.name, "rollout", 1.0, event.kind.removeprefix("rollout-")))
        return [event]

    async def _step(self, instruction: RolloutInstruction, device: Device) -> events.Event:
        workflow, generation = instruction.workflow, instruction.generation
        steps = Steps(self._sessions, device.id)
        match instruction:
            case Push():
                brought = await self._push(device)
                return self._made(
                    events.ArtifactsPushed,
                    instruction,
                    sent_bytes=brought.sent_bytes,
                    fetched_bytes=brought.fetched_bytes,
                )
            case PrepareGeneration():
                await self._prepare(steps, device)
                return self._made(events.RolloutPrepared, instruction)
            case CommitGeneration():
                await steps.commit(workflow, generation)
                return self._made(events.RolloutCommitted, instruction)
            case AbortGeneration():
                return await self._abort(steps, instruction)
            case StopWorkflow():
                await steps.stop(workflow, generation)
                return self._made(events.RolloutStopped, instruction)

    async def _push(self, device: Device) -> Brought:
        assignment = self._assignments[device.id]

        def moved(transfer: Transfer) -> None:
            doing = f"fetch from {transfer.source}" if transfer.source else "push"
            self._report(Progress(device.name, "rollout", transfer.done, doing, transfer))

        self.brought[device.id] = await self._distribution.bring(
            device,
            assignment.artifacts.values(),
            self._path_of,
            keep_for=f"rollout of {assignment.workflow}",
            generation=assignment.generation,
            moved=moved,
        )
        return self.brought[device.id]

    async def _abort(self, steps: Steps, instruction: AbortGeneration) -> events.Event:
        """A device that a killed coordinator told to switch may have done so; then that is what is known now."""
        try:
            await steps.abort(instruction.workflow, instruction.generation)
        except StaleGeneration as refusal:
            if refusal.fields.get("generation") != instruction.generation:
                raise
            return self._made(events.RolloutCommitted, instruction)
        return self._made(events.RolloutAborted, instruction)

    async def _prepare(self, steps: Steps, device: Device) -> None:
        assignment = self._assignments[device.id]
        total = max(len(assignment.replicas), 1)
        begun: dict[str, None] = {}

        def step(doing: str, replica: str, seconds: float) -> None:
            begun.setdefault(replica)
            if doing == "measure" and 0 < seconds < math.inf:
                self.measured[replica] = seconds
                return
            done = (len(begun) - 1) / total
            self._report(Progress(device.name, "rollout", done, f"{doing} {replica}"))

        await steps.prepare(assignment, step)

    def _failed(self, instruction: RolloutInstruction, error: TiermeshError) -> events.Event:
        """An abort or a stop that cannot be delivered ends there: the device is told nothing more."""
        if isinstance(instruction, AbortGeneration):
            return self._made(events.RolloutAborted, instruction, why=str(error))
        if isinstance(instruction, StopWorkflow):
            return self._made(events.RolloutStopped, instruction, why=str(error))
        step = type(instruction).__name__.lower()
        failure = {"kind": error.kind, "what": error.what, "why": error.why, "fix": error.fix}
        return self._made(events.RolloutFailed, instruction, step=step, failure=failure)

    def _made(
        self, kind: Callable[..., events.Event], instruction: RolloutInstruction, **fields: object
    ) -> events.Event:
        return kind(
            at=self._now(),
            who=instruction.device,
            workflow=instruction.workflow,
            generation=instruction.generation,
            device=instruction.device,
            **fields,
        )
