"""The mesh as a library: carries out what `coordinator.fleet` decides, and records what happens.

::

    async with Mesh.open(state_dir, ladders=ladders) as mesh:
        await mesh.discover(expect=4)
        workflow = await mesh.read_workflow(Path("read-signs.yaml"))
        await mesh.profile(workflow)
        plan = await mesh.plan(workflow)
        applied = await mesh.apply(plan)
        async for observed in mesh.watch():
            ...
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from coordinator.artifacts.distribution import Distribution
from coordinator.discovery.browser import Describing, look_out, sighted, watching_zeroconf
from coordinator.fleet import Desired, Fleet, events
from coordinator.fleet.file import FleetFile
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.fleet.priors import is_fresh
from coordinator.fleet.state import Catalogue, Device, Rollout
from coordinator.journal.reconcile import Pursuit
from coordinator.journal.recorder import Recorder
from coordinator.journal.store import Journal
from coordinator.planning.snapshot import AccuracyTable, ProblemSnapshot, snapshot
from coordinator.profiling.profiler import ProfileOptions, Profiler
from coordinator.profiling.schedule import ProfilingOutlook, in_order, rivals
from coordinator.progress import Report, silent
from coordinator.rollout.applying import Applying, RolloutResult, Target
from coordinator.rollout.rollouts import Rollouts, target_of
from coordinator.sessions.channels import Channels
from coordinator.sessions.session import Sessions
from coordinator.telemetry.watching import Observed, Watching, look, note
from coordinator.workflows.catalogue import LadderSource
from coordinator.workflows.registry import Workflows
from tiermesh import folders, wire
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.published import PublishedProfile
from tiermesh.documents.variant import Variant
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import InvalidDocument, TiermeshError
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from coordinator.planning import Options
    from tiermesh.v1 import telemetry_pb2


class Mesh(Recorder):
    """The mesh, as one coordinator knows it. Made by `Mesh.open`; one at a time per state folder."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        channels: Channels,
        *,
        ladders: LadderSource | None,
        home: Path,
        name: str,
        network: FleetFile,
        who: str,
        read_only: bool,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(journal, fleet, who=who, clock=clock)
        self.channels = channels
        self.sessions = Sessions(
            self,
            lambda device, boot, said: note(self, device, boot, said),
            credentials=channels.credentials,
            observer=read_only,
        )
        self.name = name
        self.network = network
        self.workflows = Workflows(self, ladders, home)
        self._snapshots: dict[str, ProblemSnapshot] = {}
        self.distribution = Distribution(channels, lambda: self.fleet, lambda: self.network)
        self._rolling_out: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._profiling = asyncio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        state_dir: Path,
        *,
        ladders: LadderSource | None = None,
        home: Path | None = None,
        name: str = DEFAULT_MESH,
        network: FleetFile | None = None,
        credentials: wire.Credentials = wire.LOOPBACK,
        read_only: bool = False,
        who: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> AsyncGenerator[Mesh]:
        """Open the journal of a state folder and take up where it ends.

        `name` is the mesh whose announcements are heard. `ladders` and `home`, the folder of their
        artifacts, are needed to profile, plan and apply. With `read_only`, another coordinator may
        be at work meanwhile, and what is found here is not kept.

        Raises:
            TiermeshError: another coordinator uses the folder, or its journal cannot be used.
        """
        opening = Journal.read_only if read_only else Journal.open
        journal = await asyncio.to_thread(opening, state_dir)
        try:
            fleet = await asyncio.to_thread(journal.load)
            mesh = cls(
                journal,
                fleet,
                Channels(credentials),
                ladders=ladders,
                home=home or state_dir,
                name=name,
                network=network or FleetFile(),
                who=who or folders.user_name(),
                read_only=read_only,
                clock=clock,
            )
            try:
                yield mesh
            finally:
                await mesh.close()
        finally:
            await asyncio.to_thread(journal.close)

    @property
    def credentials(self) -> wire.Credentials:
        """What connections to devices are made from."""
        return self.channels.credentials

    async def close(self) -> None:
        """Keep a snapshot, and close all sessions and channels. `open` does it at the end of its context."""
        await self.sessions.close()
        await self.channels.close()
        await super().close()

    async def discover(
        self,
        addresses: Iterable[str] = (),
        *,
        expect: int | None = None,
        browse: bool = True,
        browse_s: float = 1.5,
        timeout_s: float = 5.0,
    ) -> list[Device]:
        """Browse, ask every known and named address for its description; returns the ready devices.

        With `expect` it waits until that many answered, at most `timeout_s`; else it browses for
        `browse_s`. Why a device did not answer is in `fleet.sightings` and `Device.why`.
        """
        former = {key: way.checked_at for key, way in self.fleet.sightings.items()}
        seen = {d.id: d.seen_at for d in self.fleet.devices.values()}
        named = dict.fromkeys([*self.network.devices, *addresses])
        await self.record(*(sighted(self.now(), a, [a], via="static") for a in named))

        def enough(fleet: Fleet) -> bool:
            answered = sum(d.seen_at != seen.get(d.id) for d in fleet.ready)
            return expect is not None and answered >= expect

        work = Describing(
            self,
            self.channels,
            now=self.now,
            timeout_s=timeout_s,
            retry_s=timeout_s if expect else 0.0,
        )
        linger_s = timeout_s if expect else browse_s if browse else 0.0
        desired = Desired(described=former)
        async with contextlib.AsyncExitStack() as stack:
            if browse:
                await self._browse(stack)
            await Pursuit(self, desired, work, enough=enough, linger_s=linger_s).run()
        return self.fleet.ready

    async def look_out(self, *, browse: bool = True, timeout_s: float = 5.0) -> NoReturn:
        """Go on discovering until this is cancelled: what announces itself, and what did not answer at first."""
        async with contextlib.AsyncExitStack() as stack:
            if browse:
                await self._browse(stack)
            await look_out(self, self.channels, now=self.now, timeout_s=timeout_s)

    async def _browse(self, stack: contextlib.AsyncExitStack) -> None:
        browsing = watching_zeroconf(self, self.now, mesh=self.name, credentials=self.credentials)
        try:
            await stack.enter_async_context(browsing)
        except OSError as error:
            await self.note(f"cannot browse for devices here: {error}")

    async def forget(self, device: Device, why: str = "") -> None:
        """Take a device out of the mesh until it is discovered again."""
        await self.record(events.DeviceLeft(at=self.now(), who=self.who, device=device.id, why=why))

    async def read_workflow(self, path: Path) -> Workflow:
        """Read a workflow file, and keep it so that a plan for it can be applied alone."""
        return await self.workflows.read(path)

    async def keep_workflow(self, text: str, folder: str) -> Workflow:
        """Check the text of a workflow file, and keep it; its paths are relative to `folder`."""
        return await self.workflows.keep(text, folder)

    def workflow_of(self, plan: Plan) -> Workflow:
        """The workflow that a plan was made for; see `Workflows.of`."""
        return self.workflows.of(plan)

    async def catalogue(self, workflow: Workflow) -> Catalogue:
        """The variants and stage code that the workflow's stages can be served with."""
        return await self.workflows.catalogue(workflow)

    async def variants(self, workflow: Workflow | None = None) -> list[Variant]:
        """The variants of a workflow's models; of all models without one."""
        return await self.workflows.variants(workflow)

    async def profile(
        self,
        wanted: Workflow | Iterable[Variant],
        *,
        devices: Iterable[Device] | None = None,
        options: ProfileOptions | None = None,
        again: bool = False,
        report: Report = silent,
    ) -> None:
        """Measure what is missing of a workflow's variants, or of these, on the ready devices.

        Devices of one host take turns, others run side by side; one device of a class is measured for
        all. A device that fails does not stop the others: see `fleet.profile_failures`. Of a workflow, what may
        serve it best comes first. What is measured is kept when this is cancelled.
        """
        given, accuracy = await self._wanted(wanted)
        variants = {v.digest: v for v in in_order(given, accuracy)}
        chosen = list(self.fleet.ready if devices is None else devices)
        if again:
            await self._drop_profiles(chosen, variants)
        desired = Desired(
            variants=tuple(variants),
            devices=None if devices is None else frozenset(d.id for d in chosen),
        )
        work = Profiler(
            self,
            self.channels,
            self.distribution,
            variants,
            self.workflows.path_of,
            now=self.now,
            options=options or ProfileOptions(),
            report=report,
            outlook=ProfilingOutlook(desired, asyncio.get_running_loop().time),
            better=rivals(list(variants.values()), accuracy),
        )
        # What is measured side by side on one host measures the others, too.
        async with self._profiling:
            await Pursuit(self, desired, work).run()

    async def import_priors(self, published: Iterable[PublishedProfile]) -> int:
        """Take published profiles in as priors, but for those of which as new ones are known; how many were taken."""
        fresh = [one for one in published if is_fresh(self.fleet, one)]
        await self.record(
            *(events.PriorImported(at=self.now(), who=self.who, published=one) for one in fresh)
        )
        return len(fresh)

    async def _wanted(
        self, wanted: Workflow | Iterable[Variant]
    ) -> tuple[list[Variant], AccuracyTable]:
        """The variants, and the accuracies by which a workflow would choose among them, where they are known."""
        if not isinstance(wanted, Workflow):
            return list(wanted), ()
        variants = await self.variants(wanted)
        try:
            return variants, await self.workflows.accuracy(wanted)
        except InvalidDocument:
            # Nothing can be planned with this ask; its variants can be measured for the next.
            return variants, ()

    async def _drop_profiles(self, devices: list[Device], variants: dict[str, Variant]) -> None:
        held = {(d.device_class, v) for d in devices for v in variants if self.fleet.profile(d, v)}
        await self.record(
            *(
                events.ProfileDropped(
                    at=self.now(), who=self.who, device_class=device_class, variant_digest=digest
                )
                for device_class, digest in sorted(held)
            )
        )

    async def problem(
        self,
        workflow: Workflow,
        *,
        source_bytes: dict[str, float] | None = None,
        fleet: Fleet | None = None,
        adjust: Callable[[Problem], Problem] | None = None,
        functions: bool = False,
    ) -> Problem:
        """The planning problem of a workflow on the ready devices, as they are now, or as `fleet` has them.

        `adjust` makes another one of it on the same devices, such as for another load. With `functions` those of the
        fleet file's providers may serve as well; what is to be applied does without them.
        """
        catalogue = await self.catalogue(workflow)
        accuracy = await self.workflows.accuracy(workflow)
        made = snapshot(
            fleet or self.fleet,
            workflow,
            catalogue,
            accuracy=accuracy,
            network=self.network,
            source_bytes=source_bytes,
            functions=functions,
        )
        problem = adjust(made.problem) if adjust is not None else made.problem
        self._snapshots[problem.digest] = ProblemSnapshot(problem, made.inputs)
        return problem

    async def plan(
        self,
        workflow: Workflow,
        options: Options | None = None,
        *,
        source_bytes: dict[str, float] | None = None,
    ) -> Plan:
        """The best plan for a workflow on the ready devices; kept in the journal.

        Raises:
            Infeasible: no plan meets every ask of the workflow.
        """
        problem = await self.problem(workflow, source_bytes=source_bytes)
        return await self.solve(problem, options)

    async def solve(self, problem: Problem, options: Options | None = None) -> Plan:
        """The best plan for a problem of this mesh; kept in the journal.

        Solving has a thread of its own, which ends soon after nobody waits for it any more.
        """
        from coordinator.planning import Options, solve

        options, gone = options or Options(), threading.Event()
        options = replace(options, watch=options.watch.until(gone.is_set))
        try:
            plan = await asyncio.to_thread(solve, problem, options)
        finally:
            gone.set()
        await self.plan_made(plan)
        return plan

    def made_problem_of(self, plan: Plan) -> bool:
        """Whether the plan's problem was made by this mesh, so that what it was made from is known."""
        return plan.made_for.problem in self._snapshots

    async def plan_made(self, plan: Plan) -> None:
        """Keep a plan for a problem of this mesh in the journal, with what it was made from."""
        made = self._snapshots.get(plan.made_for.problem)
        await self.record(
            events.PlanMade(
                at=self.now(),
                who=self.who,
                workflow=plan.workflow,
                plan=plan,
                inputs=made.inputs if made else {},
            )
        )

    async def apply(
        self,
        plan: Plan,
        *,
        workflow: Workflow | None = None,
        run: str | None = None,
        measure_s: float = 0.0,
        report: Report = silent,
    ) -> RolloutResult:
        """Roll a plan out: push, prepare everywhere, then commit everywhere, or go back.

        `run` names the run of the workflow; without it, what runs goes on where it is. The workflow is
        the one that the plan names, from the journal, unless it is given. Each replica is measured for `measure_s`
        seconds before it serves.

        Raises:
            DigestMismatch: the workflow or the fleet has moved on since the plan was made.
            InvalidDocument: the plan does not fit the workflow.
        """
        applying = await self.applying(plan, workflow=workflow, measure_s=measure_s, report=report)
        async with self._rolling_out[plan.workflow]:
            applied = await applying.apply(run)
        await self._correct_prediction(plan, applied, applying.target.workflow)
        return applied

    async def _correct_prediction(
        self, plan: Plan, applied: RolloutResult, workflow: Workflow
    ) -> None:
        """Record what is expected of a plan by what its replicas took just before they served."""
        from coordinator.replanning.corrected_prediction import before_serving

        if not applied.batch_seconds or applied.outcome is not RolloutOutcome.COMMITTED:
            return
        made = self._snapshots.get(plan.made_for.problem)
        try:
            problem = made.problem if made is not None else await self.problem(workflow)
        except TiermeshError:
            # The mesh has changed meanwhile: nothing can be said of the plan's profiles.
            return
        found = await asyncio.to_thread(before_serving, problem, plan, applied.batch_seconds)
        await self.record(
            found.event(
                at=self.now(),
                who=self.who,
                workflow=plan.workflow,
                generation=applied.generation,
            )
        )

    async def cancel_rollout(self, workflow: str, why: str = "an operator gave it up") -> None:
        """Give the open rollout of a workflow up; the task that carries it out undoes it."""
        rollout = self._open_rollout(workflow)
        await self.record(
            events.RolloutCancelled(
                at=self.now(),
                who=self.who,
                workflow=workflow,
                generation=rollout.generation,
                why=why,
            )
        )

    async def hold_rollout(self, workflow: str, *, hold: bool = True) -> None:
        """Let no device begin another step of the open rollout of a workflow, or let them go on."""
        rollout = self._open_rollout(workflow)
        await self.record(
            events.RolloutHeld(
                at=self.now(),
                who=self.who,
                workflow=workflow,
                generation=rollout.generation,
                hold=hold,
            )
        )

    def _open_rollout(self, workflow: str) -> Rollout:
        rollout = self.fleet.rollouts.get(workflow)
        if rollout is None or rollout.outcome is not None:
            raise InvalidDocument(
                f"no rollout of `{workflow}` is in progress", fix="See: coordinator events"
            )
        return rollout

    async def applying(
        self,
        plan: Plan,
        *,
        workflow: Workflow | None = None,
        measure_s: float = 0.0,
        report: Report = silent,
    ) -> Applying:
        """A plan, checked and ready to be applied; nothing has been touched yet."""
        workflow = workflow or self.workflow_of(plan)
        applying = Applying(
            self,
            self.channels,
            Target(plan, workflow, await self.catalogue(workflow), measure_s),
            self.workflows.path_of,
            report=report,
        )
        applying.check()
        return applying

    async def settle(self, *, report: Report = silent) -> list[RolloutResult]:
        """Bring to an end what an earlier coordinator left in the middle; returns those rollouts.

        A rollout is finished where a device may have switched, and undone where none has. Where one broke,
        what ran before it runs again.
        """
        settled: list[RolloutResult] = []
        for workflow in sorted(self.fleet.rollouts):
            rollouts = Rollouts(self, workflow, self.workflows.path_of, report=report)
            async with self._rolling_out[workflow]:
                if (applied := await rollouts.settle()) is not None:
                    settled.append(applied)
        return settled

    def rolling_back(self, workflow: str, *, report: Report = silent) -> Applying:
        """The plan that served a workflow before the one that does, checked and ready to be rolled out.

        Raises:
            InvalidDocument: the workflow does not run.
            DigestMismatch: that plan no longer fits the fleet.
            TiermeshError: nothing served it before.
        """
        if workflow not in self.fleet.running:
            known = ", ".join(sorted(self.fleet.running)) or "nothing"
            raise InvalidDocument(f"`{workflow}` does not run", fix=f"Running: {known}")
        way = self.fleet.way_back.get(workflow, [])
        if not way:
            raise TiermeshError(
                f"there is nothing to roll `{workflow}` back to",
                why="no other plan served it before",
                fix="Replan: coordinator plan",
                workflow=workflow,
            )
        target = target_of(self.fleet, way[-1])
        applying = Applying(
            self, self.channels, target, self.workflows.path_of, purpose="rollback", report=report
        )
        applying.check()
        return applying

    async def roll_back(self, workflow: str, *, report: Report = silent) -> RolloutResult:
        """Roll out the plan that served a workflow before, as a new generation; see `rolling_back`."""
        async with self._rolling_out[workflow]:
            return await self.rolling_back(workflow, report=report).apply()

    def watch(
        self, *, interval_s: float = 1.0, devices: Iterable[Device] | None = None
    ) -> AsyncGenerator[Observed]:
        """Telemetry of the devices, as it comes, forever; what they report is recorded."""
        chosen = self.fleet.ready if devices is None else list(devices)
        watching = Watching(
            self, self.channels, self.sessions, chosen, now=self.now, interval_s=interval_s
        )
        return watching.stream()

    async def look(
        self, devices: Iterable[Device] | None = None, *, timeout_s: float = 1.0
    ) -> dict[str, telemetry_pb2.Sample]:
        """A sample of each device that gives one in time, by id; whoever coordinates them goes on doing so."""
        chosen = self.fleet.ready if devices is None else list(devices)
        observing = Sessions(
            self,
            lambda device, boot, said: note(self, device, boot, said),
            credentials=self.credentials,
            observer=True,
        )
        try:
            return await look(observing, chosen, timeout_s)
        finally:
            await observing.close()
