"""Measuring what was never measured, so that a device of a new class, and a new variant, can be planned for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from coordinator.fleet import Desired, Fleet, decide
from coordinator.fleet.instructions import Measure
from coordinator.fleet.state import Device
from coordinator.progress import Report
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.runner import Mesh

LOOK_S: Final = 2.0
"""Between two looks for what is not measured."""


class Unmeasured:
    """Has devices measure the variants of workflows where neither they nor others of their class did."""

    def __init__(self, mesh: Mesh, report: Report) -> None:
        self._mesh = mesh
        self._report = report
        self.at_work = False

    async def measure(self, workflow: Workflow, devices: Iterable[Device]) -> None:
        """Measure what is missing of a workflow on these devices; what fails is in the journal."""
        try:
            variants = await self._mesh.variants(workflow)
            chosen = list(devices)
            desired = Desired(
                variants=tuple(v.digest for v in variants), devices=frozenset(d.id for d in chosen)
            )
            missing = [i for i in decide(self._mesh.fleet, desired) if isinstance(i, Measure)]
            if not missing:
                return
            names = sorted(self._mesh.fleet.devices[i.device].name for i in missing)
            await self._mesh.note(
                f"{', '.join(names)} now measure the variants of {workflow.workflow} that nobody measured"
            )
            self.at_work = True
            await self._mesh.profile(variants, devices=chosen, report=self._report)
        except TiermeshError as error:
            await self._mesh.note(f"{workflow.workflow} cannot be measured: {error}")
        finally:
            self.at_work = False

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
