"""Carries out what the flows of a device decide: streams, the compute lane, the spools and the sinks' files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import Final

from agent.serving.arrivals import Arrivals
from agent.serving.clock import Clock
from agent.serving.compute import ComputeLane
from agent.serving.datafolder import DataFolder
from agent.serving.flow import Flow
from agent.serving.generation import Generation
from agent.serving.inference import Artifacts
from agent.serving.instructions import (
    Acknowledge,
    Forget,
    Hangup,
    Instruction,
    Notice,
    Read,
    Record,
    Unload,
    Wake,
    Write,
)
from agent.serving.ledger import Ledger, Request
from agent.serving.replicas import Replicas, Report
from agent.serving.results import ResultFile, SinkWriter
from agent.serving.sink import Sink
from agent.serving.source import Source
from agent.serving.spool import Spool
from agent.serving.streams.transport import Incoming, Outgoing
from tiermesh.documents.assignment import Assignment, ReplicaSpec, SourceSpec, StageSpec
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Packed, pack

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
_STOP_GRACE_S: Final = 2.0


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
        slowdown: float,
        insecure_lan: bool,
        notice: Callable[[str, str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._device = device
        self._epoch = epoch
        self._data = data
        self._state = state
        self._insecure_lan = insecure_lan
        self._notice = notice
        self._clock = Clock()
        self._lane = ComputeLane(self._loop)
        self._disk = ThreadPoolExecutor(1, "disk")
        self._flows: dict[str, Flow] = {}
        self._outgoing: dict[tuple[str, str], Outgoing] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._spools: dict[tuple[str, str], Spool] = {}
        self._writers: dict[tuple[str, str], SinkWriter] = {}
        self._replicas = Replicas(artifacts, slowdown, lambda runner: self._lane.call(runner.close))
        self._pumping: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
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

    # Generations

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        """Load all that an assignment needs beside what runs.

        Raises:
            TiermeshError: a replica, a source or a sink cannot be served here; what runs is untouched.
        """
        generation = Generation(assignment, self.now())
        await self._replicas.load(assignment, report)
        try:
            flow = self._flows.get(assignment.workflow) or Flow(
                assignment.workflow, self._device, self._epoch
            )
            for spec, stage in generation.sources_and_sinks():
                await self._check_end(flow, assignment, spec, stage)
        except BaseException:
            self._replicas.unload(assignment.workflow, assignment.generation)
            raise
        self._flows[assignment.workflow] = flow
        flow.prepare(generation)

    async def _check_end(
        self, flow: Flow, assignment: Assignment, spec: ReplicaSpec, stage: StageSpec
    ) -> None:
        try:
            if stage.sink is not None:
                await self._open_sink(flow, assignment, stage)
            elif stage.source is not None:
                await self._on_disk(partial(self._offered, stage.source))
        except TiermeshError as error:
            error.what = f"the replica {spec.id} cannot be served: {error.what}"
            error.fields["replica"] = spec.id
            raise

    async def commit(self, workflow: str, number: int) -> None:
        """Let new requests take a prepared generation.

        Raises:
            TiermeshError: it is not prepared, or a newer one runs.
        """
        flow = self._flows.get(workflow)
        if flow is None:
            raise TiermeshError(f"generation {number} of {workflow} is not prepared")
        flow.commit(number, self.now())
        generation = flow.generations[number]
        for sink in flow.sinks.values():
            sink.begin(generation.assignment.run)
        keys: set[str] = set()
        for spec, stage in generation.sources_and_sinks():
            if stage.source is not None:
                keys.add(await self._start_source(flow, generation, spec, stage, stage.source))
        for key, source in flow.sources.by_key.items():
            if key not in keys:
                source.retire()
        self.changed()

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
        longest = max((g.assignment.deadline_seconds for g in flow.generations.values()), default=0)
        until = self.now() + longest + _STOP_GRACE_S
        while not flow.is_drained(self.now()) and self.now() < until:
            await asyncio.sleep(TICK_S)
        await self._remove(workflow)

    async def _remove(self, workflow: str) -> None:
        flow = self._flows.pop(workflow)
        for number in flow.generations:
            self._replicas.unload(workflow, number)
        for key in [k for k in self._outgoing if k[0] == workflow]:
            await self._outgoing.pop(key).close()
        for key in [k for k in self._writers if k[0] == workflow]:
            await asyncio.to_thread(self._writers.pop(key).close)
        for key in [k for k in self._spools if k[0] == workflow]:
            await self._on_disk(self._spools.pop(key).close)

    async def close(self) -> None:
        """End everything at once; what is in flight goes on after the next start."""
        self._closed = True
        for handle in (self._pumping, self._timer):
            if handle is not None:
                handle.cancel()
        self._lane.close()
        for workflow in list(self._flows):
            await self._remove(workflow)
        self._disk.shutdown()

    # Sources and sinks

    def _offered(self, spec: SourceSpec) -> tuple[list[str], list[float]]:
        times = self._data.times(spec.trace) if spec.trace is not None else []
        return self._data.files(spec.path), times

    async def _start_source(
        self,
        flow: Flow,
        generation: Generation,
        spec: ReplicaSpec,
        stage: StageSpec,
        source: SourceSpec,
    ) -> str:
        assignment, router = generation.assignment, generation.router
        run = assignment.run + router.graph.run_suffix(stage.name)
        if router.is_split(stage.name):
            run += "@" + self._device
        key = f"{assignment.run}.{stage.name}"
        files, trace = await self._on_disk(partial(self._offered, source))
        arrivals = Arrivals(source, len(files), router.share(spec.id, stage.name), trace)
        if key in flow.sources.by_key:
            flow.sources.by_key[key].adopt(spec.id, arrivals, files, self.now())
            return key
        ledger = Ledger(router.graph.sinks_below(stage.name), assignment.deadline_seconds)
        path = self._state / "spool" / assignment.workflow / f"{key}.db"
        spool = self._spools[flow.workflow, key] = await self._on_disk(partial(Spool, path))
        ledger.restore(*await self._on_disk(spool.load))
        flow.sources.by_key[key] = Source(
            key,
            stage.name,
            spec.id,
            workflow=assignment.workflow,
            run=run,
            arrivals=arrivals,
            files=files,
            ledger=ledger,
            now=self.now(),
        )
        return key

    async def _open_sink(self, flow: Flow, assignment: Assignment, stage: StageSpec) -> None:
        if stage.name in flow.sinks or stage.sink is None:
            return
        if stage.sink.path is not None:
            path = self._data.path(stage.sink.path)
        else:
            path = self._state / "sinks" / assignment.workflow / f"{stage.name}.jsonl"
        file = await asyncio.to_thread(ResultFile, path)
        remembered, endings = await asyncio.to_thread(file.remembered, assignment.run)
        flow.sinks[stage.name] = Sink(assignment.run, remembered, endings)
        self._writers[flow.workflow, stage.name] = SinkWriter(
            file,
            with_payload=stage.sink.kind == "jsonl",
            clock=self._clock,
            done=lambda writes: self._loop.call_soon_threadsafe(self._written, flow, writes),
            trouble=lambda why: self._loop.call_soon_threadsafe(
                self._notice, "sink-blocked", f"{flow.workflow}, {stage.name}: {why}"
            ),
        )

    async def _on_disk(self, work):  # noqa: ANN001, ANN202
        return await self._loop.run_in_executor(self._disk, work)

    # Instructions

    def _pump(self) -> None:
        """Carry out what the flows say, give the compute lane its next job, and set the timer."""
        self._pumping = None
        now = self.now()
        for flow in list(self._flows.values()):
            for instruction in flow.take_instructions():
                self._carry_out(flow, instruction)
        self._compute(now)
        self._set_timer(now)

    def _carry_out(self, flow: Flow, instruction: Instruction) -> None:
        match instruction:
            case Wake(device):
                self._stream(flow, device)
            case Acknowledge(device):
                self.incoming.acknowledge(flow.workflow, device)
            case Write(sink):
                self._writers[flow.workflow, sink].put(instruction)
            case Read(source, request):
                self._disk.submit(self._read, flow, source, request)
            case Record(source, requests):
                self._disk.submit(self._record, flow, source, requests)
            case Forget(source, request):
                self._disk.submit(self._forget, flow, source, request)
            case Hangup(device):
                outgoing = self._outgoing.get((flow.workflow, device))
                if outgoing is not None:
                    outgoing.hang_up()
            case Unload(generation):
                self._replicas.unload(flow.workflow, generation)
            case Notice(kind, text):
                self._notice(kind, text)

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
            outgoing = self._outgoing[key] = Outgoing(
                self, flow, device, address, insecure_lan=self._insecure_lan
            )
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
                self._lane.run(runner, job, partial(self._computed, self._flows[name], job))
                return

    def _computed(self, flow: Flow, job, outcomes, seconds: float) -> None:  # noqa: ANN001
        flow.computed(job, outcomes, seconds, self.now())
        self._pump_now()

    def _pump_now(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
        if not self._closed:
            self._pump()

    def _set_timer(self, now: float) -> None:
        at = min((flow.wake_at(now) for flow in self._flows.values()), default=inf)
        if self._timer is not None:
            self._timer.cancel()
        delay = min(max(at - now, 0.0), TICK_S)
        self._timer = self._loop.call_later(delay, self._tick) if self._flows else None

    def _tick(self) -> None:
        now = self.now()
        for flow in self._flows.values():
            flow.tick(now)
        self._pump_now()

    # In the disk's thread

    def _record(self, flow: Flow, source: str, requests: tuple[Request, ...]) -> None:
        try:
            self._spools[flow.workflow, source].accept(requests)
        except StorageFull as error:
            self._later(self._notice, "source-blocked", f"{flow.workflow}: {error}")
            self._later(self._loop.call_later, 1.0, self._carry_out, flow, Record(source, requests))
            return
        self._later(self._flow_event, flow, flow.recorded, source, requests)

    def _read(self, flow: Flow, source: str, request: Request) -> None:
        try:
            packed: Packed = pack({"name": request.file, "image": self._data.read(request.file)})
        except TiermeshError as error:
            self._later(self._flow_event, flow, flow.unreadable, source, request, str(error))
            return
        self._later(self._flow_event, flow, flow.inject, source, request, packed)

    def _forget(self, flow: Flow, source: str, request: Request) -> None:
        spool = self._spools.get((flow.workflow, source))
        if spool is not None:
            spool.forget([request])

    def _later(self, call: Callable[..., object], *args: object) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(call, *args)

    def _flow_event(self, flow: Flow, event: Callable[..., None], *args: object) -> None:
        now = self.now()
        event(*args, now)
        flow.tick(now)
        self._pump_now()

    def _written(self, flow: Flow, writes: list[Write]) -> None:
        now = self.now()
        for write in writes:
            flow.written(write, now)
        self.changed()
