"""The sources of a device: their spools, where their requests come from, and the thread that both share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from agent.serving.clock import anchor
from agent.serving.driver import FlowDriver
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.intake import SourceIntake
from agent.serving.endpoint_io.kinds import PushSource, SourceEndpoint, source_kind
from agent.serving.endpoint_io.spool import Spool, remove_if_empty
from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.feeds import OfferedFeed, PacedFeed, RequestFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.request import Request
from agent.serving.endpoints.source import SourceState
from agent.serving.endpoints.sources import count_for, locate_sinks
from agent.serving.flow import Flow
from agent.serving.instructions import Forget, Read, Record, RejectOffers, Settled
from agent.serving.routing.generation import Generation
from tiermesh import background
from tiermesh.documents.assignment import ReplicaSpec, SourceSpec, StageSpec
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Packed, pack

log = logging.getLogger(__name__)

T = TypeVar("T")

_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source, opened: what it is, and the items that it makes requests of (None: they come from outside)."""

    spec: SourceSpec
    endpoint: SourceEndpoint
    items: Sequence[str] | None
    trace: Sequence[float]

    def feed(self, share: tuple[float, float]) -> RequestFeed:
        """The requests of the part of the source that is made here."""
        if self.items is None:
            part, admit = share[1] - share[0], self.spec.admit_rps
            rate = (self.spec.rate_rps or 1.0) * part
            return OfferedFeed(rate, admit * part if admit is not None else None)
        arrivals = ArrivalSchedule(self.spec, len(self.items), share, self.trace)
        return PacedFeed(arrivals, self.items)


