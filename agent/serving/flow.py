"""One workflow on one device, as a state machine: events in, instructions out. No I/O; time is an argument.

The worker drives it with real streams, a compute thread and files; the simulated mesh of the tests drives the same
code with chance. After every event, `take_instructions` says what to do.

Nothing here needs to be remembered for a request to survive: whatever a device loses, the request's source still
has, and the sink drops what it has seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from typing import Any, Final

from agent.serving.batcher import Job, Step, Work
from agent.serving.generation import Generation, ReplicaQueue
from agent.serving.instructions import (
    Acknowledge,
    Failed,
    Filtered,
    Forget,
    Hangup,
    Instruction,
    Notice,
    Outcome,
    Output,
    Prepared,
    Unload,
    Wake,
    Write,
)
from agent.serving.ledger import Request
from agent.serving.links import Links
from agent.serving.meetings import Join
from agent.serving.router import Hop
from agent.serving.sink import Arrival, Sink
from agent.serving.source import Source
from agent.serving.streams.receiver import Receiver
from agent.serving.streams.window import Window
from tiermesh.errors import StaleGeneration, TiermeshError
from tiermesh.frames import Frame, Kind, Packed, pack

Release = Callable[[], None] | None

_ENDS: Final = (Kind.ERROR, Kind.FILTERED)
_NOTICE_EVERY_S: Final = 5.0
_STALL_S: Final = 0.5


class Flow:
    """What a device serves of a workflow: generations, streams, sources and sinks."""

    def __init__(self, workflow: str, device: str, epoch: int) -> None:
        self.workflow = workflow
        self.device = device
        self.epoch = epoch
        self.current = 0
        self.generations: dict[int, Generation] = {}
        self.links = Links()
        self.sources: dict[str, Source] = {}
        self.sinks: dict[str, Sink] = {}
        self.stopping = False
        self._ticked = inf
        self._out: list[Instruction] = []
        self._woken: set[str] = set()
        self._acknowledge: set[str] = set()
        self._noticed: dict[str, float] = {}
        # Frames that arrived on this device are handled in turn, not by recursion: chains are deep.
        self._local: deque[tuple[Frame, Release]] = deque()

    def take_instructions(self) -> list[Instruction]:
        """What is to be done since the last call, in order."""
        out, self._out = self._out, []
        out.extend(Wake(device) for device in self._woken)
        self._woken = set()
        out.extend(Acknowledge(device) for device in self._acknowledge)
        self._acknowledge = set()
        return out

    # Generations

    def prepare(self, generation: Generation) -> None:
        """A generation is loaded: frames of it are served, though new requests do not take it yet."""
        self.generations[generation.number] = generation
        self._learn_addresses()

    def commit(self, number: int, now: float) -> None:
        """New requests take this generation from now on; the one before drains.

        Raises:
            TiermeshError: it is not prepared; StaleGeneration: a newer one runs.
        """
        if number < self.current:
            raise StaleGeneration(
                f"generation {number} of {self.workflow} is not the newest",
                why=f"generation {self.current} runs",
            )
        if number not in self.generations:
            raise TiermeshError(f"generation {number} of {self.workflow} is not prepared")
        if self.current in self.generations:
            self.generations[self.current].touched = now
        self.current = number

    def abort(self, number: int) -> None:
        """Forget a prepared generation."""
        if number != self.current and self.generations.pop(number, None) is not None:
            self._learn_addresses()

    def stop(self) -> None:
        """Accept no more requests; `is_drained` says when those in flight have ended."""
        self.stopping = True
        for source in self.sources.values():
            source.retire()

    def is_drained(self, now: float) -> bool:
        """Whether nothing of the workflow is in flight here."""
        return (
            all(generation.is_drained(now) for generation in self.generations.values())
            and all(source.is_finished for source in self.sources.values())
            and all(sink.is_idle for sink in self.sinks.values())
        )

    def _learn_addresses(self) -> None:
        self.links.addresses = {
            device: peer.address
            for generation in self.generations.values()
            for device, peer in generation.assignment.peers.items()
            if device != self.device
        }

    # Streams

    def receive(
        self, device: str, session: int, first: int, frames: list[Frame], now: float
    ) -> None:
        """Frames have come from a device.

        Raises:
            Fenced: a newer call has taken over. TiermeshError: the sender broke the protocol.
        """

        def keep(frame: Frame, receiver: Receiver) -> None:
            self._arrive(frame, lambda: self._reopen(device, receiver, frame), now)

        self.links.take(device, session, first, frames, keep)
        self._settle(now)

    def _reopen(self, device: str, receiver: Receiver, frame: Frame) -> None:
        if receiver.release(frame):
            self._acknowledge.add(device)

    def connected(self, device: str, epoch: int, now: float) -> None:
        """A device has answered. If its worker has been started again, what it had in its care is lost."""
        sender = self.links.sender(device, now)
        former = sender.receiver_epoch
        if sender.connected(epoch, now):
            self._announce_lost(device, former, now, gone=False)
            self._settle(now)
        self._woken.add(device)

    def acknowledged(
        self, device: str, upto: int, full: Window, windows: dict[str, Window], now: float
    ) -> None:
        """A device has acknowledged frames and opened windows."""
        self.links.sender(device, now).acknowledged(upto, full, windows, now)
        self._woken.add(device)

    def disconnected(self, device: str) -> None:
        """A call to a device has ended."""
        sender = self.links.senders.get(device)
        if sender is not None:
            sender.disconnected()

    def _lose(self, device: str, now: float) -> None:
        """Send elsewhere what a lost device was to get, and tell the sources."""
        sender = self.links.senders[device]
        withdrawn = sender.withdraw()
        self._out.append(Hangup(device))
        self._notice(
            "peer-lost", self._name(device) + " does not answer; its lanes use their backup", now
        )
        self._announce_lost(device, sender.receiver_epoch, now, gone=True)
        for frame in withdrawn:
            if frame.kind is Kind.DATA or frame.kind in _ENDS:
                self._send(frame, now)

    def _announce_lost(self, device: str, epoch: int, now: float, *, gone: bool) -> None:
        lost = pack({"epoch": epoch, "gone": gone})
        for source in {d for g in self.generations.values() for d in g.source_devices()}:
            if source != device:
                frame = Frame(Kind.LOST, self.current, 0, "", 0, device, "", payload=lost)
                self._send_to(source, frame, now)

    def _name(self, device: str) -> str:
        for generation in self.generations.values():
            if device in generation.assignment.peers:
                return generation.assignment.peers[device].name
        return device

    # Frames

    def _settle(self, now: float) -> None:
        while self._local or self._pass_unions(now):
            if self._local:
                frame, release = self._local.popleft()
                self._arrive(frame, release, now)

    def _arrive(self, frame: Frame, release: Release, now: float) -> None:
        if frame.kind is Kind.CONFIRM:
            self._confirmed(frame, now)
        elif frame.kind is Kind.LOST:
            self._lost(frame, now)
        else:
            self._enter(frame, release, now)

    def _enter(self, frame: Frame, release: Release, now: float) -> None:
        generation = self.generations.get(frame.generation)
        replica = generation.router.replica_here(frame.lane, frame.stage) if generation else None
        if generation is None or replica is None:
            what = "generation" if generation is None else f"replica of {frame.stage}"
            self._release(release)
            self._give_back(frame, "", f"{self.device} has no such {what}", now)
            return
        generation.touched = now
        queue = generation.queues[replica]
        if frame.kind in _ENDS:
            self._pass_end(generation, queue, frame, release, now)
        elif queue.join is not None:
            self._join(generation, queue, queue.join, frame, release, now)
        elif queue.stage.kind == "sink":
            self._end_at_sink(queue, frame, release, now)
        else:
            queue.batcher.add(Work(frame, now, release))

    def _join(
        self,
        generation: Generation,
        queue: ReplicaQueue,
        join: Join,
        frame: Frame,
        release: Release,
        now: float,
    ) -> None:
        # A join takes every frame at once, so that one input never holds up the other.
        self._release(release)
        met = join.add(frame)
        if met is None:
            return
        merged, parts = met
        if merged.kind in _ENDS:
            self._end(generation, queue.spec.stage, merged, now)
        else:
            payloads = {name: part.payload for name, part in parts.items()}
            queue.batcher.add(Work(merged, now, parts=payloads))

    def _pass_end(
        self,
        generation: Generation,
        queue: ReplicaQueue,
        frame: Frame,
        release: Release,
        now: float,
    ) -> None:
        """A request has ended above: on to where its branches meet next, or to the sink's file."""
        stage = queue.spec.stage
        if queue.join is not None:
            self._release(release)
            self._end(generation, stage, queue.join.end(frame), now)
            return
        passed: Frame | None = frame
        if frame.origin in queue.stage.inputs:
            expected = generation.graph.gathered(stage, frame.origin)
            passed = queue.gathering.end(frame, expected)
        if passed is None:
            self._release(release)
        elif queue.stage.kind == "sink":
            self._end_at_sink(queue, passed, release, now)
        else:
            self._release(release)
            self._end(generation, stage, passed, now)

    def _end(self, generation: Generation, stage: str, frame: Frame, now: float) -> None:
        for entry, meeting in generation.graph.meetings_below(stage):
            self._send(replace(frame, origin=entry, stage=meeting), now)

    def _emit(
        self, generation: Generation, work: Work, stage: str, payload: Packed, now: float
    ) -> None:
        for output in generation.assignment.stages[stage].outputs:
            frame = replace(work.frame, origin=stage, stage=output, payload=payload)
            self._send(frame, now)

    def _send(self, frame: Frame, now: float) -> None:
        """On to the frame's stage: the lane's replica, or its backup, or back to the sources."""
        generation = self.generations.get(frame.generation)
        if generation is None:
            self._give_back(frame, "", f"generation {frame.generation} is over", now)
            return
        hop = generation.router.hop(frame.lane, frame.stage, self.links.is_lost)
        if hop is None:
            device = generation.router.device_of(frame.lane, frame.stage)
            why = f"{frame.stage} on {self._name(device)} cannot be reached"
            self._give_back(frame, device, why, now)
        elif hop.device == self.device:
            self._local.append((frame, None))
        else:
            self._offer(hop.device, frame, now)

    def _give_back(self, frame: Frame, device: str, why: str, now: float) -> None:
        """Tell the sources of a request that an attempt ended here."""
        lost = Frame(
            Kind.LOST, frame.generation, 0, frame.request_id, frame.attempt, device, frame.stage,
            error=why,
        )  # fmt: skip
        for source in frame.sources:
            self._send_to(source, lost, now)

    def _send_to(self, device: str, frame: Frame, now: float) -> None:
        """Straight to a device; to one that cannot be reached, nothing: it will ask again."""
        if device == self.device:
            self._local.append((frame, None))
        elif device in self.links.addresses and not self.links.is_lost(device):
            self._offer(device, frame, now)

    def _offer(self, device: str, frame: Frame, now: float) -> None:
        self.links.sender(device, now).offer(frame)
        self._woken.add(device)

    @staticmethod
    def _release(release: Release) -> None:
        if release is not None:
            release()

    # Sources

    def recorded(self, source: str, requests: tuple[Request, ...], now: float) -> None:
        """Accepted requests are on disk."""
        ledger = self.sources[source].ledger
        for request in requests:
            ledger.recorded(request.id, now)

    def inject(self, source: str, request: Request, payload: Packed, now: float) -> None:
        """Send an accepted request on its way, under the current generation."""
        begun = self._begin(source, request, now)
        if begun is not None:
            generation, frame, stage = begun
            self._emit(generation, Work(frame, now), stage, payload, now)
            self._settle(now)

    def unreadable(self, source: str, request: Request, why: str, now: float) -> None:
        """The file of a request cannot be read: it ends in an error."""
        request.why = why
        request.failed = True
        self._fail(self.sources[source], request, now)
        self._settle(now)

    def _begin(
        self, key: str, request: Request, now: float
    ) -> tuple[Generation, Frame, str] | None:
        source, generation = self.sources[key], self.generations.get(self.current)
        if generation is None or request.id not in source.ledger.requests:
            return None
        lost = source.ledger.lost_devices(now) | self._lost_devices()
        lane = generation.router.lane_of(
            request.id, source.replica, source.stage, request.attempt, lost
        )
        source.ledger.injected(request, generation.router.devices_of(lane), now)
        return generation, self._first_frame(source, request, generation, lane), source.stage

    def _first_frame(
        self, source: Source, request: Request, generation: Generation, lane: int
    ) -> Frame:
        return Frame(
            Kind.DATA,
            generation.number,
            lane,
            request.id,
            request.attempt,
            source.stage,
            "",
            (self.device,),
            request.accepted_at,
            request.deadline,
        )

    def _lost_devices(self) -> frozenset[str]:
        return frozenset(d for d in self.links.senders if self.links.is_lost(d))

    def _fail(self, source: Source, request: Request, now: float) -> None:
        """End a request in an error at the sinks that have not confirmed it."""
        generation = self.generations.get(self.current)
        source.ledger.failed(request, now)
        if generation is None:
            return
        lane = generation.router.lane_of(request.id, source.replica, source.stage, 1, ())
        frame = self._first_frame(source, request, generation, lane)
        late = "not done by its deadline" + (f": {request.why}" if request.why else "")
        why = request.why if now < request.deadline else late
        name = pack({"name": request.file})
        for sink in sorted(request.unconfirmed):
            self._send(
                replace(
                    frame, kind=Kind.ERROR, stage=sink, error=f"{source.stage}: {why}", payload=name
                ),
                now,
            )

    def _confirmed(self, frame: Frame, now: float) -> None:
        for source in self.sources.values():
            ended = source.ledger.confirmed(frame.request_id, frame.origin, now)
            if ended is not None:
                self._out.append(Forget(source.key, ended))

    def _lost(self, frame: Frame, now: float) -> None:
        for source in self.sources.values():
            ledger = source.ledger
            if frame.request_id:
                ledger.lost(frame.request_id, frame.attempt, frame.origin, frame.error, now)
            else:
                told = frame.payload.unpack()
                epoch, gone = int(told.get("epoch", 0)), bool(told.get("gone"))
                ledger.device_lost(frame.origin, epoch, gone=gone, now=now)

    # Sinks

    def _end_at_sink(self, queue: ReplicaQueue, frame: Frame, release: Release, now: float) -> None:
        sink = self.sinks[queue.spec.stage]
        match sink.arrive(frame):
            case Arrival.CONFIRM:
                self._release(release)
                self._confirm(frame, now)
            case Arrival.WAIT:
                self._release(release)
            case Arrival.WRITE if queue.computes and frame.kind is Kind.DATA:
                queue.batcher.add(Work(frame, now, release))
            case Arrival.WRITE:
                self._out.append(Write(queue.spec.stage, queue.run, frame, release))

    def written(self, write: Write, now: float) -> None:
        """The end of a request is on disk at a sink: its sources may forget it."""
        sink = self.sinks[write.sink]
        sink.written(write.frame.request_id, write.frame.kind, write.run)
        self._release(write.release)
        self._confirm(write.frame, now)
        self._settle(now)

    def _confirm(self, frame: Frame, now: float) -> None:
        confirm = Frame(
            Kind.CONFIRM, frame.generation, frame.lane, frame.request_id, frame.attempt,
            frame.stage, "",
        )  # fmt: skip
        for source in frame.sources:
            self._send_to(source, confirm, now)

    # Computing

    def ready(self, now: float) -> tuple[float, float]:
        """When a job may start, and since when its oldest request waits; infinities where nothing waits.

        Where several could start now, it is the one of the replica whose request waits longest.
        """
        best = (inf, inf)
        for generation, queue in self._computing():
            at, since = queue.batcher.ready_at(now, self._room_of(generation, queue))
            best = min(best, (max(at, now), since))
        return best

    def next_job(self, now: float) -> Job | None:
        """The job that the compute lane should run now."""
        found: list[tuple[float, int, Any, ReplicaQueue]] = []
        for order, (generation, queue) in enumerate(self._computing()):
            room = self._room_of(generation, queue)
            at, since = queue.batcher.ready_at(now, room)
            if at <= now:
                found.append((since, order, room, queue))
        for _, _, room, queue in sorted(found, key=lambda one: one[:2]):
            job = queue.batcher.take(now, room)
            if job is not None:
                queue.batcher.running += 1
                return job
        return None

    def computed(
        self, job: Job, outcomes: list[tuple[Work, Outcome]], seconds: float, now: float
    ) -> None:
        """A job has run; `outcomes` has each request that it prepared, completed or failed on."""
        generation = self.generations[job.generation]
        queue = generation.queues[job.replica]
        queue.batcher.running -= 1
        queue.busy_seconds += seconds
        generation.touched = now
        self._note_batch(queue, job, seconds, now)
        for work, outcome in outcomes:
            self._come_out(generation, queue, work, outcome, now)
        self._settle(now)

    @staticmethod
    def _note_batch(queue: ReplicaQueue, job: Job, seconds: float, now: float) -> None:
        if job.step is Step.PREPARE:
            for work in job.works:
                work.prepare_s = seconds / len(job.works)
            return
        for _ in job.works:
            queue.note_batch(1, seconds / len(job.works), now)
        if job.items:
            works = {item.work for item in job.items}
            queue.note_batch(len(job.items), seconds + sum(w.prepare_s for w in works), now)
            for work in works:
                work.prepare_s = 0.0

    def _come_out(
        self, generation: Generation, queue: ReplicaQueue, work: Work, outcome: Outcome, now: float
    ) -> None:
        if isinstance(outcome, Prepared):
            queue.batcher.prepared(work, outcome.items)
            return
        queue.requests += 1
        stage = queue.spec.stage
        self._release(work.release)
        if queue.stage.kind == "sink":
            self._delivered(queue, work, outcome)
            return
        match outcome:
            case Output(payload):
                self._emit(generation, work, stage, payload, now)
            case Filtered():
                ended = replace(work.frame, kind=Kind.FILTERED, payload=_name_of(work.frame))
                self._end(generation, stage, ended, now)
            case Failed(why):
                queue.errors += 1
                queue.batcher.drop(work)
                self._error(generation, stage, work, why, now)

    def _delivered(self, queue: ReplicaQueue, work: Work, outcome: Outcome) -> None:
        frame, stage = work.frame, queue.spec.stage
        if isinstance(outcome, Failed):
            frame = replace(frame, kind=Kind.ERROR, error=f"{stage}: {outcome.why}")
        self._out.append(Write(stage, queue.run, frame))

    def _error(self, generation: Generation, stage: str, work: Work, why: str, now: float) -> None:
        self._notice("request-failed", f"{self.workflow}, {stage}: {why}", now)
        frame = work.frame
        payload = EMPTY_PARTS if work.parts is not None else _name_of(frame)
        ended = replace(frame, kind=Kind.ERROR, error=f"{stage}: {why}", payload=payload)
        self._end(generation, stage, ended, now)

    def _computing(self) -> Iterator[tuple[Generation, ReplicaQueue]]:
        for generation in self.generations.values():
            for queue in generation.queues.values():
                if queue.computes:
                    yield generation, queue

    def _room_of(self, generation: Generation, queue: ReplicaQueue) -> Callable[[Frame], bool]:
        outputs = queue.stage.outputs
        return lambda frame: all(self._has_room(generation, frame.lane, o) for o in outputs)

    def _has_room(self, generation: Generation, lane: int, stage: str) -> bool:
        hop = generation.router.hop(lane, stage, self.links.is_lost)
        if hop is None:
            return True
        if hop.device != self.device:
            return self.links.has_room(hop.device, stage)
        return self._has_room_here(generation, hop)

    def _has_room_here(self, generation: Generation, hop: Hop) -> bool:
        queue = generation.queues[hop.replica]
        if queue.stage.kind == "sink":
            return self.sinks[hop.stage].has_room
        return queue.batcher.has_room

    def _pass_unions(self, now: float) -> bool:
        """Stages without code pass on what came, as far as there is room; whether something was passed on."""
        passed = False
        for generation in self.generations.values():
            for queue in generation.queues.values():
                if queue.computes or not queue.batcher.waiting:
                    continue
                job = queue.batcher.take(now, self._room_of(generation, queue))
                for work in job.works if job is not None else ():
                    self._come_out(generation, queue, work, Output(work.frame.payload), now)
                    passed = True
        return passed

    # Time

    def tick(self, now: float) -> None:
        """Look after all that depends on time; call at least ten times a second, and at `wake_at`."""
        if now - self._ticked > _STALL_S:
            # This device was silent itself: it has not listened.
            self.links.excuse(now - self._ticked)
        self._ticked = now
        for device in self.links.lost_now(now):
            self._lose(device, now)
        self._expire(now)
        self._run_sources(now)
        for number in [
            n for n, g in self.generations.items() if n < self.current and g.is_drained(now)
        ]:
            del self.generations[number]
            self._learn_addresses()
            self._out.append(Unload(number))
        self._settle(now)

    def wake_at(self, now: float) -> float:
        """When the next tick is due because of sources or batches."""
        ready = self.ready(now)[0]
        return min([ready if ready > now else inf, *(s.next_at() for s in self.sources.values())])

    def _run_sources(self, now: float) -> None:
        for source in self.sources.values():
            generation = self.generations.get(self.current)
            if generation is not None and self._may_accept(generation, source):
                self._out.extend(source.accept(now))
            instructions, failed = source.due(now)
            self._out.extend(instructions)
            for request in failed:
                self._fail(source, source.ledger.requests[request], now)

    def _may_accept(self, generation: Generation, source: Source) -> bool:
        stage = generation.assignment.stages.get(source.stage)
        lanes = range(min(len(generation.assignment.lanes), _LANES_ASKED))
        return stage is not None and any(
            all(self._has_room(generation, lane, output) for output in stage.outputs)
            for lane in lanes
        )

    def _expire(self, now: float) -> None:
        for generation in list(self.generations.values()):
            for stage, work in list(generation.expired(now)):
                self._release(work.release)
                self._error(generation, stage, work, "the deadline has passed", now)
        for device, sender in self.links.senders.items():
            for frame in sender.expired(now):
                generation = self.generations.get(frame.generation)
                if frame.kind is Kind.DATA and generation is not None:
                    why = f"the deadline has passed on the way to {self._name(device)}"
                    self._error(
                        generation, frame.origin, Work(frame, now), f"{frame.stage}: {why}", now
                    )

    def _notice(self, kind: str, text: str, now: float) -> None:
        if now - self._noticed.get(kind, -inf) >= _NOTICE_EVERY_S:
            self._noticed[kind] = now
            self._out.append(Notice(kind, text))


_LANES_ASKED: Final = 64
EMPTY_PARTS: Final = pack({})


def _name_of(frame: Frame) -> Packed:
    """What the end of a request still says of it: its name, where it has one."""
    try:
        name = frame.payload.unpack().get("name")
    except TiermeshError:
        name = None
    return pack({"name": name}) if isinstance(name, str) else EMPTY_PARTS
