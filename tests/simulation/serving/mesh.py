"""A mesh without sockets, threads or a clock of its own: the worker's state machines, driven by a seed.

Each device runs the real `Flow`. What is around it is simulated: links with delays that break or go silent, a compute
lane whose jobs take random times, disks that keep what they confirmed, workers that are killed and stopped. Messages
pass through the real codec, between devices whose clocks differ. After each event the promises are checked.
"""

from __future__ import annotations

import copy
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from typing import Any

from agent.serving.aggregates.folding import AggregateState
from agent.serving.aggregates.snapshot import (
    AggregateSnapshot,
    Given,
    HeldAggregate,
    decode,
    encode,
)
from agent.serving.batcher import Job, JobStep, Work
from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.feeds import FeedRequest, OfferedFeed, PacedFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.request import FormerSink, PossibleDuplicate, Request, SourceCounts
from agent.serving.endpoints.sink import SinkState
from agent.serving.endpoints.source import SourceState
from agent.serving.endpoints.sources import count_for, locate_sinks
from agent.serving.flow import Flow
from agent.serving.instructions import (
    Acknowledge,
    Adopt,
    Drop,
    Dump,
    Filtered,
    Forget,
    Give,
    Hangup,
    Instruction,
    Notice,
    Outcome,
    Own,
    Prepared,
    Read,
    Record,
    RejectOffers,
    Settled,
    StageFailed,
    StageOutput,
    StateInstruction,
    Unload,
    Wake,
    Write,
    WriteLog,
)
from agent.serving.routing.generation import Generation
from agent.serving.streams.receiver import Fenced
from agent.serving.streams.sender import SILENCE_S
from tiermesh import codec
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame, Kind, Packed, pack

FILES = 1_000_000
KEYS = 5


class Kept:
    """An aggregate's snapshot on a simulated disk."""

    def __init__(self) -> None:
        self.data = AggregateSnapshot()
        self.whose = HeldAggregate()

    def load(self) -> AggregateSnapshot:
        return copy.deepcopy(self.data)

    def keep(self, change: AggregateSnapshot) -> None:
        self.data.states.update(change.states)
        self.data.outputs.update(change.outputs)
        self.data.positions.update(change.positions)
        self.data.settled.update(change.settled)

    def held(self) -> HeldAggregate:
        return replace(self.whose, positions=dict(self.data.positions))

    def adopt(self, snapshot: AggregateSnapshot, since: int, pending: str) -> None:
        self.data = copy.deepcopy(snapshot)
        self.whose = HeldAggregate(since, pending)

    def own(self) -> None:
        self.whose = replace(self.whose, pending="")

    def give(self, given: Given) -> None:
        self.data = AggregateSnapshot()
        self.whose = HeldAggregate(given=given)

    def close(self) -> None:
        pass

    def discard(self) -> None:
        self.data = AggregateSnapshot()


class Count:
    """Stage code of an aggregate: how many there were of a key, and which the one before was."""

    def __init__(self, folded: Callable[[str, int, int], None]) -> None:
        self._folded = folded

    def start(self, key: str) -> dict[str, int]:
        return {"count": 0, "last": -1}

    def fold(
        self, state: dict[str, int], payload: dict[str, Any]
    ) -> tuple[dict[str, int], dict[str, Any]]:
        number = payload["number"]
        self._folded(payload["key"], state["last"], number)
        after = {"count": state["count"] + 1, "last": number}
        return after, {**payload, "count": after["count"], "before": state["last"]}


class KeptCount(Count):
    """The same, with a state that can be kept on disk."""

    def dump(self, state: dict[str, int]) -> dict[str, int]:
        return state

    def load(self, payload: dict[str, int]) -> dict[str, int]:
        return payload


@dataclass
class Disk:
    """What survives a kill: the spool of each source, and the lines of each sink."""

    accepted: dict[str, int] = field(default_factory=dict[str, int])
    spool: dict[str, dict[str, tuple[int, str, float, float]]] = field(default_factory=dict)
    payloads: dict[str, dict[str, Packed]] = field(default_factory=dict[str, dict[str, Packed]])
    lines: dict[str, list[tuple[str, Kind]]] = field(default_factory=dict)
    states: dict[str, Kept] = field(default_factory=dict)
    sinks: dict[str, tuple[dict[str, str], list[FormerSink]]] = field(default_factory=dict)
    duplicates: dict[str, list[PossibleDuplicate]] = field(
        default_factory=dict[str, list[PossibleDuplicate]]
    )
    totals: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])


