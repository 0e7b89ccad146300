"""One workflow on one device, as a state machine: events in, instructions out. No I/O; time is an argument.

The worker drives it with real streams, a compute thread and files; the simulated mesh of the tests drives the same
code with chance. After every event, `take_instructions` says what to do.

Nothing here needs to be remembered for a request to survive: whatever a device loses, the request's source still
has, and the sink drops what it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from typing import Final, TypeAlias

from msgspec.structs import replace

from agent.serving.aggregates.handovers import Handovers
from agent.serving.aggregates.sequence import Sequence
from agent.serving.aggregates.snapshot import Given, HeldAggregate
from agent.serving.batcher import Job, Work
from agent.serving.compute.suspects import Suspects
from agent.serving.endpoints.request import Request
from agent.serving.endpoints.sink import SinkAction
from agent.serving.endpoints.sinks import Sinks
from agent.serving.endpoints.sources import Sources
from agent.serving.instructions import (
    Drop,
    Filtered,
    Instruction,
    Outcome,
    Prepared,
    StageFailed,
    StageOutput,
    Unload,
    Write,
    WriteLog,
)
from agent.serving.routing.forwarding import Generations, Post
from agent.serving.routing.generation import Generation, ReplicaQueue
from agent.serving.routing.joins import JoinBuffer
from agent.serving.streams.window import FlowWindow
from tiermesh.errors import StaleGeneration, TiermeshError
from tiermesh.frames import EMPTY, Frame, Kind, Packed, pack

Release: TypeAlias = Callable[[], None] | None
"""Opens the window of the stream that a frame came by."""

_ENDS: Final = (Kind.ERROR, Kind.FILTERED)
_FOR_OTHERS: Final = (Kind.ASK, Kind.TAKE, Kind.STATE, Kind.DROP)
_FOR_SOURCES: Final = (Kind.CONFIRM, Kind.LOST, Kind.CLEAR, Kind.DROPPED)


class Flow:
    """What a device serves of a workflow: generations, streams, sources and sinks."""

    def __init__(
        self, workflow: str, device: str, epoch: int, suspects: Suspects | None = None
    ) -> None:
        self.workflow = workflow
        self.device = device
        self.epoch = epoch
        self._generations = Generations()
        self.post = Post(device, self._generations)
        self.links = self.post.links
        self.sources = Sources(self.post, self._generations)
        self._sinks = Sinks(self.post, self._generations)
        self.sinks = self._sinks.by_stage
        self._suspects = suspects or Suspects({})
        self._sequences: dict[str, Sequence[tuple[_At, Work]]] = {}
        self.handovers = Handovers(workflow, self.post, self._generations, epoch)

    def take_instructions(self) -> list[Instruction]:
        """What is to be done since the last call, in order."""
        return self.post.take_instructions()

    # Generations

    @property
    def generations(self) -> dict[int, Generation]:
        """The generations that are loaded."""
        return self._generations.loaded

    @property
    def current(self) -> int:
        """The generation that new requests take; 0 before the first commit."""
        return self._generations.current

    def prepare(self, generation: Generation) -> None:
        """A generation is loaded: frames of it are served, though new requests do not take it yet."""
        self.generations[generation.number] = generation
        self.post.learn_addresses()

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
        self._sinks.fence(self.generations.get(self.current), self.generations[number])
        self._generations.current = number
        self.sources.switched(self.generations[number], now)
        self._bring_home(now)
        self.handovers.commit(self.generations[number], now)

    def abort(self, number: int) -> None:
        """Forget a prepared generation."""
        self.handovers.abort(number)
        if number != self.current and self.generations.pop(number, None) is not None:
            self.post.learn_addresses()

    def stop(self) -> None:
        """Accept no more requests; `is_drained` says when those in flight have ended."""
        for source in self.sources.by_key.values():
            source.retire()

    def is_drained(self, now: float) -> bool:
        """Whether nothing of the workflow is in flight here."""
        return (
            all(generation.is_drained(now) for generation in self.generations.values())
            and all(source.is_finished for source in self.sources.by_key.values())
            and all(sink.is_idle for sink in self.sinks.values())
        )

    def resume(self, stage: str, held: HeldAggregate, generation: Generation) -> None:
        """An aggregate of a generation is loaded, with what the device holds of its state."""
        self.handovers.resume(stage, held, generation)
        is_here = self.handovers.is_here(stage)
        fresh = Sequence[tuple[_At, Work]](held.positions if is_here else None, closed=not is_here)
        self._sequences.setdefault(stage, fresh)

    def is_of_run(self, source: str) -> bool:
        """Whether a source (by key) is of the run that is current."""
        running = self._generations.running
        return running is not None and source.startswith(f"{running.assignment.run}.")

    def has_stage(self, stage: str) -> bool:
        """Whether a replica of a stage is here, in any generation that is loaded."""
        return any(generation.queue_of(stage) for generation in self.generations.values())

    # Streams

    def receive(
        self, device: str, session: int, first: int, frames: list[Frame], now: float
    ) -> None:
        """Frames have come from a device.

        Raises:
            Fenced: a newer call has taken over. TiermeshError: the sender broke the protocol.
        """
        receiver = self.links.receivers[device]
        reopen = self.post.reopen
        for frame in receiver.take(session, first, frames):
            self._arrive(frame, device, partial(reopen, device, receiver, frame), now)
        self._settle(now)

    def connected(self, device: str, epoch: int, now: float) -> None:
        """A device has answered; its acknowledgement follows."""
        self.post.connected(device, epoch, now)
        self._settle(now)

    def acknowledged(
        self, device: str, upto: int, full: FlowWindow, windows: dict[str, FlowWindow], now: float
    ) -> None:
        """A device has acknowledged frames and opened windows."""
        self.links.sender(device, now).acknowledged(upto, full, windows, now)
        self.post.wake(device)
        self._settle(now)

    def refused(self, device: str, first: int, why: str, now: float) -> None:
        """A device cannot read the message that began with frame `first`."""
        frame = self.links.sender(device, now).refused(first, why)
        if frame is not None:
            text = f"{self.workflow}, {frame.stage}: a frame cannot be read there: {why}"
            self.post.notice("frame-quarantined", text, now)

    def unreadable_from(self, device: str, why: str, now: float) -> None:
        """A message of a device cannot be read."""
        name = self._generations.name(device)
        self.post.notice("message-unreadable", f"{self.workflow}, from {name}: {why}", now)

    def disconnected(self, device: str) -> None:
        """A call to a device has ended."""
        sender = self.links.senders.get(device)
        if sender is not None:
            sender.disconnected()

    # Sources

    def recorded(self, source: str, requests: tuple[Request, ...], now: float) -> None:
        """Accepted requests are on disk."""
        ledger = self.sources.by_key[source].ledger
        for request in requests:
            ledger.recorded(request.id, now)

    def inject(self, source: str, request: Request, payload: Packed, now: float) -> None:
        """An accepted request has been read."""
        self.sources.inject(source, request, payload, now)
        self._settle(now)

    def unreadable(self, source: str, request: Request, why: str, now: float) -> None:
        """The payload of a request cannot be read: it ends in an error."""
        self.sources.unreadable(source, request, why, now)
        self._settle(now)

    # Frames

    def _settle(self, now: float) -> None:
        """Handle what frames and freed windows have brought about on this device."""
        self._move_states(now)
        while True:
            frame = self.post.next_here()
            if frame is not None:
                self._arrive(frame, self.device, None, now)
                self._move_states(now)
            elif not self._pass_unions(now):
                return

    def _arrive(self, frame: Frame, by: str, release: Release, now: float) -> None:
        if frame.kind in _FOR_SOURCES:
            self.sources.hear(frame, by, now)
            return
        if frame.kind in _FOR_OTHERS:
            self._answer(frame, now)
            return
        generation = self.generations.get(frame.generation)
        queue = generation.queue_here(frame.lane, frame.stage) if generation else None
        if generation is None or queue is None:
            missing = f"replica of {frame.stage}" if generation else "such generation"
            _call(release)
            self.post.give_back(frame, "", f"{self.device} has no {missing}", now)
            return
        generation.touched = now
        self._enter(_At(generation, queue), frame, release, now)

    def _answer(self, frame: Frame, now: float) -> None:
        match frame.kind:
            case Kind.TAKE:
                self.handovers.answer(frame, now)
            case Kind.STATE:
                self.handovers.hear(frame, now)
            case Kind.DROP:
                self._sinks.drop(frame, now)
            case _:
                self._sinks.answer(frame, now)

    def _enter(self, at: _At, frame: Frame, release: Release, now: float) -> None:
        queue = at.queue
        if frame.kind in _ENDS:
            self._pass_end(at, frame, release, now)
        elif queue.join is not None:
            # A join takes every frame at once, so that one input never holds up the other.
            _call(release)
            self._meet(at, queue.join, frame, now)
        elif queue.stage.kind == "sink":
            self._end_at_sink(at, frame, release, now)
        else:
            self._line_up(at, Work(frame, now, release), now)

    def _line_up(self, at: _At, work: Work, now: float) -> None:
        """An aggregate takes requests in the order of their source; what waits for others holds no stream up."""
        if at.queue.stage.kind != "aggregate":
            self._add(at, work, now)
            return
        _call(work.release)
        work.release = None
        stage = at.queue.spec.stage
        if self.handovers.gives(stage):
            self.post.give_back(work.frame, "", f"{stage} has moved", now)
            return
        sequence = self._sequence(at)
        if sequence.begins(work.frame) and not self.handovers.has_told(stage):
            text = f"{self.workflow}, {stage}: its state starts empty; no state of earlier requests is on this device"
            self.post.notice("aggregate-began-anew", text, now)
        for turn, one in sequence.add(work.frame, (at, work)):
            self._add(self._home(turn), one, now)

    def _home(self, at: _At) -> _At:
        """Requests of all generations take their turns in one queue: that of the generation that is current."""
        current = self._generations.running
        queue = current.queue_of(at.queue.spec.stage) if current is not None else None
        return _At(current, queue) if current is not None and queue is not None else at

    def _bring_home(self, now: float) -> None:
        """A newer generation is current: what waits at an aggregate in an older one goes on in the newer."""
        for generation in self.generations.values():
            for queue in generation.queues.values():
                at = _At(generation, queue)
                if queue.stage.kind == "aggregate" and (home := self._home(at)).queue is not queue:
                    for work in queue.batcher.give_up():
                        self._add(home, work, now)

    # States of aggregates

    def dumped(self, stage: str, held: HeldAggregate | None, data: bytes, now: float) -> None:
        """What the device holds of an aggregate, and its state."""
        self.handovers.dumped(stage, held, data, now)
        self._settle(now)

    def adopted(self, stage: str, held: HeldAggregate, why: str, now: float) -> None:
        """An aggregate goes on from a state that is on disk, or `why` it does not."""
        self.handovers.adopted(stage, held, why, now)
        self._settle(now)

    def given(self, stage: str, given: Given, now: float) -> None:
        """It is on disk that a state is another device's."""
        self.handovers.given(stage, given, now)
        self._settle(now)

    def _move_states(self, now: float) -> None:
        """Aggregates whose state is asked for give back what waits; those whose state has come go on."""
        closed, opened = self.handovers.take_changes()
        for stage in closed:
            sequence = self._sequences.get(stage) or Sequence[tuple[_At, Work]]()
            waiting = [work for _, work in sequence.clear()]
            for generation in self.generations.values():
                queue = generation.queue_of(stage)
                waiting += queue.batcher.give_up() if queue is not None else []
            self.handovers.closing(stage, sequence.passed)
            self._sequences[stage] = Sequence(closed=True)
            for work in waiting:
                self.post.give_back(work.frame, "", f"{stage} is moving", now)
        for one in opened:
            for turn, work in self._sequences[one.stage].open(one.positions, one.passed):
                self._add(self._home(turn), work, now)

    def _sequence(self, at: _At) -> Sequence[tuple[_At, Work]]:
        return self._sequences.setdefault(at.queue.spec.stage, Sequence())

    def _add(self, at: _At, work: Work, now: float) -> None:
        """Let a request wait for its turn, unless it has ended the worker too often."""
        stage, request = at.queue.spec.stage, work.frame.request_id
        why = self._suspects.why_not(stage, request) if at.queue.computes else ""
        if why:
            self.post.notice("request-quarantined", f"{self.workflow}, {stage}: {why}", now)
            self._come_out(at, work, StageFailed(why), now)
            return
        work.alone = self._suspects.is_suspect(stage, request)
        at.queue.batcher.add(work)

    def _meet(self, at: _At, join: JoinBuffer, frame: Frame, now: float) -> None:
        met = join.add(frame)
        if met is None:
            return
        merged, parts = met
        if merged.kind in _ENDS:
            self._end(at, merged, now)
        else:
            payloads = {name: part.payload for name, part in parts.items()}
            self._add(at, Work(merged, now, parts=payloads), now)

    def _pass_end(self, at: _At, frame: Frame, release: Release, now: float) -> None:
        """A request has ended above: on to where its branches meet next, or into the sink's file."""
        queue = at.queue
        passed: Frame | None = frame
        if queue.stage.kind == "aggregate":
            for turn, one in self._sequence(at).ended(frame):
                self._add(self._home(turn), one, now)
        if queue.join is not None:
            passed = queue.join.end(frame)
        elif frame.origin in queue.stage.inputs:
            expected = at.generation.graph.gathered(queue.spec.stage, frame.origin)
            passed = queue.gathering.end(frame, expected)
        if passed is not None and queue.stage.kind == "sink":
            self._end_at_sink(at, passed, release, now)
            return
        _call(release)
        if passed is not None:
            self._end(at, passed, now)

    def _end(self, at: _At, frame: Frame, now: float) -> None:
        for entry, meeting in at.generation.graph.meetings_below(at.queue.spec.stage):
            self.post.send(replace(frame, origin=entry, stage=meeting), now)

    # Sinks

    def _end_at_sink(self, at: _At, frame: Frame, release: Release, now: float) -> None:
        queue = at.queue
        if self._sinks.arrive(queue.spec.stage, frame, now) is not SinkAction.WRITE:
            _call(release)
        elif queue.computes and frame.kind is Kind.DATA:
            self._add(at, Work(frame, now, release), now)
        else:
            self.post.do(Write(queue.spec.stage, queue.run, frame, release))

    def written(self, writes: Iterable[Write], now: float) -> None:
        """The ends of requests are on disk at a sink."""
        self._sinks.written(writes, now)
        self._settle(now)

    def dropped(self, drops: Iterable[tuple[Drop, Kind | None]], now: float) -> None:
        """The ends of requests are out of a sink's file."""
        self._sinks.dropped(drops, now)
        self._settle(now)

    # Computing

    def ready(self, now: float) -> tuple[float, float]:
        """When a job may start, and when its most urgent request should be done; infinities where nothing waits."""
        best = (inf, inf)
        for at in self._computing():
            when, urgency = at.queue.batcher.ready_at(now, self._room_below(at))
            best = min(best, (max(when, now), urgency))
        return best

    def next_job(self, now: float) -> Job | None:
        """The job that the compute lane should run now: that of the replica whose request is most urgent."""
        ready: list[tuple[float, int, _At]] = []
        for order, at in enumerate(self._computing()):
            when, urgency = at.queue.batcher.ready_at(now, self._room_below(at))
            if when <= now:
                ready.append((urgency, order, at))
        for _, _, at in sorted(ready, key=lambda one: one[:2]):
            job = at.queue.batcher.take(now, self._room_below(at))
            if job is not None:
                at.queue.began(now)
                return job
        return None

    def computed(
        self, job: Job, outcomes: list[tuple[Work, Outcome]], seconds: float, now: float
    ) -> None:
        """A job has run; `outcomes` has each request that it prepared, completed or failed on."""
        generation = self.generations.get(job.generation)
        if generation is None:
            return
        generation.touched = now
        queue = generation.queues[job.replica]
        for batch in queue.note(job, seconds, now):
            self.post.do(WriteLog(batch))
        for work, outcome in outcomes:
            self._come_out(_At(generation, queue), work, outcome, now)
        self._settle(now)

    def _come_out(self, at: _At, work: Work, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, Prepared):
            at.queue.prepared(work, outcome)
            return
        at.queue.requests += 1
        at.queue.batcher.done(work)
        if at.queue.computes:
            self.post.do(WriteLog(at.queue.served(at.generation.number, work, outcome, now)))
        if at.queue.stage.kind == "sink":
            self._delivered(at.queue, work, outcome)
            return
        _call(work.release)
        if not isinstance(outcome, StageFailed):
            at.queue.left(work)
        match outcome:
            case StageOutput(payload):
                stage = at.queue.stage
                for output in stage.outputs:
                    frame = replace(work.frame, origin=stage.name, stage=output, payload=payload)
                    self.post.send(frame, now)
            case Filtered():
                self._end(at, _ended(work, Kind.FILTERED), now)
            case StageFailed(why):
                at.queue.errors += 1
                at.queue.batcher.drop(work)
                self._error(at, work, why, now)

    def _delivered(self, queue: ReplicaQueue, work: Work, outcome: Outcome) -> None:
        """A sink's stage code has taken a request, or failed on it: note that it has ended."""
        frame, stage = work.frame, queue.spec.stage
        if isinstance(outcome, StageFailed):
            queue.errors += 1
            frame = replace(frame, kind=Kind.ERROR, error=f"{stage}: {outcome.why}")
        self.post.do(Write(stage, queue.run, frame, work.release))

    def _error(self, at: _At, work: Work, why: str, now: float) -> None:
        text = f"{at.queue.spec.stage}: {why}"
        self.post.notice("request-failed", f"{self.workflow}, {text}", now)
        self._end(at, _ended(work, Kind.ERROR, text), now)

    def _computing(self) -> Iterator[_At]:
        for generation in self.generations.values():
            for queue in generation.queues.values():
                if queue.computes:
                    yield _At(generation, queue)

    def _room_below(self, at: _At) -> Callable[[Frame], bool]:
        """Whether what a stage makes of a frame has a place to go: backpressure between stages."""
        outputs = at.queue.stage.outputs

        def has_room(frame: Frame) -> bool:
            generation = self.generations.get(frame.generation)
            # What is of no generation any more goes back to its source, at once.
            return generation is None or all(
                generation.has_room(frame.lane, output, self.post) for output in outputs
            )

        return has_room

    def _pass_unions(self, now: float) -> bool:
        """Stages without code pass on what came, as far as there is room; whether something was passed on."""
        passed = False
        for generation in self.generations.values():
            for queue in generation.queues.values():
                if queue.computes or not queue.batcher.waiting:
                    continue
                at = _At(generation, queue)
                job = queue.batcher.take(now, self._room_below(at))
                for work in job.works if job is not None else ():
                    self._come_out(at, work, StageOutput(work.frame.payload), now)
                    passed = True
        return passed

    # Time

    def tick(self, now: float) -> None:
        """Look after all that depends on time; call at least ten times a second, and at `wake_at`."""
        self.post.tick(now)
        self.handovers.tick(now)
        self._expire(now)
        self.sources.run(now)
        self._drop_drained(now)
        self._settle(now)

    def wake_at(self, now: float) -> float:
        """When the next tick is due because of sources or batches."""
        ready = self.ready(now)[0]
        sources = (source.next_at() for source in self.sources.by_key.values())
        return min([ready if ready > now else inf, *sources])

    def _expire(self, now: float) -> None:
        for sequence in self._sequences.values():
            sequence.expire(now)
        for generation in self.generations.values():
            for queue, work in list(generation.expired(now)):
                late = StageFailed(_why_late(queue, work, now))
                queue.ended_early += work.frame.deadline >= now
                self._come_out(_At(generation, queue), work, late, now)
        for device, frame in list(self.post.expired(now)):
            generation = self.generations.get(frame.generation)
            if generation is None:
                continue
            error = f"{frame.stage}: deadline exceeded on the way to {device}"
            ended = replace(frame, kind=Kind.ERROR, error=error, payload=_name_of(frame))
            for entry, meeting in generation.graph.meetings_below(frame.origin):
                self.post.send(replace(ended, origin=entry, stage=meeting), now)

    def _drop_drained(self, now: float) -> None:
        for number, generation in list(self.generations.items()):
            if number < self.current and generation.is_drained(now):
                del self.generations[number]
                self.post.learn_addresses()
                self.post.do(Unload(number))
                for queue in generation.queues.values():
                    if queue.computes:
                        self.post.do(WriteLog(queue.ended(number)))


class _At:
    """A replica of a generation."""

    __slots__ = ("generation", "queue")

    def __init__(self, generation: Generation, queue: ReplicaQueue) -> None:
        self.generation = generation
        self.queue = queue


def _call(release: Release) -> None:
    if release is not None:
        release()


def _why_late(queue: ReplicaQueue, work: Work, now: float) -> str:
    left = work.frame.deadline - now
    if left < 0:
        return "the deadline has passed"
    return (
        f"its deadline is in {left:.2g} s; the remaining stages take at least {queue.least_s:.2g} s"
    )


def _ended(work: Work, kind: Kind, error: str = "") -> Frame:
    payload = EMPTY if work.parts is not None else _name_of(work.frame)
    return replace(work.frame, kind=kind, error=error, payload=payload)


def _name_of(frame: Frame) -> Packed:
    """What the end of a request still says of it: its name, where it has one."""
    try:
        name = frame.payload.unpack().get("name")
    except TiermeshError:
        name = None
    return pack({"name": name}) if isinstance(name, str) else EMPTY
