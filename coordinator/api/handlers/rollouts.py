"""Rollouts: begun, steered, taken back; and devices that are drained."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from coordinator.api.documents import (
    Drain,
    Preview,
    PreviewPart,
    RolloutReport,
    decode_document,
    encode_document,
)
from coordinator.api.handlers.base import (
    Handlers,
    check_count,
    known_device,
    reported,
)
from coordinator.api.messages import progress_message
from coordinator.progress import Progress
from tiermesh import limits
from tiermesh.documents.endpoints import PacedSource
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Source
from tiermesh.errors import InvalidDocument
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.keeping.draining import Draining
    from coordinator.mesh import Mesh
    from coordinator.progress import Report
    from coordinator.rollout.applying import RolloutResult
    from tiermesh.documents.workflow import Workflow


class RolloutHandlers(Handlers):
    """What changes on the devices: each rollout is carried out wholly or undone."""

    async def preview_apply(self, request: pb.ApplyRequest) -> pb.PreviewApplyReply:
        """What applying would do; nothing is touched."""
        previews: list[bytes] = []
        for plan, workflow in self._to_apply(request):
            applying = await self.mesh.applying(plan, workflow=workflow)
            parts = await applying.preview(request.run or None)
            document = Preview(dry_run=True, parts=[PreviewPart.of(part) for part in parts])
            previews.append(encode_document(document))
        return pb.PreviewApplyReply(previews=previews)

    async def apply(self, request: pb.ApplyRequest) -> AsyncGenerator[pb.RolloutEvent]:
        """Roll plans out one after another, and stop at the first that fails."""
        mesh = self.writes()
        for plan, workflow in self._to_apply(request):
            # One that was made by the client from a problem of this mesh is kept with what it was made from.
            if plan.digest not in mesh.fleet.plans and mesh.made_problem_of(plan):
                await mesh.plan_made(plan)
            exit_code = 0
            async with aclosing(self._applied(mesh, request, plan, workflow)) as events:
                async for event in events:
                    if isinstance(event, RolloutReport):
                        exit_code = event.exit_code
                    yield _event(plan.workflow, event)
            if exit_code:
                return

    async def _applied(
        self, mesh: Mesh, request: pb.ApplyRequest, plan: Plan, workflow: Workflow
    ) -> AsyncGenerator[Progress | RolloutReport]:
        async def work(report: Report) -> RolloutResult:
            return await mesh.apply(
                plan,
                workflow=workflow,
                run=request.run or None,
                measure_s=request.measure_s,
                report=report,
            )

        async with aclosing(reported(work)) as steps:
            async for step in steps:
                yield step if isinstance(step, Progress) else RolloutReport.of(step)

    def _to_apply(self, request: pb.ApplyRequest) -> list[tuple[Plan, Workflow]]:
        """The plans with their workflows; all are read before anything is done."""
        check_count(request.plans, limits.API_PLANS, "plans")
        if not request.plans:
            raise InvalidDocument("no plan is named", fix="Name a plan, or its digest")
        found: list[tuple[Plan, Workflow]] = []
        for named in request.plans:
            plan = self._plan_of(named)
            workflow = (
                self.workflow_of_digest(named.workflow)
                if named.workflow
                else self.mesh.workflow_of(plan)
            )
            if request.must_end:
                check_ends(workflow, "waiting for it", "Do not wait; or wait for a time")
            found.append((plan, workflow))
        return found

    def _plan_of(self, named: pb.PlanToApply) -> Plan:
        if named.plan:
            return decode_document(named.plan, Plan)
        record = self.mesh.fleet.plans.get(named.digest)
        if record is None:
            raise InvalidDocument(
                f"no plan {named.digest} was made here", fix="Give the plan's file"
            )
        return record.plan

    async def cancel_rollout(self, request: pb.CancelRolloutRequest) -> pb.CancelRolloutReply:
        """Give an open rollout up; the task that carries it out undoes it."""
        why = {"why": request.why} if request.why else {}
        await self.writes().cancel_rollout(request.workflow, **why)
        return pb.CancelRolloutReply()

    async def hold_rollout(self, request: pb.HoldRolloutRequest) -> pb.HoldRolloutReply:
        """Let no device begin another step of an open rollout, or let them go on."""
        await self.writes().hold_rollout(request.workflow, hold=request.hold)
        return pb.HoldRolloutReply()

    async def preview_rollback(self, request: pb.RollbackRequest) -> pb.PreviewRollbackReply:
        """What rolling back would change."""
        from coordinator.planning.diff import difference

        name = self.running_named(request.workflow, "rolled back")
        fleet = self.mesh.fleet
        target = self.mesh.rolling_back(name).target.plan
        running = fleet.running[name]
        found = difference(fleet.plans[running.plan].plan, target)
        return pb.PreviewRollbackReply(
            workflow=name,
            plan=target.digest,
            generation=fleet.way_back[name][-1].generation,
            running=running.generation,
            difference=encode_document(found),
        )

    async def rollback(self, request: pb.RollbackRequest) -> AsyncGenerator[pb.RolloutEvent]:
        """Roll out the plan that served a workflow before, as a new generation."""
        mesh = self.writes()
        name = self.running_named(request.workflow, "rolled back")

        async def work(report: Report) -> RolloutResult:
            return await mesh.roll_back(name, report=report)

        async with aclosing(reported(work)) as steps:
            async for step in steps:
                yield _event(name, step if isinstance(step, Progress) else RolloutReport.of(step))

    async def drain(self, request: pb.DrainRequest) -> AsyncGenerator[pb.DrainEvent]:
        """Say what moves where without a device; then, unless it is a dry run, roll that out."""
        from coordinator.keeping.draining import Draining

        mesh = self.writes()
        device = known_device(mesh.fleet, request.device)
        if device.state == "left":
            raise InvalidDocument(
                f"{device.name} has been taken out", fix="See: coordinator devices"
            )
        source_bytes = dict(request.source_bytes) or self.source_bytes
        draining = await Draining.of(mesh, device, source_bytes=source_bytes)
        planned = _drain(draining, request)
        yield pb.DrainEvent(drain=encode_document(planned))
        if request.dry_run:
            return

        async def work(report: Report) -> list[RolloutResult]:
            return await draining.carry_out(report=report)

        async with aclosing(reported(work)) as steps:
            async for step in steps:
                if isinstance(step, Progress):
                    yield pb.DrainEvent(progress=progress_message(step))
                else:
                    ended = _drain(draining, request, step)
                    yield pb.DrainEvent(drain=encode_document(ended))

    async def undo_drain(self, request: pb.UndoDrainRequest) -> pb.UndoDrainReply:
        """Plan for a device again from now on."""
        from coordinator.keeping.draining import undo

        mesh = self.writes()
        device = known_device(mesh.fleet, request.device)
        if device.state != "draining":
            raise InvalidDocument(
                f"{device.name} is not draining",
                why=f"it is {device.state}",
                fix="See: coordinator devices",
            )
        await undo(mesh, device)
        return pb.UndoDrainReply(name=device.name)


def _event(workflow: str, step: Progress | RolloutReport) -> pb.RolloutEvent:
    if isinstance(step, Progress):
        return pb.RolloutEvent(workflow=workflow, progress=progress_message(step))
    return pb.RolloutEvent(workflow=workflow, rollout=encode_document(step))


def _drain(
    draining: Draining, request: pb.DrainRequest, applied: list[RolloutResult] | None = None
) -> Drain:
    from coordinator.planning.diff import difference

    return Drain(
        device=draining.device.name,
        dry_run=request.dry_run,
        changes={m.workflow.workflow: difference(m.before, m.after) for m in draining.moves},
        drained=None if applied is None else not (applied and applied[-1].exit_code),
        rollouts=[RolloutReport.of(one) for one in applied or []],
    )


def check_ends(workflow: Workflow, what: str, fix: str) -> None:
    """Refuse to wait for the end of a run that has none.

    Raises:
        InvalidDocument: naming the source that repeats, or takes requests from outside, forever.
    """
    endless = [name for name in workflow.of_kind(Source) if _is_endless(workflow, name)]
    if endless:
        raise InvalidDocument(
            f"{what} would never return",
            why=f"the source `{endless[0]}` {_why_endless(workflow, endless[0])}",
            fix=fix,
        )


def _is_endless(workflow: Workflow, name: str) -> bool:
    source = workflow.stages[name]
    return isinstance(source, Source) and source.is_endless


def _why_endless(workflow: Workflow, name: str) -> str:
    if isinstance(workflow.stages[name], PacedSource):
        return "repeats its requests forever"
    return "takes requests from outside forever"