@dataclass
class Direction:
    """What is on its way in a call, in order."""

    events: deque[Callable[[], None]] = field(default_factory=deque[Callable[[], None]])
    last: float = 0.0


@dataclass
class Call:
    """One attempt at a stream, from a device to another."""

    sender: SimDevice
    receiver: SimDevice
    alive: bool = True
    session: int = 0
    welcomed: bool = False
    acknowledged_at: float = 0.0
    forth: Direction = field(default_factory=Direction)
    back: Direction = field(default_factory=Direction)


class SimDevice:
    """A device: its flow, while its worker lives, and its disk."""

    def __init__(self, mesh: SimMesh, name: str, skew: float) -> None:
        self.mesh = mesh
        self.name = name
        self.skew = skew
        self.disk = Disk()
        self.assignments: list[Assignment] = []
        self.staged: Assignment | None = None
        self.epoch = 0
        self.flow: Flow | None = None
        self.stopped = False
        self.busy = False
        self.calls: dict[str, Call] = {}
        self.aggregates: dict[str, AggregateState] = {}

    @property
    def now(self) -> float:
        return self.mesh.time + self.skew

    @property
    def runs(self) -> bool:
        return self.flow is not None and not self.stopped

    def start(self) -> None:
        self.epoch += 1
        self.busy = False
        self.aggregates.clear()
        self.flow = Flow("w", self.name, self.epoch)
        for assignment in self.assignments:
            self.prepare(assignment)
        if self.assignments:
            self.commit(self.assignments[-1])
        if self.staged is not None:
            self.prepare(self.staged)

    def stage(self, assignment: Assignment) -> None:
        """Prepare an assignment, which is committed later; it is prepared again after a kill."""
        self.staged = assignment
        if self.flow is not None:
            self.prepare(assignment)

    def switch(self) -> None:
        """Commit what is staged."""
        if self.stopped:
            self.mesh.after(0.05, self.switch)
            return
        assert self.staged is not None
        assignment, self.staged = self.staged, None
        self.assignments.append(assignment)
        if self.flow is not None:
            self.commit(assignment)
            self.pump()

    def prepare(self, assignment: Assignment) -> None:
        assert self.flow is not None
        generation = Generation(assignment, self.now)
        here = {stage.name for _, stage in generation.sources_and_sinks()}
        for stage in assignment.stages.values():
            # A sink that was here before still tells which requests have ended.
            known = stage.name in here or stage.name in self.disk.lines
            if stage.kind == "sink" and known and stage.name not in self.flow.sinks:
                lines = self.disk.lines.setdefault(stage.name, [])
                sink = self.flow.sinks[stage.name] = SinkState(assignment.run, dict(lines))
                for _, kind in lines:
                    sink.counts.count(kind)
        for queue in generation.queues.values():
            if queue.stage.kind == "aggregate":
                aggregate = self._aggregate(queue.stage.name)
                self.flow.resume(queue.stage.name, aggregate.held, generation)
        self.flow.prepare(generation)

    def _aggregate(self, stage: str) -> AggregateState:
        if stage not in self.aggregates:
            keeper = self.disk.states.setdefault(stage, Kept()) if self.mesh.keeps_state else None
            code = (KeptCount if self.mesh.keeps_state else Count)(self.mesh.folded)
            self.aggregates[stage] = AggregateState(code, stage, "key", keeper)
        return self.aggregates[stage]

    def commit(self, assignment: Assignment) -> None:
        flow = self.flow
        assert flow is not None
        flow.commit(assignment.generation, self.now)
        for stage in list(self.disk.states):
            # States that are stale are removed, as the worker does.
            here = {r.stage for r in assignment.replicas}
            if stage not in here and assignment.formers.get(stage) != self.name:
                del self.disk.states[stage]
                self.aggregates.pop(stage, None)
        generation = flow.generations[assignment.generation]
        for spec, stage in generation.sources_and_sinks():
            if stage.source is None:
                continue
            key = stage.name
            arrivals = ArrivalSchedule(stage.source, FILES)
            is_offered = stage.source.kind == "offered"
            feed = OfferedFeed(100.0) if is_offered else PacedFeed(arrivals, _Names())
            if key in flow.sources.by_key:
                flow.sources.by_key[key].adopt(spec.id, feed, self.now)
                self.keep_sinks(key, flow.sources.by_key[key].ledger)
                continue
            ledger = RequestLedger(generation.graph.sinks_below(key), assignment.deadline_seconds)
            kept = self.disk.spool.setdefault(key, {})
            payloads = self.disk.payloads.setdefault(key, {})
            requests = [
                Request(row[0], i, *row[1:], set(), attempt=1, is_kept=i in payloads)
                for i, row in kept.items()
            ]
            accepted = self.disk.accepted.get(key, 0)
            totals = self.disk.totals.setdefault(key, Counter())
            ended = {
                "errors": totals[RequestOutcome.ERROR],
                "filtered": totals[RequestOutcome.FILTERED],
            }
            counts = SourceCounts(accepted, accepted - len(requests), **ended)
            ledger.restore(requests, counts, self.now)
            ledger.attainment.resume(totals, self.now)
            ledger.sink_devices, ledger.formers = self.disk.sinks.get(key, ({}, []))
            ledger.duplicates = {
                (s.request, s.sink, s.device): s for s in self.disk.duplicates.setdefault(key, [])
            }
            locate_sinks(ledger, generation, key)
            count_for(ledger, generation, self.now)
            self.keep_sinks(key, ledger)
            flow.sources.by_key[key] = SourceState(
                key, key, spec.id, workflow="w", run=assignment.run, feed=feed,
                ledger=ledger, now=self.now,
            )  # fmt: skip

    def keep_sinks(self, key: str, ledger: RequestLedger) -> None:
        self.disk.sinks[key] = (ledger.sink_devices, ledger.formers)

    def kill(self) -> None:
        self.flow = None
        self.stopped = False
        for call in self.mesh.calls:
            if self in (call.sender, call.receiver):
                self.mesh.break_call(call)

    # Driving the flow

    def pump(self) -> None:
        if not self.runs:
            return
        flow = self.flow
        assert flow is not None
        while instructions := flow.take_instructions():
            for instruction in instructions:
                self.carry_out(instruction)
        if not self.busy:
            job = flow.next_job(self.now)
            if job is not None:
                self.busy = True
                seconds = self.mesh.draw(0.001, 0.02)
                # A device that is slow takes its time for each request.
                seconds = self.mesh.slow.get(self.name, 0.0) * len(job.works) or seconds
                self.later(seconds, lambda f: self.finish(f, job))

    def later(self, seconds: float, event: Callable[[Flow], None]) -> None:
        """Run an event of this worker, unless it has been killed by then."""
        flow = self.flow

        def run() -> None:
            if self.flow is not flow or flow is None:
                return
            if self.stopped:
                self.mesh.after(0.05, run)
                return
            event(flow)
            flow.tick(self.now)
            self.pump()

        self.mesh.after(seconds, run)

    def finish(self, flow: Flow, job: Job) -> None:
        self.busy = False
        outcomes = [(w, o) for w, o in self.mesh.compute(self, job) if o is not None]
        stage = outcomes[0][0].frame.stage if outcomes else ""
        if stage in self.aggregates:
            self.aggregates[stage].keep()
            if self.mesh.is_in_chaos and self.mesh.random.random() < 0.01:
                # Killed between the state's sync and the output.
                self.mesh.kill(self, self.mesh.draw(0.05, 1.0))
                return
        flow.computed(job, outcomes, 0.01, self.now)

    def carry_out(self, instruction: Instruction) -> None:
        disk = self.mesh.draw(0.0, 0.01)
        match instruction:
            case Wake() | Acknowledge() | Hangup():
                self.speak(instruction)
            case Record(source, requests):
                self.record(source, requests)
                self.later(disk, lambda f: f.recorded(source, requests, self.now))
            case Read(source, request):
                self.later(disk, lambda f: self.inject(f, source, request))
            case Forget() | Settled() | Drop():
                self.later(disk, lambda f: self.end(f, instruction))
            case Write():
                self.later(disk, lambda f: self.write(f, instruction))
            case Dump() | Adopt() | Own() | Give():
                self.change_state(instruction)
            case Notice(kind, text):
                self.mesh.notices.append((kind, text))
            case Unload() | WriteLog() | RejectOffers():
                pass

    def change_state(self, instruction: StateInstruction) -> None:
        """As the compute lane does: once the job that runs has ended."""
        if self.busy:
            self.later(0.005, lambda _: self.change_state(instruction))
            return
        flow, stage, disk = self.flow, instruction.stage, self.mesh.draw(0.0, 0.05)
        assert flow is not None
        known = stage in self.aggregates or stage in self.disk.states
        aggregate = self._aggregate(stage)
        match instruction:
            case Dump():
                data = encode(aggregate.snapshot()) if aggregate.is_kept else b""
                held = aggregate.held if known else None
                self.later(disk, lambda f: f.dumped(stage, held, data, self.now))
            case Adopt(_, data, generation, token):
                aggregate.adopt(decode(data) if data else AggregateSnapshot(), generation, token)
                held = aggregate.held
                self.killed_or_later(disk, lambda f: f.adopted(stage, held, "", self.now))
            case Own():
                aggregate.own()
            case Give(_, given):
                aggregate.give(given)
                self.killed_or_later(disk, lambda f: f.given(stage, given, self.now))

    def killed_or_later(self, seconds: float, event: Callable[[Flow], None]) -> None:
        """In one of four moves the worker is killed once it is on the disk, before anybody knows."""
        if self.mesh.is_in_chaos and self.mesh.random.random() < 0.25:
            self.mesh.after(0.0, lambda: self.mesh.kill(self, self.mesh.draw(0.05, 1.0)))
        else:
            self.later(seconds, event)

    def speak(self, instruction: Wake | Acknowledge | Hangup) -> None:
        match instruction:
            case Wake(device):
                self.mesh.converse(self, self.mesh.devices[device])
            case Acknowledge(device):
                for call in self.mesh.calls:
                    if call.sender.name == device and call.receiver is self and call.welcomed:
                        self.mesh.acknowledge(call)
            case Hangup(device):
                if device in self.calls:
                    self.mesh.break_call(self.calls[device])

    def record(self, source: str, requests: tuple[Request, ...]) -> None:
        for r in requests:
            self.disk.spool[source][r.id] = (r.index, r.item, r.accepted_at, r.deadline)
            if r.payload is not None:
                self.disk.payloads[source][r.id] = r.payload
                self.mesh.offered[r.id] = r.payload.unpack()["number"]
            self.disk.accepted[source] = r.index + 1
            self.mesh.accepted.setdefault(source, set()).add(r.id)

    def end(self, flow: Flow, instruction: Forget | Settled | Drop) -> None:
        match instruction:
            case Forget(source, request):
                self.forget(source, request)
            case Settled(source, duplicate):
                self.disk.duplicates[source].remove(duplicate)
            case Drop():
                self.drop(flow, instruction)

    def forget(self, source: str, request: Request) -> None:
        self.disk.duplicates.setdefault(source, []).extend(request.duplicates)
        self.disk.payloads[source].pop(request.id, None)
        if self.disk.spool[source].pop(request.id, None) is not None:
            self.disk.totals[source].update(
                (request.ended or RequestOutcome.RESULT, *request.counted)
            )

    def drop(self, flow: Flow, drop: Drop) -> None:
        lines = self.disk.lines.get(drop.sink, [])
        gone = dict(lines).get(drop.frame.request_id)
        lines[:] = [line for line in lines if line[0] != drop.frame.request_id]
        self.mesh.dropped += 1
        if self.mesh.is_in_chaos and self.mesh.random.random() < 0.2:
            self.mesh.kill(self, self.mesh.draw(0.05, 1.0))
            return
        flow.dropped([(drop, gone)], self.now)

    def inject(self, flow: Flow, source: str, request: Request) -> None:
        if request.is_kept:
            kept = self.disk.payloads[source].get(request.id)
            if kept is None:
                # It has ended meanwhile.
                flow.unreadable(source, request, "it is gone", self.now)
            else:
                flow.inject(source, request, kept, self.now)
            return
        payload = pack(
            {"name": request.item, "number": request.index, "key": str(request.index % KEYS)}
        )
        flow.inject(source, request, payload, self.now)

    def write(self, flow: Flow, write: Write) -> None:
        if self.mesh.time < self.mesh.stalled_until:
            self.later(0.1, lambda f: self.write(f, write))
            return
        self.disk.lines[write.sink].append((write.frame.request_id, write.frame.kind))
        self.mesh.ended(write.sink, write.frame)
        if self.mesh.is_in_chaos and self.mesh.random.random() < 0.01:
            # Killed between the sync and the confirmation: the line is there, and nobody knows.
            self.mesh.kill(self, self.mesh.draw(0.05, 1.0))
            return
        flow.written([write], self.now)


