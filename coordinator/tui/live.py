"""The session on a real mesh: opens it, follows it, and carries out what the app asks for."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from coordinator.fleet import Fleet, apply
from coordinator.progress import Progress
from coordinator.tui import messages as m
from coordinator.tui.actions import Actions
from tiermesh.errors import TiermeshError, Unreachable

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.service import CoordinatorService
    from coordinator.journal.store import Entry
    from coordinator.mesh import Mesh
    from coordinator.telemetry.watching import Observed
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


@dataclass(frozen=True, slots=True)
class OpenMesh:
    """A mesh, as the session uses it: by a client of its coordinator, which is this process or another one.

    `service` is given where this process coordinates the mesh; the session then keeps it served. `refusal` says why
    nothing can be changed from here, if so: another process holds the mesh, and has no socket.
    """

    client: CoordinatorClient
    service: CoordinatorService | None = None
    refusal: str = ""


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
        self._actions = Actions(None, self.report, "the mesh is not open yet")
        # The state, and the number of the newest event that it has; 0: it has not come yet.
        self._fleet = Fleet()
        self._number: int = 0
        self._journalled: list[Entry] = []
        self._changed = asyncio.Event()

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    # --- following -----------------------------------------------------------------------------------------------

    async def run(self, post: Post) -> None:
        """Open the mesh and tell what happens, until this is cancelled."""
        self._post = post
        # A third of a second of imports, while the first picture is painted.
        await asyncio.to_thread(importlib.import_module, "coordinator.api.client")
        try:
            while await self._opened_once():
                self._actions = Actions(None, self.report, "the coordinator has ended")
        except* TiermeshError as errors:
            post(m.Fatal(next(e for e in _leaves(errors) if isinstance(e, TiermeshError))))

    async def _opened_once(self) -> bool:
        """Follow the mesh until its coordinator, another process, has ended; whether that is so.

        Opening it again then waits for that coordinator, and goes on after the newest event that is known.
        """
        is_running = False
        try:
            async with self._opening() as opened:
                is_running = opened.client.is_running
                await self._follow(opened)
        except* Unreachable as errors:
            if not is_running:
                raise
            error = next(e for e in _leaves(errors) if isinstance(e, Unreachable))
            self._post(m.ActionRefused("follow the mesh", error))
        return is_running

    async def _follow(self, opened: OpenMesh) -> None:
        from coordinator.tui.solving import Solving

        client, service = opened.client, opened.service
        self._solving = Solving(client, self._post, lambda: self._fleet)
        self._actions = Actions(client, self.report, opened.refusal)
        self._post(m.MeshOpened(self._title, client.info.tiers, opened.refusal))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush())
            tasks.create_task(self._tell_changes())
            tasks.create_task(self._watch_fleet(client))
            if service is None:
                tasks.create_task(self._watch_samples(client))
            else:
                tasks.create_task(self._coordinate(service))

    async def _coordinate(self, service: CoordinatorService) -> None:
        """Find the devices, end what an earlier coordinator left open, then keep served what runs."""
        from coordinator.keeping import Keeping

        mesh = service.mesh
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
            mesh, [], source_bytes=service.source_bytes, told=self.observe, report=self.report
        )
        service.keeping = keeping
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mesh.look_out(browse=self._browse))
            tasks.create_task(keeping.run())
            if self._begin is not None:
                tasks.create_task(self._begin(mesh, self))

    async def _watch_fleet(self, client: CoordinatorClient) -> None:
        """Follow the journal: what the app shows is what its events add up to."""
        from coordinator.api.client import FleetState

        known = self._number
        begun, history = known > 0, 0 if known else HISTORY
        async with contextlib.aclosing(client.watch_fleet(known, history=history)) as changes:
            async for change in changes:
                if isinstance(change, FleetState):
                    begun, self._fleet, self._number = True, change.fleet, change.number
                else:
                    self._journalled.append(change)
                    # What comes before the state is in it already.
                    if begun:
                        self._fleet = apply(change.event, self._fleet)
                        self._number = change.number
                if begun:
                    self._changed.set()

    async def _tell_changes(self) -> None:
        """Tell of the fleet and the journal: changes that come together are told as one."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            entries, self._journalled = self._journalled, []
            self._post(m.Journalled(entries))
            self._post(m.FleetChanged(self._fleet))
            await asyncio.sleep(SETTLE_S)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._observed:
                observed, self._observed = self._observed, []
                self._post(m.SamplesArrived(observed))
            if self._steps:
                steps, self._steps = self._steps, {}
                self._post(m.Progressed(list(steps.values())))

    async def _watch_samples(self, client: CoordinatorClient) -> None:
        """Take the samples of every device that is ready, by the coordinator that keeps them served."""
        from coordinator.api.messages import observed_of

        samples = client.watch_samples(interval_s=INTERVAL_S)
        async with contextlib.aclosing(samples) as heard:
            async for sample in heard:
                device = self._fleet.devices.get(sample.device)
                if device is not None:
                    self.observe(observed_of(device, sample))

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
        self._post(m.WorkStarted(what))
        try:
            yield said
        except TiermeshError as error:
            self._post(m.WorkEnded(what, error=error))
        except asyncio.CancelledError:
            self._post(m.WorkEnded(what, "given up", good=False))
            raise
        else:
            self._post(m.WorkEnded(what, " ".join(said)))

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
            self._post(m.ActionRefused(what, error))

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
