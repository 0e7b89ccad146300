"""The files at the ends of a device's workflows: what sources read and keep, and what sinks write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypedDict, TypeVar

from agent.serving.clock import anchor
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.results import ResultFile, SinkWriter, read_endings
from agent.serving.endpoint_io.spool import Spool, remove_if_empty
from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.sink import SinkState
from agent.serving.endpoints.source import SourceState
from agent.serving.endpoints.sources import count_for, locate_sinks
from agent.serving.flow import Flow
from agent.serving.instructions import Drop, Forget, Read, Record, Settled, Write
from agent.serving.routing.generation import Generation
from tiermesh.documents.assignment import (
    Assignment,
    ReplicaSpec,
    SinkSpec,
    SourceSpec,
    StageSpec,
)
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Kind, pack

T = TypeVar("T")

_AGAIN_S: Final = 1.0
_TOGETHER_S: Final = 0.1


class _Offer(TypedDict):
    """What a source is made of, besides its ledger."""

    key: str
    stage: str
    replica: str
    workflow: str
    run: str
    arrivals: ArrivalSchedule
    files: list[str]


class EndpointDriver(Protocol):
    """What carries out a flow's instructions; these may be called from any thread."""

    def now(self) -> float:
        """The worker's clock."""
        ...

    def event(self, flow: Flow, event: Callable[[Flow, float], None]) -> None:
        """Give a flow an event, in the event loop, and carry out what it then says."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in the event loop, later."""
        ...

    def notice(self, kind: str, text: str) -> None:
        """Tell the agent something that people should see."""
        ...


