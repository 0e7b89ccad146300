"""Keeping workflows served: watch the devices, and plan again when there is a reason to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from coordinator.fleet import events
from coordinator.progress import Report, silent
from coordinator.replanning import Policy
from coordinator.telemetry import Observed
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Workflow

if TYPE_CHECKING:
    from coordinator.planning import Options
    from coordinator.rollout.applying import Applied
    from coordinator.runner import Mesh


class Keeping:
    """Workflows that are kept served. Made by `Mesh.keep`; `run` does the work until it is cancelled.

    `auto_replan` may be changed at any time. `newest` is what each device (by id) said last.
    """

    def __init__(
        self,
        mesh: Mesh,
        workflows: Iterable[Workflow],
        *,
        auto_replan: bool,
        options: Options | None,
        policy: Policy,
        source_bytes: dict[str, float] | None,
        interval_s: float,
        told: Callable[[Observed], None],
        report: Report,
    ) -> None:
        self.auto_replan = auto_replan
        self.newest: dict[str, Observed] = {}

    async def run(self) -> None:
        """Keep them served until this is cancelled; what runs then goes on without it.

        A workflow that does not run yet is planned and applied first.
        """
        raise NotImplementedError

    async def replan(self, workflow: str, why: str = "") -> events.Event:
        """Plan again because somebody asks for it; returns how it ended.

        A better plan is applied also where `auto_replan` is off.
        """
        raise NotImplementedError

    async def apply(
        self,
        plan: Plan,
        *,
        workflow: Workflow | None = None,
        run: str | None = None,
        report: Report = silent,
    ) -> Applied:
        """An operator's own apply, like `Mesh.apply`: it waits for a replan under way, and none is begun meanwhile.

        What the operator chose then stays until a device of it fails, or the mesh or the load changes.
        """
        raise NotImplementedError
