"""The session on a real mesh: opens it, follows it, and carries out what the app asks for."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from coordinator.keeping import Keeping
from coordinator.progress import Progress
from coordinator.tui import messages as m
from coordinator.tui.actions import AskedActions, NoActions, OwnActions
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from coordinator.telemetry.watching import Observed
    from coordinator.tui.actions import Actions, Asked
    from coordinator.tui.model.candidate import Asking
    from coordinator.tui.session import Post
    from coordinator.tui.solving import Solving
    from tiermesh.documents.plan import Plan

FLUSH_S: Final = 0.25
"""Samples and progress are told in batches, this far apart."""
SETTLE_S: Final = 0.1
"""Changes of the fleet that come so close together are told as one."""
HISTORY: Final = 2_000
INTERVAL_S: Final = 0.5
POLL_S: Final = 0.5
"""How often the journal of another coordinator is read."""


@dataclass(frozen=True, slots=True)
class OpenMesh:
    """A mesh, and who changes it: this process; or, where `beside` says so, the coordinator that is at work on it.

    `asked` has that one carry out commands; without it, the mesh can only be looked at. `source_bytes` is what sources
    send per request, by stage, as in `Mesh.plan`.
    """

    mesh: Mesh
    beside: str = ""
    asked: Asked | None = None
    source_bytes: dict[str, float] | None = None


class LiveSession:
    """A mesh, live. `opening` opens it, its devices not yet looked for.

    At first it waits for `expect` devices, `timeout_s` at most. `begin` is done then, beside everything else: the
    demo profiles, plans and applies there.
    """

    def __init__(
        self,
        opening: Callable[[], contextlib.AbstractAsyncContextManager[OpenMesh]],
        *,
        title: str,
        addresses: tuple[str, ...] = (),
        browse: bool = True,
        expect: int | None = None,
        timeout_s: float = 5.0,
        begin: Callable[[Mesh, LiveSession], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._opening = opening
        self._title = title
        self._addresses = addresses
        self._browse = browse
        self._expect = expect
        self._timeout_s = timeout_s
        self._begin = begin
        self._post: Post = lambda _message: None
        self._observed: list[Observed] = []
        self._steps: dict[tuple[str, str], Progress] = {}
        self._solving: Solving | None = None
        self._actions: Actions | NoActions = NoActions("the mesh is not open yet")

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    # --- following -----------------------------------------------------------------------------------------------

    async def run(self, post: Post) -> None:
        """Open the mesh and tell what happens, until this is cancelled."""
        self._post = post
        # A third of a second of imports, while the first picture is painted.
        await asyncio.to_thread(importlib.import_module, "coordinator.mesh")
        try:
            async with self._opening() as opened:
                await self._follow(opened)
        except* TiermeshError as errors:
            post(m.Fatal(next(e for e in _leaves(errors) if isinstance(e, TiermeshError))))

    async def _follow(self, opened: OpenMesh) -> None:
        from coordinator.tui.solving import Solving

        mesh = opened.mesh
        self._solving = Solving(mesh, self._post, opened.source_bytes)
        self._actions = self._actions_on(opened)
        refusal = opened.beside if opened.asked is None else ""
        self._post(m.Opened(self._title, mesh.network.tiers, refusal))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush())
            if opened.beside:
                tasks.create_task(self._read_along(mesh))
                tasks.create_task(self._watch(mesh))
                return
            tasks.create_task(self._tell_changes(mesh))
            tasks.create_task(self._coordinate(mesh, opened.source_bytes))

    def _actions_on(self, opened: OpenMesh) -> Actions | NoActions:
        if not opened.beside:
            return OwnActions(opened.mesh, self.report)
        if opened.asked is not None:
            return AskedActions(opened.mesh, opened.asked)
        return NoActions(opened.beside)

    async def _coordinate(self, mesh: Mesh, source_bytes: dict[str, float] | None) -> None:
        """Find the devices, end what an earlier coordinator left open, then keep served what runs."""
        async with self.doing("find devices"):
            await mesh.discover(
                self._addresses,
                expect=self._expect,
                browse=self._browse,
                timeout_s=self._timeout_s,
            )
        async with self.doing("end what was left open"):
            await mesh.settle(report=self.report)
        keeping = Keeping(
            mesh, [], source_bytes=source_bytes, told=self.observe, report=self.report
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mesh.look_out(browse=self._browse))
            tasks.create_task(keeping.run())
            if self._begin is not None:
                tasks.create_task(self._begin(mesh, self))

    async def _tell_changes(self, mesh: Mesh) -> None:
        """Tell of the fleet and the journal whenever something is recorded."""
        known = await mesh.history(limit=HISTORY)
        after = known[-1].number if known else 0
        self._post(m.Journalled(known))
        while True:
            change = mesh.change
            fresh = await mesh.history(after=after)
            if fresh:
                after = fresh[-1].number
                self._post(m.Journalled(fresh))
            self._post(m.FleetChanged(mesh.fleet))
            await change.wait()
            await asyncio.sleep(SETTLE_S)

    async def _read_along(self, mesh: Mesh) -> None:
        """Follow the journal that another coordinator writes."""
        from coordinator.fleet import replay

        known = await mesh.history(limit=HISTORY)
        after = known[-1].number if known else 0
        self._post(m.Journalled(known))
        self._post(m.FleetChanged(mesh.fleet))
        while True:
            await asyncio.sleep(POLL_S)
            fresh = await mesh.history(after=after)
            if fresh:
                after = fresh[-1].number
                mesh.fleet = replay((entry.event for entry in fresh), mesh.fleet)
                self._post(m.Journalled(fresh))
                self._post(m.FleetChanged(mesh.fleet))

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._observed:
                observed, self._observed = self._observed, []
                self._post(m.Sampled(observed))
            if self._steps:
                steps, self._steps = self._steps, {}
                self._post(m.Progressed(list(steps.values())))

    async def _watch(self, mesh: Mesh) -> None:
        """Take the samples of every device that is ready, or was, where another coordinator keeps them served."""
        watched: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                change = mesh.change
                for device in mesh.fleet.ready:
                    if device.id not in watched:
                        watched.add(device.id)
                        samples = mesh.watch(devices=[device], interval_s=INTERVAL_S)
                        tasks.create_task(self._watch_one(samples))
                await change.wait()

    async def _watch_one(self, samples: AsyncGenerator[Observed]) -> None:
        async with contextlib.aclosing(samples):
            async for observed in samples:
                self.observe(observed)

    def observe(self, observed: Observed) -> None:
        """Take a sample; it is told with the others of its moment."""
        self._observed.append(observed)

    def report(self, step: Progress) -> None:
        """Take a step of progress; of each piece of work, the newest is told."""
        self._steps[step.device, step.subject] = step

    # --- acting --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def doing(self, what: str) -> AsyncGenerator[list[str]]:
        """Tell that something is being done, and how it ended; what it came to can be put into the list."""
        said: list[str] = []
        self._post(m.Began(what))
        try:
            yield said
        except TiermeshError as error:
            self._post(m.Ended(what, error=error))
        except asyncio.CancelledError:
            self._post(m.Ended(what, "given up", good=False))
            raise
        else:
            self._post(m.Ended(what, " ".join(said)))

    async def _do(self, what: str, work: Awaitable[str]) -> None:
        async with self.doing(what) as said:
            said.append(await work)

    async def solve(self, asking: Asking) -> None:
        """Look for the best plan, telling of better ones as they come."""
        if self._solving is not None:
            await self._solving.solve(asking)

    async def frontier(self, asking: Asking) -> None:
        """Solve for other accuracies."""
        if self._solving is not None:
            await self._solving.frontier(asking)

    async def explain(self, plan: Plan) -> None:
        """Say why a plan is as it is."""
        if self._solving is not None:
            await self._solving.explain(plan)

    async def apply(self, plan: Plan) -> None:
        """Roll a plan out."""
        await self._do(f"apply {plan.workflow}", self._actions.apply(plan))

    async def roll_back(self, workflow: str) -> None:
        """Bring back the plan that ran before."""
        await self._do(f"roll back {workflow}", self._actions.roll_back(workflow))

    async def cancel_rollout(self, workflow: str) -> None:
        """Give an open rollout up."""
        await self._steer("give up", self._actions.cancel_rollout(workflow))

    async def hold_rollout(self, workflow: str, *, hold: bool) -> None:
        """Let no device begin another step of an open rollout, or let them go on."""
        what = "pause" if hold else "continue"
        await self._steer(what, self._actions.hold_rollout(workflow, hold=hold))

    async def _steer(self, what: str, work: Awaitable[str]) -> None:
        """Something short, done beside the rollout that it steers."""
        try:
            await work
        except TiermeshError as error:
            self._post(m.Refused(what, error))

    async def profile(self, device: str, variant: str) -> None:
        """Measure a variant again on a device."""
        await self._do("measure again", self._actions.profile(device, variant))

    async def drain(self, device: str, *, undo: bool = False) -> None:
        """Want no work on a device, or want it again."""
        await self._do(
            "undo the drain" if undo else "drain", self._actions.drain(device, undo=undo)
        )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
