"""Taking the work off a device: plans without it first, then the state, then the rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.fleet import apply, events
from coordinator.progress import Report, silent
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.errors import Infeasible, TiermeshError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.fleet.state import Device
    from coordinator.mesh import Mesh
    from coordinator.planning import Options
    from coordinator.rollout.applying import RolloutResult
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Move:
    """A workflow's plan with the device and without it."""

    workflow: Workflow
    before: Plan
    after: Plan


class Draining:
    """A device that is to be left out of all plans. `moves` is what follows for each workflow on it.

    Made by `Draining.of`, which changes nothing.
    """

    def __init__(self, mesh: Mesh, device: Device, moves: Sequence[Move]) -> None:
        self._mesh = mesh
        self.device = device
        self.moves = moves

    @classmethod
    async def of(
        cls,
        mesh: Mesh,
        device: Device,
        *,
        options: Options | None = None,
        source_bytes: Mapping[str, float] | None = None,
    ) -> Draining:
        """Plan every workflow that the device serves without it.

        Raises:
            Infeasible: a workflow cannot be served without it, and what is missing.
        """
        without = apply(_drained(mesh, device), mesh.fleet)
        moves: list[Move] = []
        for running in mesh.fleet.running.values():
            if device.id not in running.devices:
                continue
            workflow = parse_workflow(mesh.fleet.workflows[running.workflow_digest].text)
            try:
                problem = await mesh.problem(
                    workflow, source_bytes=dict(source_bytes or {}), fleet=without
                )
                after = await mesh.solve(problem, options)
            except TiermeshError as error:
                raise _cannot(device, workflow, error) from None
            moves.append(Move(workflow, mesh.fleet.plans[running.plan].plan, after))
        return cls(mesh, device, moves)

    async def carry_out(self, *, report: Report = silent) -> list[RolloutResult]:
        """Leave the device out from now on, and roll the plans without it out; its requests in flight end first.

        Where a rollout fails, what ran before it runs, and the device is planned for again.
        """
        mesh = self._mesh
        await mesh.record(_drained(mesh, self.device))
        applied: list[RolloutResult] = []
        try:
            for move in self.moves:
                applied.append(await mesh.apply(move.after, workflow=move.workflow, report=report))
                if applied[-1].exit_code:
                    break
        except BaseException:
            await undo(mesh, self.device, "draining it was interrupted")
            raise
        if applied and applied[-1].exit_code:
            await undo(mesh, self.device, f"{applied[-1].workflow} could not be moved off it")
        return applied


async def undo(mesh: Mesh, device: Device, why: str = "") -> None:
    """Plan for the device again from now on."""
    await mesh.record(events.DrainUndone(at=mesh.now(), who=mesh.who, device=device.id, why=why))


def _drained(mesh: Mesh, device: Device) -> events.DeviceDraining:
    return events.DeviceDraining(
        at=mesh.now(), who=mesh.who, device=device.id, why=f"drained by {mesh.who}"
    )


def _cannot(device: Device, workflow: Workflow, error: TiermeshError) -> Infeasible:
    missing = [error.what, *([error.why] if error.why else [])]
    return Infeasible(
        f"{device.name} cannot be drained: `{workflow.workflow}` cannot be served without it",
        why=": ".join(missing),
        fix="Add a device that can run its stages, or relax a constraint; nothing was changed",
        device=device.name,
        workflow=workflow.workflow,
        cause=error.to_dict(),
    )