class Endpoints:
    """Spools and files of sources share one thread; each sink's file has its own."""

    def __init__(self, driver: EndpointDriver, data: DataFolder, state: Path) -> None:
        self._driver = driver
        self._data = data
        self._state = state
        self._disk = ThreadPoolExecutor(1, "disk")
        self._spools: dict[tuple[str, str], Spool] = {}
        self._writers: dict[tuple[str, str], SinkWriter] = {}
        self._drops: dict[tuple[str, str], list[Drop]] = {}
        self._paths: dict[tuple[str, str], Path] = {}

    async def prepare(
        self, flow: Flow, assignment: Assignment, spec: ReplicaSpec, stage: StageSpec
    ) -> None:
        """Check a source's files, or open a sink's.

        Raises:
            TiermeshError: it cannot be served here; names the replica.
        """
        try:
            if stage.sink is not None:
                await self._open_sink(flow, assignment, stage)
            elif stage.source is not None:
                await self._on_disk(partial(self._offered, stage.source))
        except TiermeshError as error:
            error.what = f"the replica {spec.id} cannot be served: {error.what}"
            error.fields["replica"] = spec.id
            raise

    async def start_source(
        self, flow: Flow, generation: Generation, spec: ReplicaSpec, stage: StageSpec
    ) -> str:
        """Let a source go on where its run stopped; returns its key."""
        assignment, router = generation.assignment, generation.router
        key = f"{assignment.run}.{stage.name}"
        if stage.source is None:
            return key
        files, trace = await self._on_disk(partial(self._offered, stage.source))
        arrivals = ArrivalSchedule(
            stage.source, len(files), router.share(spec.id, stage.name), trace
        )
        if key in flow.sources.by_key:
            source = flow.sources.by_key[key]
            source.adopt(spec.id, arrivals, files, self._driver.now())
            await self._keep_sinks(flow, source)
            return key
        offer = _Offer(
            key=key,
            stage=stage.name,
            replica=spec.id,
            workflow=assignment.workflow,
            run=router.run_of(stage.name, flow.device),
            arrivals=arrivals,
            files=files,
        )
        folder = self._state / "spool" / assignment.workflow / stage.name
        await self._resume(flow, generation, offer, folder / f"{assignment.run}.db")
        await self._resume_former(flow, generation, offer, folder)
        return key

    async def _resume(
        self, flow: Flow, generation: Generation, offer: _Offer, path: Path
    ) -> SourceState:
        """A source that goes on with what its spool kept."""
        ledger = RequestLedger(
            generation.graph.sinks_below(offer["stage"]), generation.assignment.deadline_seconds
        )
        key = offer["key"]
        here = partial(Spool, path, anchor(self._driver.now()))
        spool = self._spools[flow.workflow, key] = await self._on_disk(here)
        ledger.restore(*await self._on_disk(spool.load), self._driver.now())
        ledger.sink_devices, ledger.formers = await self._on_disk(spool.sinks)
        ledger.addresses = await self._on_disk(spool.addresses)
        ledger.duplicates = {
            (s.request, s.sink, s.device): s for s in await self._on_disk(spool.duplicates)
        }
        locate_sinks(ledger, generation, offer["stage"])
        now = self._driver.now()
        ledger.attainment.resume(*await self._on_disk(lambda: spool.totals(now)))
        count_for(ledger, generation, now)
        source = SourceState(**offer, ledger=ledger, now=self._driver.now())
        # On disk before the first request is sent: after a kill, too, it is known where it may have ended.
        await self._on_disk(_sinks_of(spool, ledger))
        flow.sources.by_key[key] = source
        return source

    async def _keep_sinks(self, flow: Flow, source: SourceState) -> None:
        await self._on_disk(_sinks_of(self._spools[flow.workflow, source.key], source.ledger))

    async def _resume_former(
        self, flow: Flow, generation: Generation, offer: _Offer, folder: Path
    ) -> None:
        """Bring to their end the requests that earlier runs of a source had accepted; remove spools without any."""
        for path in await self._on_disk(lambda: sorted(folder.glob("*.db"))):
            key = f"{path.stem}.{offer['stage']}"
            if key in flow.sources.by_key:
                continue
            if await self._on_disk(partial(remove_if_empty, path)):
                continue
            source = await self._resume(flow, generation, {**offer, "key": key}, path)
            source.retire()

    def _offered(self, spec: SourceSpec) -> tuple[list[str], list[float]]:
        times = self._data.times(spec.trace) if spec.trace is not None else []
        return self._data.files(spec.path), times

    async def _open_sink(self, flow: Flow, assignment: Assignment, stage: StageSpec) -> None:
        if stage.sink is None:
            return
        path = self._sink_path(assignment, stage, stage.sink)
        if (flow.workflow, stage.name) in self._writers:
            self._check_same(flow, stage, path)
            return
        self._paths[flow.workflow, stage.name] = path
        file = await asyncio.to_thread(ResultFile, path)
        remembered, endings = await asyncio.to_thread(file.remembered, assignment.run)
        flow.sinks[stage.name] = SinkState(assignment.run, remembered, endings)
        label = f"{flow.workflow}, {stage.name}"
        self._writers[flow.workflow, stage.name] = SinkWriter(
            file,
            with_payload=stage.sink.kind == "jsonl",
            clock=self._driver.now,
            done=lambda writes: self._driver.event(flow, lambda f, now: f.written(writes, now)),
            trouble=lambda why: self._driver.notice("sink-blocked", f"{label}: {why}"),
        )

    def _sink_path(self, assignment: Assignment, stage: StageSpec, sink: SinkSpec) -> Path:
        if sink.path is not None:
            return self._data.path(sink.path)
        return self._state / "sinks" / assignment.workflow / f"{stage.name}.jsonl"

    async def remember_sinks(self, flow: Flow, assignment: Assignment) -> None:
        """A sink that is elsewhere now and was here before still tells which requests have ended here."""
        here = {replica.stage for replica in assignment.replicas}
        for stage in assignment.stages.values():
            if stage.sink is None or stage.name in here or stage.name in flow.sinks:
                continue
            path = self._sink_path(assignment, stage, stage.sink)
            if await asyncio.to_thread(path.is_file):
                remembered = await asyncio.to_thread(read_endings, path)
                flow.sinks[stage.name] = SinkState(assignment.run, remembered)

    def _check_same(self, flow: Flow, stage: StageSpec, path: Path) -> None:
        if self._paths[flow.workflow, stage.name] != path:
            raise TiermeshError(
                f"{stage.name} cannot go on in another file",
                why="the one before tells which requests have ended",
                fix=f"Stop {flow.workflow} first",
            )

    # Instructions

    def carry_out(
        self, flow: Flow, instruction: Write | Read | Record | Forget | Settled | Drop
    ) -> None:
        """Do what a flow says, on the disk."""
        match instruction:
            case Write():
                self._writers[flow.workflow, instruction.sink].put(instruction)
            case Drop():
                self._drop(flow, instruction)
            case Read():
                self._disk.submit(self._read, flow, instruction)
            case Record():
                self._disk.submit(self._record, flow, instruction)
            case Forget():
                self._disk.submit(self._forget, flow, instruction)
            case Settled():
                self._disk.submit(self._settle, flow, instruction)

    def _settle(self, flow: Flow, settled: Settled) -> None:
        spool = self._spools.get((flow.workflow, settled.source))
        if spool is not None:
            spool.settle(settled.duplicate)

    def _drop(self, flow: Flow, drop: Drop) -> None:
        """Take the end of a request out of a sink's file, with others that come soon: the file is written anew."""
        waiting = self._drops.setdefault((flow.workflow, drop.sink), [])
        waiting.append(drop)
        if len(waiting) == 1:
            self._driver.later(_TOGETHER_S, lambda: self._drop_together(flow, drop.sink))

    def _drop_together(self, flow: Flow, sink: str) -> None:
        key = flow.workflow, sink
        drops, generation = self._drops.pop(key, []), flow.generations.get(flow.current)
        if generation is None or not drops:
            return

        def done(kinds: Mapping[str, Kind]) -> None:
            dropped = [(drop, kinds.get(drop.frame.request_id)) for drop in drops]
            self._driver.event(flow, lambda f, now: f.dropped(dropped, now))
            text = (
                f"{flow.workflow}, {sink}: taken out of the file, since their requests were answered "
                f"elsewhere meanwhile: {len(drops)}"
            )
            self._driver.notice("results-dropped", text)

        ids, run = [drop.frame.request_id for drop in drops], generation.assignment.run
        writer = self._writers.get(key)
        if writer is not None:
            writer.drop(ids, run, done)
            return
        stage = generation.assignment.stages[sink]
        if stage.sink is not None:
            path = self._sink_path(generation.assignment, stage, stage.sink)
            self._disk.submit(self._dropped, path, ids, run, done)

    def _dropped(
        self, path: Path, ids: list[str], run: str, done: Callable[[Mapping[str, Kind]], None]
    ) -> None:
        try:
            file = ResultFile(path)
            file.remembered(run)
            kinds = file.drop(ids, run)
            file.close()
        except TiermeshError as error:
            # It is asked for again.
            self._driver.notice("sink-blocked", str(error))
            return
        done(kinds)

    def _record(self, flow: Flow, record: Record) -> None:
        try:
            self._spools[flow.workflow, record.source].accept(record.requests)
        except StorageFull as error:
            self._driver.notice("source-blocked", f"{flow.workflow}, {record.source}: {error}")
            self._driver.later(_AGAIN_S, lambda: self.carry_out(flow, record))
            return
        self._driver.event(flow, lambda f, now: f.recorded(record.source, record.requests, now))

    def _read(self, flow: Flow, read: Read) -> None:
        source, request = read.source, read.request
        try:
            payload = pack({"name": request.file, "image": self._data.read(request.file)})
        except TiermeshError as error:
            why = str(error)
            self._driver.event(flow, lambda f, now: f.unreadable(source, request, why, now))
            return
        self._driver.event(flow, lambda f, now: f.inject(source, request, payload, now))

    def _forget(self, flow: Flow, forget: Forget) -> None:
        spool = self._spools.get((flow.workflow, forget.source))
        if spool is not None:
            spool.forget([forget.request])

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    # The end

    async def close_workflow(self, workflow: str) -> None:
        """Bring what waits to the disk, and close a workflow's files."""
        for key in [k for k in self._writers if k[0] == workflow]:
            await asyncio.to_thread(self._writers.pop(key).close)
        for key in [k for k in self._spools if k[0] == workflow]:
            await self._on_disk(self._spools.pop(key).close)

    def close(self) -> None:
        """End the disk's thread."""
        self._disk.shutdown()


def _sinks_of(spool: Spool, ledger: RequestLedger) -> Callable[[], None]:
    current, formers, addresses = ledger.sink_devices, list(ledger.formers), dict(ledger.addresses)
    return partial(spool.keep_sinks, current, formers, addresses)