@dataclass(slots=True)
class _Serving:
    """A source that serves, or whose requests are brought to their end."""

    opened: _Opened
    spool: Spool
    intake: SourceIntake
    started: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a source belongs, and the requests that it accepts."""

    key: str
    stage: str
    replica: str
    workflow: str
    run: str
    feed: RequestFeed


class SourceHost:
    """Carries out what the flows say of sources. Spools, and what sources read, share one thread."""

    def __init__(self, driver: FlowDriver, data: DataFolder, state: Path) -> None:
        self._driver = driver
        self._data = data
        self._state = state
        self._disk = ThreadPoolExecutor(1, "disk")
        self._serving: dict[tuple[str, str], _Serving] = {}

    async def check(self, flow: Flow, stage: str, spec: SourceSpec) -> None:
        """Whether a source can be served here; a notice says that one has nothing to send.

        Raises:
            TiermeshError: it cannot.
        """
        opened = await self._on_disk(partial(self._open, spec))
        # A run that accepts nothing and ends well looks like one that works.
        if opened.items is not None and not opened.items:
            named = spec.path if isinstance(spec.path, str) else ", ".join(spec.path)
            text = f"{flow.workflow}, {stage}: there is nothing to send in {named}"
            self._driver.notice("source-empty", text)

    def _open(self, spec: SourceSpec) -> _Opened:
        endpoint = source_kind(spec.kind).open(spec, self._data)
        trace = self._data.times(spec.trace) if spec.trace is not None else []
        items = None if isinstance(endpoint, PushSource) else endpoint.items()
        return _Opened(spec, endpoint, items, trace)

    async def start(
        self, flow: Flow, generation: Generation, spec: ReplicaSpec, stage: StageSpec
    ) -> str:
        """Let a source go on where its run stopped; returns its key.

        Raises:
            TiermeshError: it cannot, such as for a spool that cannot be read.
        """
        assignment, router = generation.assignment, generation.router
        key = f"{assignment.run}.{stage.name}"
        if stage.source is None:
            return key
        opened = await self._on_disk(partial(self._open, stage.source))
        share = router.share(spec.id, stage.name)
        if key in flow.sources.by_key:
            opened = await self._bound(opened, self._serving[flow.workflow, key].spool)
            source = flow.sources.by_key[key]
            await self._go_on(flow, source, spec.id, opened, opened.feed(share))
            return key
        run = router.run_of(stage.name, flow.device)
        folder = self._state / "spool" / assignment.workflow / stage.name
        spool = await self._spool(folder / f"{assignment.run}.db")
        opened = await self._bound(opened, spool)
        place = _Place(key, stage.name, spec.id, assignment.workflow, run, opened.feed(share))
        await self._resume(flow, generation, place, opened, spool)
        await self._resume_former(flow, generation, place, opened, folder)
        await self._start_endpoint(self._serving[flow.workflow, key])
        return key

    async def _bound(self, opened: _Opened, spool: Spool) -> _Opened:
        """A source whose n-th item stays the n-th in its run, whatever comes and goes meanwhile.

        A request is the n-th of its run: were it the n-th of what is there now, some items would be sent twice after
        a change, and others never.
        """
        endpoint = opened.endpoint
        if opened.items is None or isinstance(endpoint, PushSource) or endpoint.keeps_order:
            return opened
        items = await self._on_disk(partial(spool.merge_items, opened.items))
        return replace(opened, items=items)

    async def _go_on(
        self, flow: Flow, source: SourceState, replica: str, opened: _Opened, feed: RequestFeed
    ) -> None:
        """Let a source of the generation before go on as one of this."""
        serving = self._serving[flow.workflow, source.key]
        if serving.opened.spec != opened.spec or not serving.started:
            await self._close_endpoint(serving)
            serving.opened = opened
            await self._on_disk(partial(serving.spool.keep_spec, opened.spec))
        source.adopt(replica, feed, self._driver.now())
        await self._on_disk(_sinks_of(serving.spool, source.ledger))
        await self._start_endpoint(serving)

    async def _resume(
        self,
        flow: Flow,
        generation: Generation,
        place: _Place,
        opened: _Opened,
        spool: Spool,
    ) -> SourceState:
        """A source that goes on with what its spool kept."""
        intake = SourceIntake(self._driver, flow, place.key)
        self._serving[flow.workflow, place.key] = _Serving(opened, spool, intake)
        ledger = await self._restored(generation, place.stage, spool)
        now = self._driver.now()
        source = SourceState(
            place.key,
            place.stage,
            place.replica,
            workflow=place.workflow,
            run=place.run,
            feed=place.feed,
            ledger=ledger,
            now=now,
        )
        # On disk before the first request is sent: after a kill, too, it is known where it may have ended.
        await self._on_disk(_sinks_of(spool, ledger))
        await self._on_disk(partial(spool.keep_spec, opened.spec))
        flow.sources.by_key[place.key] = source
        return source

    async def _restored(self, generation: Generation, stage: str, spool: Spool) -> RequestLedger:
        """The ledger of a source as its spool kept it, under a generation."""
        ledger = RequestLedger(
            generation.graph.sinks_below(stage), generation.assignment.deadline_seconds
        )
        ledger.restore(*await self._on_disk(spool.load), self._driver.now())
        ledger.sink_devices, ledger.formers = await self._on_disk(spool.sinks)
        ledger.addresses = await self._on_disk(spool.addresses)
        ledger.duplicates = {
            (d.request, d.sink, d.device): d for d in await self._on_disk(spool.duplicates)
        }
        locate_sinks(ledger, generation, stage)
        now = self._driver.now()
        ledger.attainment.resume(*await self._on_disk(lambda: spool.totals(now)))
        count_for(ledger, generation, now)
        return ledger

    async def _resume_former(
        self, flow: Flow, generation: Generation, place: _Place, opened: _Opened, folder: Path
    ) -> None:
        """Bring to their end the requests that earlier runs of a source had accepted; remove spools without any."""
        for path in await self._on_disk(lambda: sorted(folder.glob("*.db"))):
            key = f"{path.stem}.{place.stage}"
            if key in flow.sources.by_key:
                continue
            if await self._on_disk(partial(remove_if_empty, path)):
                continue
            spool = await self._spool(path)
            former = await self._on_disk(partial(self._open_former, spool, opened))
            left = replace(place, key=key, feed=OfferedFeed(1.0))
            source = await self._resume(flow, generation, left, former, spool)
            source.retire()

    def _open_former(self, spool: Spool, opened: _Opened) -> _Opened:
        """What reads the requests of an earlier run: a source as that run had it, if that can still be had."""
        spec = spool.spec()
        if spec is None or spec == opened.spec:
            return opened
        try:
            return _Opened(spec, source_kind(spec.kind).open(spec, self._data), None, ())
        except TiermeshError:
            return opened

    async def _spool(self, path: Path) -> Spool:
        return await self._on_disk(partial(Spool, path, anchor(self._driver.now())))

    # Endpoints that requests come to from outside

    async def _start_endpoint(self, serving: _Serving) -> None:
        endpoint = serving.opened.endpoint
        if isinstance(endpoint, PushSource) and not serving.started:
            await endpoint.start(serving.intake)
        serving.started = True

    async def _close_endpoint(self, serving: _Serving) -> None:
        endpoint = serving.opened.endpoint
        if isinstance(endpoint, PushSource) and serving.started:
            await endpoint.close()
        serving.started = False

    async def retire(self, flow: Flow, but: Collection[str]) -> None:
        """Accept no more requests at sources other than those, by key."""
        for key, source in list(flow.sources.by_key.items()):
            if key not in but:
                source.retire()
                serving = self._serving.get((flow.workflow, key))
                if serving is not None:
                    await self._close_endpoint(serving)

    # Instructions

    def carry_out(
        self, flow: Flow, instruction: Record | RejectOffers | Read | Forget | Settled
    ) -> None:
        """Do what a flow says, on the disk."""
        if isinstance(instruction, RejectOffers):
            serving = self._serving.get((flow.workflow, instruction.source))
            if serving is not None:
                serving.intake.refused(instruction.offers, instruction.why)
            return
        failed = partial(self._failed, flow, instruction)
        background.submit(self._disk, failed, self._work, flow, instruction)

    def _work(self, flow: Flow, instruction: Record | Read | Forget | Settled) -> None:
        serving = self._serving.get((flow.workflow, instruction.source))
        if serving is None:
            # The workflow is closed; what its spool keeps goes on when it is back.
            return
        match instruction:
            case Record():
                self._record(flow, serving, instruction)
            case Read():
                self._read(flow, serving, instruction)
            case Forget():
                try:
                    serving.spool.forget([instruction.request])
                finally:
                    serving.intake.ended(instruction.request)
            case Settled():
                serving.spool.settle(instruction.duplicate)

    def _failed(
        self, flow: Flow, instruction: Record | Read | Forget | Settled, error: BaseException
    ) -> None:
        """Disk work has raised what nobody foresaw: its requests end in an error, or a notice says so."""
        label = f"{flow.workflow}, {instruction.source}"
        why = str(error) if isinstance(error, TiermeshError) else f"{type(error).__name__}: {error}"
        match instruction:
            case Read():
                log.error("%s: a request cannot be read", label, exc_info=error)
                self._end(flow, instruction.source, instruction.request, why)
            case Record():
                log.error("%s: a request cannot be kept", label, exc_info=error)
                serving = self._serving.get((flow.workflow, instruction.source))
                for request in instruction.requests:
                    if serving is not None and request.offer is not None:
                        serving.intake.refused([request.offer], why)
                    self._end(flow, instruction.source, request, why)
            case _:
                self._driver.notice("source-disk-failed", f"{label}: {why}")

    def _end(self, flow: Flow, source: str, request: Request, why: str) -> None:
        """End a request in an error."""
        self._driver.event(flow, lambda f, now: f.unreadable(source, request, why, now))

    def _record(self, flow: Flow, serving: _Serving, record: Record) -> None:
        try:
            serving.spool.accept(record.requests)
        except StorageFull as error:
            self._driver.notice("source-blocked", f"{flow.workflow}, {record.source}: {error}")
            self._driver.later(_AGAIN_S, lambda: self.carry_out(flow, record))
            return
        except Exception:
            if len(record.requests) == 1:
                raise
            # One of them is to blame: alone, only that one fails.
            for request in record.requests:
                self.carry_out(flow, Record(record.source, (request,)))
            return
        serving.intake.accepted(record.requests)
        self._driver.event(flow, lambda f, now: f.recorded(record.source, record.requests, now))

    def _read(self, flow: Flow, serving: _Serving, read: Read) -> None:
        source, request = read.source, read.request
        try:
            payload = self._payload(serving, request)
        except TiermeshError as error:
            self._end(flow, source, request, str(error))
            return
        self._driver.event(flow, lambda f, now: f.inject(source, request, payload, now))

    def _payload(self, serving: _Serving, request: Request) -> Packed:
        if request.is_kept:
            return serving.spool.payload(request.index)
        endpoint = serving.opened.endpoint
        if isinstance(endpoint, PushSource):
            raise TiermeshError(
                f"{request.item} cannot be read", why="its source has another kind now"
            )
        return pack(endpoint.read(request.item))

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    # The end

    async def close_workflow(self, workflow: str) -> None:
        """Offer no more, and close a workflow's spools."""
        for key in [k for k in self._serving if k[0] == workflow]:
            serving = self._serving.pop(key)
            await self._close_endpoint(serving)
            serving.intake.close()
            await self._on_disk(serving.spool.close)

    def close(self) -> None:
        """End the thread."""
        self._disk.shutdown()


def _sinks_of(spool: Spool, ledger: RequestLedger) -> Callable[[], None]:
    current, formers, addresses = ledger.sink_devices, list(ledger.formers), dict(ledger.addresses)
    return partial(spool.keep_sinks, current, formers, addresses)
