"""What the app can have done to a mesh: by this process, or by the coordinator that is at work on it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from coordinator.progress import Report
from tiermesh.errors import TiermeshError, Unsupported

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from tiermesh.documents.plan import Plan

Asked: TypeAlias = Callable[[list[str]], Awaitable[tuple[int, str]]]
"""Has the coordinator at work carry out a command; returns its exit code and what it printed."""


class Actions(Protocol):
    """Each returns what came of it, in words.

    Raises:
        TiermeshError: it cannot be done.
    """

    async def apply(self, plan: Plan) -> str:
        """Roll a plan out."""
        ...

    async def roll_back(self, workflow: str) -> str:
        """Bring back the plan that ran before."""
        ...

    async def cancel_rollout(self, workflow: str) -> str:
        """Give an open rollout up."""
        ...

    async def hold_rollout(self, workflow: str, *, hold: bool) -> str:
        """Let no device begin another step of an open rollout, or let them go on."""
        ...

    async def profile(self, device: str, variant: str) -> str:
        """Measure a variant (by digest) again on a device (by id)."""
        ...

    async def drain(self, device: str, *, undo: bool) -> str:
        """Want no work on a device (by id), or want it again."""
        ...


class OwnActions:
    """By this process, which is the coordinator."""

    def __init__(self, mesh: Mesh, report: Report) -> None:
        self._mesh, self._report = mesh, report

    async def apply(self, plan: Plan) -> str:
        """Roll a plan out; it is kept in the journal first."""
        if plan.digest not in self._mesh.fleet.plans:
            await self._mesh.plan_made(plan)
        return _told(await self._mesh.apply(plan, report=self._report))

    async def roll_back(self, workflow: str) -> str:
        """Bring back the plan that ran before."""
        return _told(await self._mesh.roll_back(workflow, report=self._report))

    async def cancel_rollout(self, workflow: str) -> str:
        """Give an open rollout up; whoever carries it out undoes it."""
        await self._mesh.cancel_rollout(workflow)
        return ""

    async def hold_rollout(self, workflow: str, *, hold: bool) -> str:
        """Let no device begin another step of an open rollout, or let them go on."""
        await self._mesh.hold_rollout(workflow, hold=hold)
        return ""

    async def profile(self, device: str, variant: str) -> str:
        """Measure a variant again on a device."""
        mesh = self._mesh
        found = [v for v in await mesh.variants() if v.digest == variant]
        if not found:
            raise Unsupported(
                "the variant cannot be measured again",
                why="its artifact is not on this machine any more",
                fix="Fetch it: coordinator variants fetch",
            )
        chosen = [mesh.fleet.devices[device]]
        await mesh.profile(found, devices=chosen, again=True, report=self._report)
        why = mesh.fleet.profile_failures.get(device, {}).get(variant)
        if why is not None:
            raise TiermeshError("the measurement failed", why=why)
        return "measured"

    async def drain(self, device: str, *, undo: bool) -> str:
        """Roll out plans without a device, and leave it out of new ones; or take that back."""
        from coordinator.keeping import draining

        mesh, found = self._mesh, self._mesh.fleet.devices[device]
        if undo:
            await draining.undo(mesh, found)
            return f"{found.name} may be planned for again"
        moved = await draining.Draining.of(mesh, found)
        applied = await moved.carry_out(report=self._report)
        failed = [a for a in applied if a.exit_code]
        return _told(failed[0]) if failed else f"{found.name} has no work any more"


class AskedActions:
    """By the coordinator at work: each is a command, which is carried out there. `mesh` is only read."""

    def __init__(self, mesh: Mesh, asked: Asked) -> None:
        self._mesh, self._asked = mesh, asked

    async def _ask(self, *words: str) -> str:
        code, said = await self._asked(list(words))
        if code:
            raise TiermeshError(f"coordinator {words[0]} failed", why=said or f"exit code {code}")
        return said

    async def apply(self, plan: Plan) -> str:
        """`coordinator apply`, with the plan in a file, and the workflow where it was changed here."""
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory)
        try:
            words = await asyncio.to_thread(self._written, plan, Path(folder.name))
            return await self._ask("apply", *words)
        finally:
            await asyncio.to_thread(folder.cleanup)

    def _written(self, plan: Plan, folder: Path) -> list[str]:
        """Write the files of an apply; returns the words that name them."""
        from tiermesh.documents.reading import encode_json

        path = folder / "plan.json"
        path.write_bytes(encode_json(plan))
        source = self._mesh.fleet.workflows.get(plan.made_for.workflow or "")
        if source is None:
            return [str(path)]
        beside = folder / "workflow.yaml"
        beside.write_text(source.text, encoding="utf-8")
        return [str(path), "--workflow", str(beside)]

    async def roll_back(self, workflow: str) -> str:
        """`coordinator rollback`."""
        return await self._ask("rollback", workflow)

    async def cancel_rollout(self, workflow: str) -> str:
        """There is no command for it."""
        raise _not_from_here("given up")

    async def hold_rollout(self, workflow: str, *, hold: bool) -> str:
        """There is no command for it."""
        raise _not_from_here("paused")

    async def profile(self, device: str, variant: str) -> str:
        """There is no command for one variant on one device."""
        raise Unsupported(
            "another coordinator is at work, and measures by workflow",
            fix="coordinator profile WORKFLOW.yaml",
        )

    async def drain(self, device: str, *, undo: bool) -> str:
        """`coordinator drain`."""
        name = self._mesh.fleet.devices[device].name
        return await self._ask("drain", name, *(["--undo"] if undo else []))


class NoActions:
    """By nobody: the mesh is only looked at, for a reason."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Callable[..., Awaitable[str]]:
        async def refused(*_args: object, **_more: object) -> str:
            raise Unsupported(f"cannot {name.replace('_', ' ')} from here", why=self._why)

        return refused


def _not_from_here(what: str) -> TiermeshError:
    return Unsupported(
        f"the rollout cannot be {what} from here",
        why="another coordinator carries it out",
        fix="Press Ctrl-C in the command that began it",
    )


def _told(applied: Any) -> str:
    """What a rollout came to, in words.

    Raises:
        TiermeshError: it was undone.
    """
    if applied.unchanged:
        return "it serves already"
    said = f"generation {applied.generation}: {applied.outcome.value}"
    if applied.restored is not None:
        said += f"; generation {applied.restored.generation}: {applied.restored.outcome.value}"
    if applied.exit_code:
        failures = "; ".join(f"{device}: {why}" for device, why in applied.failures.items())
        raise TiermeshError(said, why=failures)
    return said
