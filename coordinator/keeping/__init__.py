"""Keeping workflows served: watch the devices, and plan again when there is a reason to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from coordinator.fleet.liveness import TIMING, Timing
from coordinator.keeping.heartbeats import Listening
from coordinator.keeping.missing_profiles import Unmeasured
from coordinator.keeping.plan_monitor import MEASURE_S
from coordinator.keeping.verdicts import Judging
from coordinator.keeping.workflow_controller import WorkflowController
from coordinator.planning import Options
from coordinator.progress import Report, silent
from coordinator.replanning import DEFAULT, Policy
from coordinator.replanning.causes import Cause
from coordinator.rollout.steps import Steps
from coordinator.telemetry.watching import Observed
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.mesh import Mesh

OPTIONS: Final = Options(gap=1e-3, time_limit_s=5.0)
"""A good plan soon is better than the best one late, while a device is missing."""

__all__ = ["Keeping"]


class Keeping:
    """Workflows that are kept served: `await Keeping(mesh, [workflow]).run()` works until it is cancelled.

    An operator may use the mesh meanwhile: a plan that he rolls out stays until a device of it fails, or something
    else changes. `auto_replan` may be changed at any time. `newest` is what each device (by id) said last.
    """

    def __init__(
        self,
        mesh: Mesh,
        workflows: Iterable[Workflow],
        *,
        auto_replan: bool = True,
        options: Options | None = None,
        policy: Policy = DEFAULT,
        timing: Timing = TIMING,
        source_bytes: dict[str, float] | None = None,
        interval_s: float = 0.25,
        told: Callable[[Observed], None] = lambda _observed: None,
        report: Report = silent,
    ) -> None:
        """Keep `workflows` of `mesh` served.

        Devices are watched every `interval_s` seconds; `told` gets every sample. Without `auto_replan` a reason to
        replan is only recorded. `timing` says when a device is given up, `policy` when to replan. `source_bytes`
        is as in `Mesh.plan`.
        """
        self.auto_replan = auto_replan
        self.newest: dict[str, Observed] = {}
        self._mesh = mesh
        self._told = told
        self._interval_s = interval_s
        self._timing = timing
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._kept: dict[str, WorkflowController] = {}
        self._unmeasured = Unmeasured(mesh, report)
        self._judging = Judging(mesh, self.newest, self.causes)
        self._keep = partial(
            WorkflowController,
            mesh,
            unmeasured=self._unmeasured,
            may_replan=lambda: self.auto_replan,
            options=options or OPTIONS,
            policy=policy,
            source_bytes=source_bytes,
            report=report,
        )
        self._wanted = list(workflows)

    def keeps(self, workflow: str) -> bool:
        """Whether a workflow is kept served, or is to be as soon as it can be planned."""
        return workflow in self._kept or any(w.workflow == workflow for w in self._wanted)

    async def run(self) -> None:
        """Keep them served until this is cancelled; what runs then goes on without it.

        A workflow that does not run yet is planned and applied first: after what no device of a class has measured was
        measured or, where that takes long, as soon as enough of it was. One that an operator rolls out is kept, too.
        """
        listening = Listening(
            self._mesh, interval_s=self._interval_s, told=self._take, timing=self._timing
        )
        try:
            async with asyncio.TaskGroup() as group:
                for workflow in self._wanted:
                    self._add(workflow, group)
                group.create_task(listening.run())
                group.create_task(self._measure())
                group.create_task(self._unmeasured.keep_measuring(self._begun))
                await self._look(group)
        finally:
            await self._end()

    def _add(self, workflow: Workflow, group: asyncio.TaskGroup) -> None:
        kept = self._kept[workflow.workflow] = self._keep(workflow)
        group.create_task(kept.run())

    def _begun(self) -> list[Workflow]:
        """What runs, and what could not be planned with what was measured first."""
        running = self._mesh.fleet.running
        return [
            kept.workflow for name, kept in self._kept.items() if name in running or kept.has_begun
        ]

    async def _look(self, group: asyncio.TaskGroup) -> None:
        while True:
            change, fleet = self._mesh.change, self._mesh.fleet
            for name in fleet.running.keys() - self._kept.keys():
                source = fleet.workflows[fleet.running[name].workflow_digest]
                self._add(parse_workflow(source.text), group)
            for kept in self._kept.values():
                kept.look()
            await change.wait()

    async def _end(self) -> None:
        for task in self._stopping.values():
            task.cancel()
        await asyncio.gather(*self._stopping.values(), return_exceptions=True)
        self._kept.clear()

    def replan(self, workflow: str, why: str) -> None:
        """Plan again because somebody asks for it, also where `auto_replan` is off.

        How it ends is recorded as `replan-ended`.
        """
        self._kept[workflow].ask(why)

    def causes(self, workflow: str) -> list[Cause]:
        """What keeps a workflow from its SLO, or may come to, in a sentence each."""
        kept = self._kept.get(workflow)
        return kept.causes(self.newest) if kept is not None else []

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_S)
            for kept in list(self._kept.values()):
                await kept.measure()
            await self._judging.look()

    def _take(self, observed: Observed) -> None:
        self.newest[observed.device.id] = observed
        self._told(observed)
        if observed.sample is None:
            return
        for kept in self._kept.values():
            kept.take(observed.device, observed.sample)
            generation = kept.should_stop(observed.device, observed.sample)
            if generation is not None:
                self._stop(observed, kept.name, generation)

    def _stop(self, observed: Observed, workflow: str, generation: int) -> None:
        """Tell a device that came back with an older generation to stop serving it."""
        device = observed.device
        before = self._stopping.get(device.id)
        if before is not None and not before.done():
            return

        async def tell() -> None:
            try:
                await Steps(self._mesh.sessions, device.id).stop(workflow, generation)
            except TiermeshError:
                # It still serves the old generation in its next sample, and is told again.
                return
            await self._mesh.note(f"{device.name}: stopping a stale generation of {workflow}")

        self._stopping[device.id] = asyncio.ensure_future(tell())