class _Names(Items[str]):
    def __len__(self) -> int:
        return FILES

    def __getitem__(self, index: Any) -> Any:
        return f"{index}.jpg"


class SimMesh:
    """Devices, links and time. `faults` a second are injected while `chaos` runs."""

    def __init__(
        self,
        seed: int,
        names: str,
        compute: Mapping[str, Callable[..., Any]],
        *,
        keeps_state: bool = True,
    ) -> None:
        self.keeps_state = keeps_state
        self.payloads: dict[int, dict[str, Any]] = {}
        self.random = random.Random(seed)
        self.time = 0.0
        self.chaos_until = 0.0
        self.stalled_until = 0.0
        self.slow: dict[str, float] = {}
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._compute = compute
        self.calls: list[Call] = []
        self.silent: set[frozenset[str]] = set()
        self.cut: set[frozenset[str]] = set()
        self.accepted: dict[str, set[str]] = {}
        self.offered: dict[str, int] = {}
        """By id, the number in the payload of a request that was offered from outside."""
        self.endings: dict[str, dict[str, Kind]] = {}
        self.errors: list[str] = []
        self.may_repeat = False
        """A device is given up, which may come back: what ends twice meanwhile is dropped in the end."""
        self.dropped = 0
        self.notices: list[tuple[str, str]] = []
        self.devices = {n: SimDevice(self, n, self.draw(1_000.0, 9_000.0)) for n in names}
        self.after(0.0, self._tick)

    def draw(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.time + seconds, next(self._order), event))

    def run(self, until: Callable[[], bool], seconds: float) -> None:
        """Run until a condition holds; fails when it does not within simulated seconds."""
        end = self.time + seconds
        while not until():
            assert self.time < end, f"not done after {seconds} simulated seconds"
            self.time, _, event = heapq.heappop(self._events)
            event()
            self.check()

    def _tick(self) -> None:
        for device in self.devices.values():
            if device.runs and device.flow is not None:
                device.flow.tick(device.now)
                device.pump()
        for call in self.calls:
            # As receivers do, four times in the time after which a silent one counts as lost; and now and then.
            due = self.time - call.acknowledged_at >= SILENCE_S / 4
            if call.welcomed and (due or self.random.random() < 0.1):
                call.acknowledged_at = self.time
                self.acknowledge(call)
        self.calls = [call for call in self.calls if call.alive]
        self.after(0.02, self._tick)

    @property
    def is_in_chaos(self) -> bool:
        return self.time < self.chaos_until

    def latencies(self, device: str, source: str) -> list[float]:
        """The latencies of the last requests of a source, from accepted to confirmed, in seconds."""
        flow = self.devices[device].flow
        assert flow is not None
        return [seconds for _, seconds in flow.sources.by_key[source].ledger.latency.kept]

    def offer(self, device: str, source: str, numbers: range, every_s: float) -> None:
        """Offer a source one request after another; while its worker is down nobody takes them."""
        if not numbers:
            return
        there, number = self.devices[device], numbers[0]
        if there.runs and there.flow is not None:
            payload = pack({"number": number, "key": str(number % KEYS)})
            there.flow.sources.offered(source, FeedRequest(there.now, "", payload, number))
            there.pump()
        self.after(every_s, lambda: self.offer(device, source, numbers[1:], every_s))

    # Promises

    def folded(self, key: str, before: int, number: int) -> None:
        assert before < number, f"{number} of {key} is folded in after {before}"

    def ended(self, sink: str, frame: Frame) -> None:
        seen = self.endings.setdefault(sink, {})
        is_new = frame.request_id not in seen
        assert is_new or self.may_repeat, f"{frame.request_id} ends twice at {sink}"
        seen[frame.request_id] = frame.kind
        if frame.kind is Kind.DATA:
            payload = frame.payload.unpack()
            self.payloads[payload["number"]] = payload
            assert self.offered.get(frame.request_id, payload["number"]) == payload["number"]
        if frame.kind is Kind.ERROR:
            self.errors.append(frame.error)

    def check(self) -> None:
        for device in self.devices.values():
            if device.flow is None:
                continue
            for source in device.flow.sources.by_key.values():
                counts, ledger = source.ledger.counts, source.ledger
                assert counts.accepted == counts.confirmed + ledger.in_flight
                assert min(counts.results, counts.errors, counts.filtered) >= 0
            for sender in device.flow.links.senders.values():
                assert sender.unacknowledged <= 5_000

    def check_ledger(self, sinks: list[str]) -> None:
        """At the end: everything that was accepted has ended at every sink, once."""
        accepted = set().union(*self.accepted.values())
        for sink in sinks:
            assert self.endings[sink].keys() == accepted
        if not self.may_repeat:
            self.check_sources(sinks)

    def check_sources(self, sinks: list[str]) -> None:
        """What the sources count, across kills, is what the sinks have written."""
        self.run(lambda: not self._in_flight(), 120.0)
        for key, requests in self.accepted.items():
            said = Counter[RequestOutcome]()
            for ledger in self._ledgers(key):
                said.update(
                    {
                        RequestOutcome.RESULT: ledger.counts.results,
                        RequestOutcome.ERROR: ledger.counts.errors,
                        RequestOutcome.FILTERED: ledger.counts.filtered,
                    }
                )
            assert +said == Counter(self._worst(r, sinks) for r in requests)
            windows = [list(ledger.attainment.windows(0.0))[-1] for ledger in self._ledgers(key)]
            assert sum(window.ended for window in windows) == len(requests)

    def _worst(self, request: str, sinks: list[str]) -> RequestOutcome:
        kinds = {
            Kind.DATA: RequestOutcome.RESULT,
            Kind.ERROR: RequestOutcome.ERROR,
            Kind.FILTERED: RequestOutcome.FILTERED,
        }
        return reduce(
            RequestOutcome.with_another, (kinds[self.endings[sink][request]] for sink in sinks)
        )

    def _ledgers(self, key: str) -> list[RequestLedger]:
        flows = [d.flow for d in self.devices.values() if d.flow is not None]
        return [f.sources.by_key[key].ledger for f in flows if key in f.sources.by_key]

    def _in_flight(self) -> bool:
        live = all(device.runs for device in self.devices.values() if device.disk.accepted)
        return not live or any(
            ledger.in_flight for s in self.accepted for ledger in self._ledgers(s)
        )

    # Computing

    def compute(self, device: SimDevice, job: Job) -> list[tuple[Work, Outcome | None]]:
        if job.step is JobStep.PREPARE:
            return [(w, self._prepare(w)) for w in job.works]
        if job.step is JobStep.INFER:
            for item in job.items:
                item.work.outputs[item.index] = item.value
            works = dict.fromkeys(item.work for item in job.items)
            return [(w, StageOutput(w.frame.payload)) for w in works if w.is_complete]
        return [(w, self._apply(device, w)) for w in job.works]

    def _prepare(self, work: Work) -> Outcome:
        items = work.frame.payload.unpack()["number"] % 4
        if not items:
            return StageOutput(work.frame.payload)
        return Prepared(tuple((i % 2, i) for i in range(items)))

    def _apply(self, device: SimDevice, work: Work) -> Outcome:
        aggregate = device.aggregates.get(work.frame.stage)
        if aggregate is not None:
            try:
                return StageOutput(aggregate.fold(work))
            except TiermeshError as error:
                return StageFailed(str(error))
        number = next(iter(work.parts.values())) if work.parts else work.frame.payload
        made = self._compute.get(work.frame.stage, lambda n: "pass")(number.unpack()["number"])
        if made == "fail":
            return StageFailed("it fails on purpose")
        return Filtered() if made == "drop" else StageOutput(number)

    # Links

    def _pair(self, call: Call) -> frozenset[str]:
        return frozenset((call.sender.name, call.receiver.name))

    def converse(self, sender: SimDevice, receiver: SimDevice) -> None:
        call = sender.calls.get(receiver.name)
        if call is None or not call.alive:
            call = sender.calls[receiver.name] = Call(sender, receiver)
            self.calls.append(call)
            self._hello(call)
        elif call.welcomed:
            self._transmit(call)

    def _hello(self, call: Call) -> None:
        flow = call.sender.flow
        assert flow is not None
        epoch = flow.epoch
        oldest = flow.links.sender(call.receiver.name, call.sender.now).oldest

        def arrive() -> None:
            other = call.receiver.flow
            if other is None or not other.generations:
                self.break_call(call)
                return
            try:
                receiver = other.links.receiver(call.sender.name)
                call.session = receiver.open(epoch, oldest)
            except Fenced:
                self.break_call(call)
                return
            for former in self.calls:
                same = former.sender is call.sender and former.receiver is call.receiver
                if same and former is not call:
                    former.alive = False
            upto, full, windows = other.links.acknowledgement(call.sender.name)

            def welcome() -> None:
                mine = call.sender.flow
                assert mine is not None
                mine.connected(call.receiver.name, other.epoch, call.sender.now)
                mine.acknowledged(call.receiver.name, upto, full, windows, call.sender.now)
                call.welcomed = True
                self._transmit(call)

            self._back(call, welcome)

        self._forth(call, arrive)

    def _transmit(self, call: Call) -> None:
        flow = call.sender.flow
        if flow is None or not call.alive:
            return
        sender = flow.links.sender(call.receiver.name, call.sender.now)
        while (message := sender.next_message()) is not None:
            data = codec.encode(message[0], message[1], call.sender.now)
            self._forth(call, lambda data=data: self._arrive(call, data))

    def _arrive(self, call: Call, data: bytes) -> None:
        flow = call.receiver.flow
        assert flow is not None
        first, frames = codec.decode(data, call.receiver.now)
        try:
            flow.receive(call.sender.name, call.session, first, frames, call.receiver.now)
        except Fenced:
            self.break_call(call)
            return
        self.acknowledge(call)

    def acknowledge(self, call: Call) -> None:
        flow = call.receiver.flow
        if flow is None or not call.alive or call.receiver.stopped:
            return
        upto, full, windows = flow.links.acknowledgement(call.sender.name)

        def arrive() -> None:
            mine = call.sender.flow
            if mine is not None:
                mine.acknowledged(call.receiver.name, upto, full, windows, call.sender.now)

        self._back(call, arrive)

    def _forth(self, call: Call, event: Callable[[], None]) -> None:
        self._carry(call, call.receiver, call.forth, event)

    def _back(self, call: Call, event: Callable[[], None]) -> None:
        self._carry(call, call.sender, call.back, event)

    def _carry(
        self, call: Call, device: SimDevice, direction: Direction, event: Callable[[], None]
    ) -> None:
        direction.last = max(direction.last, self.time + self.draw(0.0002, 0.005))
        direction.events.append(event)
        flow = device.flow

        def deliver() -> None:
            if not call.alive or (flow is not None and device.flow is not flow):
                return
            if self._pair(call) in self.cut:
                self.break_call(call)
            elif self._pair(call) in self.silent or device.stopped:
                # TCP keeps it; it arrives, in order, when the link or the process is back.
                self.after(0.05, deliver)
            else:
                direction.events.popleft()()
                device.pump()

        self.after(direction.last - self.time, deliver)

    def break_call(self, call: Call) -> None:
        if not call.alive:
            return
        call.alive = False
        sender = call.sender
        if sender.flow is None:
            return
        sender.flow.disconnected(call.receiver.name)

        def again(flow: Flow) -> None:
            if not sender.calls[call.receiver.name].alive:
                self.converse(sender, call.receiver)

        sender.later(0.1, again)

    # Faults

    def chaos(self, seconds: float, faults: int, victims: str) -> None:
        """Inject faults at random times, each healed after a while."""
        self.chaos_until = self.time + seconds
        for _ in range(faults):
            self.after(self.draw(0, seconds), self._fault(self.random.choice(victims)))

    def kill(self, device: SimDevice, seconds: float) -> None:
        """Kill a worker, and start it again after a while."""

        def restart() -> None:
            if device.flow is None:
                device.start()
                device.pump()

        if device.flow is not None:
            device.kill()
            self.after(seconds, restart)

    def _fault(self, victim: str) -> Callable[[], None]:
        device = self.devices[victim]
        other = self.random.choice([n for n in self.devices if n != victim])
        pair = frozenset((victim, other))
        heal = self.draw(0.05, 4.0)

        def kill() -> None:
            self.kill(device, heal)

        def stop() -> None:
            if device.runs:
                device.stopped = True
                self.after(heal, lambda: setattr(device, "stopped", False))

        def sever() -> None:
            self.cut.add(pair)
            self.after(heal, lambda: self.cut.discard(pair))

        def hush() -> None:
            self.silent.add(pair)
            self.after(heal, lambda: self.silent.discard(pair))

        return self.random.choice([kill, stop, sever, hush])
