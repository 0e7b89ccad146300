"""Measuring what was never measured, so that a device of a new class, and a new variant, can be planned for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from coordinator.fleet import Desired, Fleet, unmeasured
from coordinator.fleet.state import Device
from coordinator.progress import Report
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.mesh import Mesh

LOOK_S: Final = 2.0
"""Between two looks for what is not measured."""
FIRST_PLAN_S: Final = 30.0
"""From then on a workflow that does not run is served as soon as it can be, with what is measured."""


class Unmeasured:
    """Has devices measure the variants of workflows where neither they nor others of their class did."""

    def __init__(self, mesh: Mesh, report: Report) -> None:
        self._mesh = mesh
        self._report = report
        self.at_work = False

    async def measure(self, workflow: Workflow, devices: Iterable[Device] | None = None) -> None:
        """Measure what is missing of a workflow on these devices, or all; what fails is in the journal."""
        try:
            chosen = None if devices is None else list(devices)
            variants = await self._mesh.variants(workflow)
            desired = Desired(
                variants=tuple(v.digest for v in variants),
                devices=None if chosen is None else frozenset(d.id for d in chosen),
            )
            missing = unmeasured(self._mesh.fleet, desired)
            if not missing:
                return
            names = sorted({self._mesh.fleet.devices[i.device].name for i in missing})
            await self._mesh.note(
                f"{', '.join(names)} now measure the variants of {workflow.workflow} that nobody measured:"
                f" {len(missing)} measurements"
            )
            self.at_work = True
            await self._mesh.profile(workflow, devices=chosen, report=self._report)
        except TiermeshError as error:
            await self._mesh.note(f"{workflow.workflow} cannot be measured: {error}")
        finally:
            self.at_work = False

    async def measure_first(
        self,
        workflow: Workflow,
        plannable: Callable[[], Awaitable[bool]],
        *,
        patience_s: float,
    ) -> None:
        """Measure what is missing of a workflow that does not run, until all is, or enough for a plan.

        A plan with less than all is sought after `patience_s`, and again after each measurement; what was not measured
        by then is measured by devices that serve nothing.
        """
        measuring = asyncio.ensure_future(self.measure(workflow))
        try:
            await asyncio.wait([measuring], timeout=patience_s)
            while not measuring.done():
                change, profiles = self._mesh.change, self._mesh.fleet.profiles
                if await plannable():
                    return
                while self._mesh.fleet.profiles is profiles and not measuring.done():
                    changed = asyncio.ensure_future(change.wait())
                    await asyncio.wait([measuring, changed], return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
                    change = self._mesh.change
        finally:
            measuring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await measuring

    async def keep_measuring(self, workflows: Callable[[], list[Workflow]]) -> None:
        """Measure on devices that serve nothing, whenever one comes or a variant does, until this is cancelled."""
        while True:
            for workflow in workflows():
                await self.measure(workflow, unused(self._mesh.fleet))
            await asyncio.sleep(LOOK_S)


def unused(fleet: Fleet) -> list[Device]:
    """The ready devices that serve nothing: others would be disturbed, and measure with what they serve."""
    used = {device for running in fleet.running.values() for device in running.devices}
    return [device for device in fleet.ready if device.id not in used]
