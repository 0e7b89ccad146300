"""The one client of a coordinator: the command line, the terminal interface, tests and scripts use it.

::

    async with CoordinatorClient.open(MeshOptions(variants=Path("variants"))) as client:
        await client.discover()
        workflow = await client.add_workflow_file(Path("read-signs.yaml"))
        await client.measure(workflow.digest)
        made = await client.make_plan(workflow.digest)
        rollout = await client.apply(made.plan)

Where a coordinator runs with that state folder, it does all of this; else the client opens the mesh in this process and
calls the same handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coordinator.api import unix_socket
from coordinator.api.documents import (
    ArtifactReport,
    Causes,
    DeviceDocument,
    Devices,
    Drain,
    EventDocument,
    MeasurementReport,
    Preview,
    RolloutReport,
    UnreachableAddress,
    WaitedRun,
    decode_document,
    encode_document,
)
from coordinator.api.messages import (
    PlanToApply,
    SourceBytes,
    apply_request,
    options_message,
    problem_request,
    progress_of,
    standing_of,
)
from coordinator.api.transports import DirectTransport, SocketTransport, Transport, greeted
from coordinator.api.unix_socket import SocketAddress
from coordinator.api.version import VERSION, check_version
from coordinator.fleet import Fleet
from coordinator.fleet.events import Event
from coordinator.journal.store import Entry
from coordinator.planning.diff import Difference
from coordinator.planning.options import Options
from coordinator.planning.search_progress import SearchBounds
from coordinator.progress import Report, silent
from coordinator.telemetry.status import WorkflowStatus
from tiermesh import limits
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.profile import Profile
from tiermesh.documents.published import PublishedProfile
from tiermesh.documents.reading import encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import TiermeshError, Unreachable
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.api.opening import MeshOptions
    from coordinator.api.service import CoordinatorService
    from coordinator.planning.explain import Explanation
    from coordinator.planning.simulate import SimulatedLoad, SimulatedOutcome


@dataclass(frozen=True, slots=True)
class MadePlan:
    """A plan with the problem that it was made for."""

    plan: Plan
    problem: Problem


@dataclass(frozen=True, slots=True)
class FleetState:
    """The state of the fleet; `number` is that of the newest event that it has."""

    number: int
    fleet: Fleet


class CoordinatorClient:
    """A coordinator, as its clients see it. Every call raises TiermeshErrors, which say what, why and fix.

    `info` says which coordinator answers; `is_running`: it is another process, which goes on when this client ends.
    Cancelling a call that streams interrupts it; it ends when what it had begun is undone.
    """

    def __init__(
        self, transport: Transport, info: pb.CoordinatorInfo, *, is_running: bool = False
    ) -> None:
        self._transport = transport
        self.info = info
        self.is_running = is_running

    # --- connecting ----------------------------------------------------------------------------------------------

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, options: MeshOptions) -> AsyncGenerator[CoordinatorClient]:
        """The running coordinator of a state folder; where none runs, one in this process for as long as this is open.

        Raises:
            TiermeshError: it cannot be reached, or the mesh cannot be opened.
        """
        from coordinator.api.opening import opened

        if await asyncio.to_thread(unix_socket.is_served, options.state):
            async with cls.connect(options.state) as client:
                yield client
            return
        async with opened(options) as service:
            yield cls.in_process(service)

    @classmethod
    def in_process(cls, service: CoordinatorService) -> CoordinatorClient:
        """A client of a service in this process."""
        return cls(DirectTransport(service), service.info())

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, state: Path, *, version: str = VERSION
    ) -> AsyncGenerator[CoordinatorClient]:
        """A client of the coordinator that runs with a state folder.

        Raises:
            Unreachable: none runs.
            Unsupported: it is another user's, or of another version.
        """
        if not await asyncio.to_thread(unix_socket.is_served, state):
            raise Unreachable(f"no coordinator runs in {state}", fix="Start it: coordinator run")
        with SocketAddress(state) as path:
            async with unix_socket.channel(path) as channel:
                transport = SocketTransport(channel, version=version)
                info = await greeted(transport, state)
                check_version(info.version, version)
                yield cls(transport, info, is_running=True)

    # --- settings ------------------------------------------------------------------------------------------------

    async def settings(self) -> pb.Settings:
        """The settings of the running coordinator; each is absent where none runs."""
        return await self._transport.call("get_settings", pb.GetSettingsRequest())

    async def set_auto_replan(self, *, on: bool) -> pb.Settings:
        """Whether plans are rolled out unasked when there is a reason to replan."""
        return await self._transport.call("set_settings", pb.Settings(auto_replan=on))

    # --- devices and what happens --------------------------------------------------------------------------------

    async def discover(
        self,
        addresses: Iterable[str] = (),
        *,
        expect: int | None = None,
        browse: bool = True,
        timeout_s: float = 5.0,
    ) -> pb.DiscoverReply:
        """Look for devices: the names of those that are ready, and which known and named ones do not answer."""
        request = pb.DiscoverRequest(
            addresses=addresses, expect=expect, browse=browse, timeout_s=timeout_s
        )
        return await self._transport.call("discover", request)

    async def devices(self, *, with_samples: bool = False) -> Devices:
        """All devices, by name; with samples their batteries, too."""
        devices: list[DeviceDocument] = []
        unreachable: list[UnreachableAddress] = []
        token = ""
        while True:
            request = pb.ListDevicesRequest(with_samples=with_samples, page_token=token)
            reply = await self._transport.call("list_devices", request)
            devices += [decode_document(one, DeviceDocument) for one in reply.devices]
            unreachable += [decode_document(one, UnreachableAddress) for one in reply.unreachable]
            token = reply.next_page_token
            if not token:
                return Devices(devices=devices, unreachable=unreachable)

    async def forget_device(self, device: str) -> None:
        """Take a device (by name or id) out until it is discovered again."""
        await self._transport.call("forget_device", pb.ForgetDeviceRequest(device=device))

    async def fleet(self) -> FleetState:
        """The whole state."""
        reply = await self._transport.call("get_fleet", pb.GetFleetRequest())
        return await asyncio.to_thread(_fleet_state, reply)

    async def watch_fleet(
        self, after: int = 0, *, history: int = 0
    ) -> AsyncGenerator[FleetState | Entry]:
        """The state, then each event as it is recorded, forever; `after` an event's number, only the events.

        Before the state come `history` of the newest events that it has.
        """
        request = pb.WatchFleetRequest(after=after, history=history)
        async with contextlib.aclosing(self._transport.stream("watch_fleet", request)) as changes:
            async for change in changes:
                if change.HasField("snapshot"):
                    yield await asyncio.to_thread(_fleet_state, change.snapshot)
                else:
                    event: Event = decode_document(change.event.event, cast("Any", Event))
                    yield Entry(change.event.number, event)

    async def events(
        self,
        *,
        kinds: Iterable[str] = (),
        about: str = "",
        after: int = 0,
        limit: int | None = None,
    ) -> list[EventDocument]:
        """Events with numbers above `after`, oldest first; with `limit`, the newest so many."""
        found: list[EventDocument] = []
        before = 0
        while limit is None or len(found) < limit:
            size = limits.API_PAGE if limit is None else min(limits.API_PAGE, limit - len(found))
            request = pb.ListEventsRequest(
                kinds=kinds, about=about, after=after, before=before, page_size=size
            )
            reply = await self._transport.call("list_events", request)
            found = [decode_document(one, EventDocument) for one in reply.events] + found
            before = reply.older_before
            if not before:
                break
        return found

    # --- workflows, variants, profiles, artifacts ----------------------------------------------------------------

    async def workflows(self) -> list[pb.KnownWorkflow]:
        """The workflows that were added, every version of each."""
        return await self._pages("list_workflows", pb.ListWorkflowsRequest, "workflows")

    async def add_workflow(self, text: str, folder: str) -> pb.AddWorkflowReply:
        """Add a workflow by the text of its file; its paths are relative to `folder`."""
        request = pb.AddWorkflowRequest(text=text, folder=folder)
        return await self._transport.call("add_workflow", request)

    async def add_workflow_file(self, path: Path) -> pb.AddWorkflowReply:
        """Add a workflow file.

        Raises:
            InvalidDocument: it cannot be read, or a field of it is wrong.
        """
        from coordinator.workflows.yaml_files import read_workflow

        _, source = await asyncio.to_thread(read_workflow, path)
        return await self.add_workflow(source.text, source.folder)

    async def remove_workflow(self, name: str) -> None:
        """Know a workflow that does not run no longer, in any version."""
        await self._transport.call("remove_workflow", pb.RemoveWorkflowRequest(name=name))

    async def variants(self) -> list[Variant]:
        """The variants whose artifacts are on the coordinator's machine."""
        found = await self._pages("list_variants", pb.ListVariantsRequest, "variants")
        return [decode_document(one, Variant) for one in found]

    async def profiles(
        self, variant: str = "", device: str = ""
    ) -> list[tuple[list[str], Profile]]:
        """Profiles, each with the names of the devices that it holds for."""
        found = await self._pages(
            "list_profiles", pb.ListProfilesRequest, "profiles", variant=variant, device=device
        )
        return [(list(one.devices), decode_document(one.profile, Profile)) for one in found]

    async def priors(
        self, variant: str = "", device: str = ""
    ) -> list[tuple[list[str], PublishedProfile]]:
        """Published profiles, each with the names of the devices that have no measurement and so use it."""
        found = await self._pages(
            "list_priors", pb.ListProfilesRequest, "priors", variant=variant, device=device
        )
        return [
            (list(one.devices), decode_document(one.published, PublishedProfile)) for one in found
        ]

    async def import_priors(self, published: Iterable[PublishedProfile]) -> pb.ImportPriorsReply:
        """Use published profiles where a device of their class has not measured."""
        request = pb.ImportPriorsRequest(published=[encode_json(one) for one in published])
        return await self._transport.call("import_priors", request)

    async def exported_profiles(
        self, variant: str = "", device: str = ""
    ) -> list[PublishedProfile]:
        """Measured profiles as they can be published; emulated devices and disturbed ones are left out."""
        found = await self._pages(
            "export_profiles", pb.ListProfilesRequest, "published", variant=variant, device=device
        )
        return [decode_document(one, PublishedProfile) for one in found]

    async def measure(
        self,
        workflow: str = "",
        *,
        variants: Iterable[str] = (),
        devices: Iterable[str] = (),
        again: bool = False,
        batch_sizes: Iterable[int] = (),
        threads: Iterable[int] = (),
        time_limit_s: float = 0.0,
        report: Report = silent,
    ) -> MeasurementReport:
        """Have devices measure the variants of a workflow (by digest), or of all models, or these (by digests)."""
        request = pb.MeasureRequest(
            workflow=workflow,
            variants=variants,
            devices=devices,
            again=again,
            batch_sizes=batch_sizes,
            threads=threads,
            time_limit_s=time_limit_s,
        )
        last = await self._followed("measure", request, report)
        return decode_document(last.measurements, MeasurementReport)

    async def artifacts(
        self, devices: Iterable[str] = (), *, collect: bool = False
    ) -> ArtifactReport:
        """What lies on devices and what for; with `collect`, what nothing needs is freed first."""
        request = pb.ListArtifactsRequest(devices=devices, collect=collect)
        reply = await self._transport.call("list_artifacts", request)
        return decode_document(reply.artifacts, ArtifactReport)

    # --- planning ------------------------------------------------------------------------------------------------

    async def problem(
        self,
        workflow: str,
        *,
        source_bytes: SourceBytes | None = None,
        without_devices: Iterable[str] = (),
        functions: bool = False,
    ) -> Problem:
        """The planning problem of a workflow (by digest) on the ready devices."""
        request = problem_request(workflow, source_bytes, without_devices, functions=functions)
        reply = await self._transport.call("get_problem", request)
        return await asyncio.to_thread(decode_document, reply.problem, Problem)

    async def make_plan(
        self,
        workflow: str | Problem,
        options: Options | None = None,
        *,
        source_bytes: SourceBytes | None = None,
        without_devices: Iterable[str] = (),
        functions: bool = False,
        tell: Callable[[SearchBounds], None] | None = None,
    ) -> MadePlan:
        """The best plan for a workflow (by digest), which is kept; or for a problem, which is not.

        `tell` hears of better plans and bounds as they are found; the watch of `options` is not used.

        Raises:
            Infeasible: no plan meets all that is asked.
        """
        request = pb.MakePlanRequest(options=options_message(options or Options()))
        if isinstance(workflow, Problem):
            request.problem = encode_document(workflow)
        else:
            request.problems.append(
                problem_request(workflow, source_bytes, without_devices, functions=functions)
            )
        async with contextlib.aclosing(self._transport.stream("make_plan", request)) as events:
            async for event in events:
                if event.HasField("plan"):
                    plan = decode_document(event.plan.plan, Plan)
                    return MadePlan(plan, decode_document(event.plan.problem, Problem))
                if tell is not None:
                    tell(standing_of(event.search))
        raise _cut_short("planning")

    async def explain_plan(self, plan: Plan, problem: Problem | None = None) -> Explanation:
        """Why a plan is as it is; without its problem, if that is still the mesh's."""
        from coordinator.planning.explain import Explanation

        request = pb.ExplainPlanRequest(
            plan=encode_document(plan),
            problem=encode_document(problem) if problem is not None else b"",
        )
        reply = await self._transport.call("explain_plan", request)
        return decode_document(reply.explanation, Explanation)

    async def simulate_plan(
        self, plan: Plan, problem: Problem, load: SimulatedLoad, *, slower: float = 0.0
    ) -> SimulatedOutcome:
        """Play a plan through; devices are slower by the share `slower`."""
        from coordinator.planning.simulate import SimulatedOutcome

        request = pb.SimulatePlanRequest(
            plan=encode_document(plan),
            problem=encode_document(problem),
            requests=load.requests,
            scale=load.scale,
            arrivals=load.arrivals or "",
            times=load.times,
            seed=load.seed,
            fail=load.fail or "",
            slower=slower,
        )
        reply = await self._transport.call("simulate_plan", request)
        return decode_document(reply.outcome, SimulatedOutcome)

    async def diff_plans(
        self, after: Plan, before: Plan | None = None, *, price_per_start: float = 0.0
    ) -> Difference:
        """What a plan would change: against another one, or against the plan that runs."""
        request = pb.DiffPlansRequest(
            after=encode_document(after),
            before=encode_document(before) if before is not None else b"",
            price_per_start=price_per_start,
        )
        reply = await self._transport.call("diff_plans", request)
        return decode_document(reply.difference, Difference)

    # --- rollouts ------------------------------------------------------------------------------------------------

    async def preview_apply(
        self, *plans: Plan | str | PlanToApply, run: str = "", must_end: bool = False
    ) -> list[Preview]:
        """What applying plans would do; nothing is touched."""
        request = apply_request(plans, run=run, must_end=must_end)
        reply = await self._transport.call("preview_apply", request)
        return [decode_document(one, Preview) for one in reply.previews]

    async def apply(
        self,
        *plans: Plan | str | PlanToApply,
        run: str = "",
        measure_s: float = 0.0,
        must_end: bool = False,
        report: Report = silent,
    ) -> list[RolloutReport]:
        """Roll plans out, or plans by their digests, one after another; it stops at the first that fails.

        Each replica is measured for `measure_s` seconds before it serves. `must_end` refuses a run that never ends.
        """
        request = apply_request(plans, run=run, measure_s=measure_s, must_end=must_end)
        return await self._rolled_out("apply", request, report)

    async def cancel_rollout(self, workflow: str, why: str = "") -> None:
        """Give the open rollout of a workflow up; the task that carries it out undoes it."""
        request = pb.CancelRolloutRequest(workflow=workflow, why=why)
        await self._transport.call("cancel_rollout", request)

    async def hold_rollout(self, workflow: str, *, hold: bool = True) -> None:
        """Let no device begin another step of the open rollout of a workflow, or let them go on."""
        request = pb.HoldRolloutRequest(workflow=workflow, hold=hold)
        await self._transport.call("hold_rollout", request)

    async def preview_rollback(
        self, workflow: str = ""
    ) -> tuple[pb.PreviewRollbackReply, Difference]:
        """What rolling back would change."""
        request = pb.RollbackRequest(workflow=workflow)
        reply = await self._transport.call("preview_rollback", request)
        return reply, decode_document(reply.difference, Difference)

    async def roll_back(self, workflow: str = "", *, report: Report = silent) -> RolloutReport:
        """Roll out the plan that served a workflow before, as a new generation."""
        request = pb.RollbackRequest(workflow=workflow)
        return (await self._rolled_out("rollback", request, report))[0]

    async def drain(
        self,
        device: str,
        *,
        dry_run: bool = False,
        source_bytes: SourceBytes | None = None,
        planned: Callable[[Drain], None] = lambda _planned: None,
        report: Report = silent,
    ) -> Drain:
        """Roll out plans without a device and leave it out of new ones; `planned` hears first what would change.

        Raises:
            Infeasible: a workflow cannot be served without it.
        """
        request = pb.DrainRequest(device=device, dry_run=dry_run, source_bytes=source_bytes)
        found: Drain | None = None
        async with contextlib.aclosing(self._transport.stream("drain", request)) as events:
            async for event in events:
                if event.HasField("progress"):
                    report(progress_of(event.progress))
                    continue
                if found is None:
                    planned(decode_document(event.drain, Drain))
                found = decode_document(event.drain, Drain)
        if found is None:
            raise _cut_short("draining")
        return found

    async def undo_drain(self, device: str) -> str:
        """Plan for a device again; returns its name."""
        reply = await self._transport.call("undo_drain", pb.UndoDrainRequest(device=device))
        return reply.name

    # --- what runs -----------------------------------------------------------------------------------------------

    async def status(self, workflow: str = "", *, interval_s: float = 1.0) -> list[WorkflowStatus]:
        """What runs, measured over `interval_s` seconds."""
        request = pb.GetStatusRequest(workflow=workflow, interval_s=interval_s)
        reply = await self._transport.call("get_status", request)
        return [decode_document(one, WorkflowStatus) for one in reply.workflows]

    async def watch_samples(
        self, devices: Iterable[str] = (), *, interval_s: float = 0.5
    ) -> AsyncGenerator[pb.DeviceSample]:
        """What the devices measure, as it comes, forever; of those that become ready later, too."""
        request = pb.WatchSamplesRequest(devices=devices, interval_s=interval_s)
        async with contextlib.aclosing(self._transport.stream("watch_samples", request)) as found:
            async for sample in found:
                yield sample

    async def explain_running(
        self, workflow: str = "", *, interval_s: float = 10.0
    ) -> list[Causes]:
        """What of running workflows is otherwise than planned, measured over `interval_s` seconds."""
        request = pb.ExplainRunningRequest(workflow=workflow, interval_s=interval_s)
        reply = await self._transport.call("explain_running", request)
        return [decode_document(one, Causes) for one in reply.workflows]

    async def wait(
        self,
        workflow: str = "",
        *,
        for_s: float | None = None,
        timeout_s: float | None = None,
        show: Callable[[pb.WaitProgress], None] = lambda _progress: None,
    ) -> WaitedRun:
        """Wait until a run has ended, or for a time, and say whether it kept its SLO."""
        request = pb.WaitRequest(workflow=workflow, for_s=for_s or 0.0, timeout_s=timeout_s or 0.0)
        async with contextlib.aclosing(self._transport.stream("wait", request)) as events:
            async for event in events:
                if event.HasField("progress"):
                    show(event.progress)
                else:
                    return decode_document(event.waited, WaitedRun)
        raise _cut_short("waiting")

    # --- shared --------------------------------------------------------------------------------------------------

    async def _pages(self, name: str, request: Any, of: str, **fields: str) -> list[Any]:
        """The entries of all pages of a list."""
        found: list[Any] = []
        token = ""
        while True:
            reply = await self._transport.call(name, request(page_token=token, **fields))
            found += getattr(reply, of)
            token = reply.next_page_token
            if not token:
                return found

    async def _followed(self, name: str, request: Any, report: Report) -> Any:
        """The last event of a call that tells its progress."""
        async with contextlib.aclosing(self._transport.stream(name, request)) as events:
            async for event in events:
                if not event.HasField("progress"):
                    return event
                report(progress_of(event.progress))
        raise _cut_short(name)

    async def _rolled_out(self, name: str, request: Any, report: Report) -> list[RolloutReport]:
        found: list[RolloutReport] = []
        async with contextlib.aclosing(self._transport.stream(name, request)) as events:
            async for event in events:
                if event.HasField("progress"):
                    report(progress_of(event.progress))
                else:
                    found.append(decode_document(event.rollout, RolloutReport))
        if not found:
            raise _cut_short(name)
        return found


def _fleet_state(message: pb.FleetSnapshot) -> FleetState:
    return FleetState(message.number, decode_document(message.fleet, Fleet))


def _cut_short(what: str) -> TiermeshError:
    return TiermeshError(
        f"{what} ended without an answer",
        why="the coordinator was stopped meanwhile",
        fix="See: coordinator events",
    )
