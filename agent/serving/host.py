"""Carries out what the flows of a device decide: streams, the compute lane, the spools and the sinks' files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from agent.model_host.inference import Artifacts
from agent.serving.aggregate_io.states import States
from agent.serving.batcher import Job, place_of, places_of
from agent.serving.clock import Clock
from agent.serving.compute.lane import ComputeLane
from agent.serving.compute.replicas import Replicas, Report
from agent.serving.compute.runners import Outcomes
from agent.serving.compute.running_note import RunningNote
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.endpoint_host import EndpointHost
from agent.serving.flow import Flow
from agent.serving.instructions import (
    Acknowledge,
    Adopt,
    Drop,
    Dump,
    Forget,
    Give,
    Hangup,
    Instruction,
    Notice,
    Own,
    Prepared,
    Read,
    Record,
    RejectOffers,
    Settled,
    Unload,
    Wake,
    Write,
    WriteLog,
)
from agent.serving.routing.generation import Generation
from agent.serving.routing.graph import neighbours
from agent.serving.stream_io.transport import Incoming, Outgoing
from agent.serving.tuning.entries import Entry
from agent.serving.tuning.logbook import Logbook
from tiermesh import limits
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import TiermeshError
from tiermesh.wire import Credentials

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
FLOWS_PER_WORKER: Final = 1 << 20
"""More than workflows come to a worker in its life: epochs of its successor are greater than all of its own."""
_STOP_GRACE_S: Final = 2.0
_STATES_S: Final = 40.0
"""States of aggregates may take so long to come over; the coordinator waits a little longer for the commit."""
_REACH_S: Final = 2.0
"""A switch waits so long at most for streams to be up."""


class Computing(NamedTuple):
    """What is in the compute lane: where, and after how many seconds it is taken to hang."""

    where: str
    longest_s: float


class Host:
    """The flows of a device and all that is around them. Lives in one event loop."""

    def __init__(
        self,
        *,
        device: str,
        epoch: int,
        data: DataFolder,
        state: Path,
        artifacts: Artifacts,
        threads: int,
        slowdown: float,
        credentials: Credentials,
        notice: Callable[[str, str], None],
        logbook: Logbook | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._device = device
        self._epoch = epoch
        self._credentials = credentials
        self._tell = notice
        self._logbook = logbook
        self._clock = Clock()
        self._lane = ComputeLane(self._loop)
        self._endpoints = EndpointHost(self, data, state)
        self._note = RunningNote(state / "serving")
        self._suspects = self._note.load()
        self._flows: dict[str, Flow] = {}
        self._flows_made = 0
        self._outgoing: dict[tuple[str, str], Outgoing] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._drained: dict[str, asyncio.Event] = {}
        self._settled = asyncio.Event()
        self._replicas = Replicas(
            artifacts,
            threads=threads,
            slowdown=slowdown,
            close=lambda runner: self._lane.call(runner.close),
            write_down=self.write_down,
            states=state / "aggregates",
        )
        self._states = States(self, self._replicas, self._lane)
        self.computing: Computing | None = None
        self._pumping: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = self.began_at = self._clock()
        self._closed = False
        self.incoming = Incoming(self, device)

    # What the transport sees

    def now(self) -> float:
        """The worker's clock."""
        return self._clock()

    def flow(self, workflow: str) -> Flow | None:
        """The flow of a workflow that is served here."""
        return self._flows.get(workflow)

    @property
    def flows(self) -> dict[str, Flow]:
        """All flows, by workflow."""
        return self._flows

    def changed(self) -> None:
        """A flow has taken an event: carry out what it says, soon."""
        if self._pumping is None and not self._closed:
            self._pumping = self._loop.call_soon(self._pump)

    # What the files' threads call

    def event(self, flow: Flow, event: Callable[[Flow, float], None]) -> None:
        """Give a flow an event, in the event loop, and carry out what it then says."""
        self._in_loop(lambda: self._event(flow, event))

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in the event loop, later."""
        self._in_loop(lambda: self._loop.call_later(seconds, call))

    def notice(self, kind: str, text: str) -> None:
        """Tell the agent something that people should see."""
        self._in_loop(lambda: self._tell(kind, text))

    def write_down(self, entry: Entry) -> None:
        """Write something down, when there is time."""
        if self._logbook is not None:
            self._logbook.add(entry)

    def end_well(self) -> None:
        """The worker ends because it should: nothing that runs is to blame."""
        self._note.ended()

    def close_logbook(self) -> None:
        """Write what waits to be written down; blocks."""
        if self._logbook is not None:
            self._logbook.close()

    @property
    def dropped_entries(self) -> int:
        """What could not be written down."""
        return self._logbook.dropped if self._logbook is not None else 0

    def _in_loop(self, call: Callable[[], object]) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(call)

    def _event(self, flow: Flow, event: Callable[[Flow, float], None]) -> None:
        now = self.now()
        event(flow, now)
        flow.tick(now)
        self._pump_now()

    # Generations

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        """Load all that an assignment needs beside what runs.

        Raises:
            TiermeshError: a replica, a source or a sink cannot be served here; what runs is untouched.
        """
        running = self._flows.get(assignment.workflow)
        if running is not None and running.current == assignment.generation:
            return
        generation = Generation(assignment, self.now())
        await self._replicas.load(assignment, report)
        try:
            flow = self._flows.get(assignment.workflow) or self._new_flow(assignment.workflow)
            for spec, stage in generation.sources_and_sinks():
                await self._endpoints.prepare(flow, assignment, spec, stage)
            await self._endpoints.remember_sinks(flow, assignment)
        except BaseException:
            self._replicas.unload(assignment.workflow, assignment.generation)
            raise
        self._flows[assignment.workflow] = flow
        self._resume_aggregates(flow, generation)
        flow.prepare(generation)

    def _new_flow(self, workflow: str) -> Flow:
        """A flow of an epoch of its own.

        A workflow may be stopped and come back while its worker lives on. The numbers of its streams begin anew then,
        and whoever still counts from before must be told: by the epoch, as after a start of the worker.
        """
        self._flows_made += 1
        epoch = self._epoch * FLOWS_PER_WORKER + self._flows_made
        return Flow(workflow, self._device, epoch, self._suspects)

    def _resume_aggregates(self, flow: Flow, generation: Generation) -> None:
        for spec in generation.assignment.replicas:
            aggregate = self._replicas.aggregate(flow.workflow, spec.stage)
            if aggregate is None:
                continue
            is_new = not flow.handovers.knows(spec.stage)
            flow.resume(spec.stage, aggregate.held, generation)
            if not is_new or not flow.handovers.is_here(spec.stage):
                continue
            where = (
                "on disk" if aggregate.is_kept else "in memory only; lost when the worker is killed"
            )
            resumed = f"; it goes on with {aggregate.resumed_keys} keys"
            text = f"{flow.workflow}, {spec.stage}: its state is {where}"
            self._tell("aggregate-state", text + (resumed if aggregate.resumed_keys else ""))

    async def stand_by(self, assignment: Assignment) -> None:
        """Keep the replicas of an assignment loaded that may come, in place of those before.

        Raises:
            TiermeshError: one cannot be served here; those before it stay.
        """
        await self._replicas.stand_by(assignment)

    async def commit(self, workflow: str, number: int) -> None:
        """Let new requests take a prepared generation.

        Raises:
            TiermeshError: it is not prepared, or a newer one runs.
        """
        flow = self._flows.get(workflow)
        if flow is None:
            raise TiermeshError(f"generation {number} of {workflow} is not prepared")
        await self._reach(flow, number)
        flow.commit(number, self.now())
        generation = flow.generations[number]
        self._replicas.forget_states(generation.assignment)
        for sink in flow.sinks.values():
            sink.begin(generation.assignment.run)
        keys: set[str] = set()
        for spec, stage in generation.sources_and_sinks():
            if stage.source is not None:
                keys.add(await self._endpoints.start_source(flow, generation, spec, stage))
        await self._endpoints.retire_sources(flow, keys)
        await self._take_states(flow)

    async def _take_states(self, flow: Flow) -> None:
        """Have the states of aggregates here before the commit is over: then the devices that had them may go.

        Raises:
            TiermeshError: one has not come.
        """
        self.changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATES_S):
                while not flow.handovers.are_settled:
                    self._settled.clear()
                    await self._settled.wait()
        failures = dict(flow.handovers.failures)
        if not failures and flow.handovers.are_settled:
            return
        raise TiermeshError(
            f"the state of {', '.join(failures) or 'an aggregate'} of {flow.workflow} was not transferred",
            why="; ".join(failures.values()) or f"it takes more than {_STATES_S:g} s",
            fix="The state stays on the former device: apply the plan again",
        )

    async def _reach(self, flow: Flow, number: int) -> None:
        """Have the streams of a prepared generation up before requests take it, while the one before serves.

        A stream that lies idle, such as to a device that had left the workflow and is back, may wait a second before
        it connects again; a new one does not. A device that is out of reach does not stop the others.
        """
        generation = flow.generations.get(number)
        if generation is None or flow.current in (0, number):
            return
        streams: list[Outgoing] = []
        for device in neighbours(generation.assignment):
            idle = self._outgoing.get((flow.workflow, device))
            if idle is not None and not idle.connected.is_set():
                await self._outgoing.pop((flow.workflow, device)).close()
            self._stream(flow, device)
            streams += [o for o in [self._outgoing.get((flow.workflow, device))] if o is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REACH_S):
                await asyncio.gather(*(stream.connected.wait() for stream in streams))

    def abort(self, workflow: str, number: int) -> None:
        """Forget a prepared generation."""
        flow = self._flows.get(workflow)
        if flow is not None and number != flow.current and number in flow.generations:
            flow.abort(number)
            self._replicas.unload(workflow, number)

    async def stop(self, workflow: str) -> None:
        """Drain a workflow, for as long as its deadline at most, and forget it."""
        flow = self._flows.get(workflow)
        if flow is None:
            return
        flow.stop()
        await self._endpoints.retire_sources(flow, ())
        longest = max((g.assignment.deadline_seconds for g in flow.generations.values()), default=0)
        drained = self._drained.setdefault(workflow, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest + _STOP_GRACE_S):
                await drained.wait()
        await self._remove(workflow)
        self._replicas.forget_workflow(workflow)

    async def _remove(self, workflow: str) -> None:
        flow = self._flows.pop(workflow)
        self.incoming.forget(workflow)
        for number in flow.generations:
            self._replicas.unload(workflow, number)
        for key in [k for k in self._outgoing if k[0] == workflow]:
            await self._outgoing.pop(key).close()
        await self._endpoints.close_workflow(workflow)
        self._drained.pop(workflow, None)

    async def close(self) -> None:
        """End everything at once; what is in flight goes on after the next start."""
        self._closed = True
        for handle in (self._pumping, self._timer):
            if handle is not None:
                handle.cancel()
        self._lane.close()
        self.end_well()
        await asyncio.to_thread(self.close_logbook)
        for workflow in list(self._flows):
            await self._remove(workflow)
        self._endpoints.close()

    # Instructions

    def _pump(self) -> None:
        """Carry out what the flows say, give the compute lane its next job, and set the timer."""
        self._pumping = None
        now = self.now()
        for flow in list(self._flows.values()):
            for instruction in flow.take_instructions():
                self._carry_out(flow, instruction)
        self._settled.set()
        self._compute(now)
        self._set_timer(now)

    def _carry_out(self, flow: Flow, instruction: Instruction) -> None:
        match instruction:
            case Wake() | Hangup() | Acknowledge():
                self._speak(flow, instruction)
            case Write() | Read() | Record() | RejectOffers() | Forget() | Settled() | Drop():
                self._endpoints.carry_out(flow, instruction)
            case Dump() | Adopt() | Own() | Give():
                self._states.carry_out(flow, instruction)
            case Unload(generation):
                self._replicas.unload(flow.workflow, generation)
            case Notice(kind, text):
                self._tell(kind, text)
            case WriteLog(entry):
                self.write_down(entry)

    def _speak(self, flow: Flow, instruction: Wake | Hangup | Acknowledge) -> None:
        match instruction:
            case Wake(device):
                self._stream(flow, device)
            case Acknowledge(device):
                self.incoming.acknowledge(flow.workflow, device)
            case Hangup(device):
                outgoing = self._outgoing.get((flow.workflow, device))
                if outgoing is not None:
                    outgoing.hang_up()

    def _stream(self, flow: Flow, device: str) -> None:
        key = flow.workflow, device
        address = flow.links.addresses.get(device)
        outgoing = self._outgoing.get(key)
        if outgoing is not None and address not in (None, outgoing.address):
            task = asyncio.create_task(self._outgoing.pop(key).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            outgoing = None
        if outgoing is None and address is not None:
            outgoing = Outgoing(self, flow, device, address, self._credentials)
            self._outgoing[key] = outgoing
        if outgoing is not None:
            outgoing.wake()

    def _compute(self, now: float) -> None:
        if not self._lane.is_free:
            return
        waiting = sorted((flow.ready(now), name) for name, flow in self._flows.items())
        for (at, _), name in waiting:
            job = self._flows[name].next_job(now) if at <= now else None
            if job is not None:
                runner = self._replicas.runner(name, job.generation, job.replica)
                served = self._flows[name].generations[job.generation].assignment
                longest_s = max(served.deadline_seconds / 2, limits.BATCH_LONGEST_S)
                self.computing = Computing(f"{name}, {job.replica}", longest_s)
                self._note.began(places_of(job))
                self._lane.run(runner, job, partial(self._computed, self._flows[name], job))
                return

    def _computed(self, flow: Flow, job: Job, outcomes: Outcomes, seconds: float) -> None:
        self.computing = None
        self._note.ended()
        through = [place_of(work) for work, out in outcomes if not isinstance(out, Prepared)]
        if self._suspects.cleared(through):
            self._note.keep(self._suspects)
        flow.computed(job, outcomes, seconds, self.now())
        self._pump_now()

    def _pump_now(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
        if not self._closed:
            self._pump()

    def _set_timer(self, now: float) -> None:
        """Tick when a flow asks for it. Events, however many, never put a tick off: it is what notices silence."""
        wishes = [flow.wake_at(now) for flow in self._flows.values()]
        at = min([self._ticked + TICK_S, *wishes])
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at - now, 0.0)
        self._timer = self._loop.call_later(delay, self._tick) if self._flows else None

    def _tick(self) -> None:
        now = self._ticked = self.now()
        for workflow, flow in self._flows.items():
            flow.tick(now)
            if workflow in self._drained and flow.is_drained(now):
                self._drained[workflow].set()
        self._pump_now()
