"""One generation of a workflow on one device: its lanes, and the queue of each replica that is here. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from agent.serving.batcher import Batcher, Job, JobStep, Work
from agent.serving.instructions import Filtered, Outcome, Prepared, StageFailed
from agent.serving.routing.joins import Gathering, JoinBuffer
from agent.serving.routing.links import Links
from agent.serving.routing.router import Router
from agent.serving.tuning.durations import DurationWindow
from agent.serving.tuning.entries import BatchServed, ReplicaEnded, RequestServed
from agent.serving.tuning.tuner import Tuner
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec

QUICKEST_OF: Final = 64
"""How many of the last requests tell how long one takes at least."""
QUICKEST_LEAST: Final = 20
"""How many it takes until they tell anything."""
QUIET_S: Final = 2.0
"""An older generation goes when nothing of it has come for so long. What still comes is injected again as the newer."""


_OUTCOMES: Final[dict[type, Literal["output", "filtered", "failed"]]] = {
    Filtered: "filtered",
    StageFailed: "failed",
}


class PeerStates(Protocol):
    """What a device knows of the others."""

    @property
    def device(self) -> str:
        """This device."""
        ...

    @property
    def links(self) -> Links:
        """The streams to the others."""
        ...


class ReplicaQueue:
    """A replica's queue, the inputs that its requests still miss, and what it has done."""

    def __init__(self, assignment: Assignment, spec: ReplicaSpec) -> None:
        stage = assignment.stages[spec.stage]
        self.workflow = assignment.workflow
        self.run = assignment.run
        self.spec = spec
        self.stage = stage
        self.batcher = Batcher(
            assignment.generation,
            spec.id,
            spec.batch_size,
            spec.batch_timeout_ms / 1000,
            batches=spec.variant is not None,
            in_order=stage.kind == "aggregate",
            urgency=_urgency(assignment),
        )
        self.below_s = 0.0
        """How long what comes after this stage takes at least."""
        self.ended_early = 0
        self._ends_early = "early-end" in assignment.rings
        self._planned_s = assignment.least_s.get(spec.stage, 0.0)
        self._spent: deque[float] = deque(maxlen=QUICKEST_OF)
        self.tuner = Tuner.of(spec)
        self.join = JoinBuffer(stage.inputs) if stage.kind == "join" else None
        self.gathering = Gathering()
        self.device_time = DurationWindow()
        self.requests = self.items = self.batches = self.errors = 0
        self.busy_seconds = 0.0
        self._running_since: float | None = None
        self.batch_sizes: dict[int, int] = {}
        self.batch_seconds: dict[int, float] = {}

    @property
    def computes(self) -> bool:
        """Whether its requests go through the compute lane."""
        return self.spec.variant is not None or self.spec.bundle is not None

    @property
    def least_s(self) -> float:
        """How long a request that waits here takes at least until it has ended, in seconds; 0: nothing is known.

        Half of what the quickest of the last took here, so that no request ends that could have been done in time.
        """
        if not self._ends_early:
            return 0.0
        measured = min(self._spent) / 2 if len(self._spent) >= QUICKEST_LEAST else self._planned_s
        return measured + self.below_s

    def left(self, work: Work) -> None:
        """A request has been done here."""
        self._spent.append(work.spent_s)

    def began(self, now: float) -> None:
        """A job is handed to the compute lane."""
        self.batcher.running += 1
        self._running_since = now

    def busy(self, now: float) -> float:
        """Seconds of the compute lane that its jobs have taken, that of the one under way included."""
        since = self._running_since
        return self.busy_seconds + (max(now - since, 0.0) if since is not None else 0.0)

    def note(self, job: Job, seconds: float, now: float) -> list[BatchServed]:
        """A job has run: the batches that it was.

        What preparing took counts with the batch that a request's first item is in.
        """
        self.batcher.running -= 1
        self._running_since = None
        self.busy_seconds += seconds
        if job.works:
            self.batcher.took(seconds, len(job.works))
        if job.step is JobStep.PREPARE:
            for work in job.works:
                work.prepare_s = seconds / len(job.works)
                work.spent_s += work.prepare_s
            return []
        if job.step is JobStep.APPLY:
            each = seconds / len(job.works)
            ends = [now - seconds + each * (i + 1) for i in range(len(job.works))]
            return [
                self._note_batch(job, {work}, 1, end - each, end)
                for work, end in zip(job.works, ends, strict=True)
            ]
        works = {item.work for item in job.items}
        return [self._note_batch(job, works, len(job.items), now - seconds, now)]

    def _note_batch(
        self, job: Job, works: set[Work], size: int, start: float, end: float
    ) -> BatchServed:
        seconds = end - start + sum(work.prepare_s for work in works)
        for work in works:
            work.spent_s += end - start
            work.prepare_s = 0.0
            work.batch_size = max(work.batch_size, size)
        self.batches += 1
        self.items += size
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        self.batch_seconds[size] = self.batch_seconds.get(size, 0.0) + seconds
        self.device_time.add(seconds, end)
        if self.tuner is not None:
            self.tuner.ran(size, seconds)
        return BatchServed(
            workflow=self.workflow,
            generation=job.generation,
            replica=job.replica,
            start=start,
            end=end,
            size=size,
            service_s=seconds,
        )

    def prepared(self, work: Work, outcome: Prepared) -> None:
        """A request has been split into items."""
        self.batcher.prepared(work, outcome.items)
        if self.tuner is not None:
            self.tuner.arrived(work.arrived, work.items)

    def served(self, generation: int, work: Work, outcome: Outcome, now: float) -> RequestServed:
        """A request leaves: what is written down of it."""
        return RequestServed(
            workflow=self.workflow,
            generation=generation,
            replica=self.spec.id,
            request=work.frame.request_id,
            arrival=work.arrived,
            departure=now,
            latency_s=now - work.arrived,
            items=max(work.items, work.batch_size and 1),
            batch_size=work.batch_size,
            outcome=_OUTCOMES.get(type(outcome), "output"),
        )

    def ended(self, generation: int) -> ReplicaEnded:
        """The replica goes: what it has done."""
        return ReplicaEnded(
            workflow=self.workflow,
            generation=generation,
            replica=self.spec.id,
            requests=self.requests,
            items=self.items,
            batches=self.batches,
            errors=self.errors,
            busy_s=self.busy_seconds,
        )


class Generation:
    """What of an assignment is state. `touched` is when something of it last came or ended."""

    def __init__(self, assignment: Assignment, now: float) -> None:
        self.assignment = assignment
        self.number = assignment.generation
        self.router = Router(assignment)
        self.graph = self.router.graph
        self.queues = {spec.id: ReplicaQueue(assignment, spec) for spec in assignment.replicas}
        below = self.graph.least_below(assignment.least_s)
        for queue in self.queues.values():
            queue.below_s = below[queue.spec.stage]
        self.touched = now
        self._here: dict[tuple[int, str], ReplicaQueue] = {}

    def queue_here(self, lane: int, stage: str) -> ReplicaQueue | None:
        """The queue of the replica here that serves a stage of a lane; None: there is none."""
        at = lane, stage
        found = self._here.get(at)
        if found is None:
            replica = self.router.replica_here(lane, stage)
            # What is not here is not remembered: what comes from outside may name any number of such.
            if replica is not None:
                found = self._here[at] = self.queues[replica]
        return found

    def queue_of(self, stage: str) -> ReplicaQueue | None:
        """The queue of a stage that has one replica here."""
        return next((q for q in self.queues.values() if q.spec.stage == stage), None)

    @property
    def is_idle(self) -> bool:
        """Whether no request waits or runs here."""
        return all(queue.batcher.is_idle for queue in self.queues.values())

    def is_drained(self, now: float) -> bool:
        """Whether it is idle and has been for long enough."""
        return self.is_idle and now - self.touched > QUIET_S

    def sources_and_sinks(self) -> Iterator[tuple[ReplicaSpec, StageSpec]]:
        """The replicas here at which requests begin and end."""
        for queue in self.queues.values():
            if queue.stage.kind in ("source", "sink"):
                yield queue.spec, queue.stage

    def source_devices(self) -> frozenset[str]:
        """The devices that hold requests of this generation."""
        stages = self.assignment.stages
        return frozenset(
            self.assignment.replica_devices[replica]
            for lane in self.assignment.lanes
            for stage, replica in lane.path.items()
            if stages[stage].kind == "source"
        )

    def has_room(self, lane: int, stage: str, post: PeerStates) -> bool:
        """Whether more should be made for a lane's stage; false is backpressure."""
        hop = self.router.hop(lane, stage, post.links.is_lost)
        if hop is None:
            # What cannot be sent goes back to its source, at once.
            return True
        if hop.device != post.device:
            return post.links.has_room(hop.device, stage)
        return self.queues[hop.replica].batcher.has_room

    def expired(self, now: float) -> Iterator[tuple[ReplicaQueue, Work]]:
        """Requests whose deadline has passed while they waited here."""
        for queue in self.queues.values():
            if queue.join is not None:
                queue.join.expire(now)
            for work in queue.batcher.expired(now, queue.least_s):
                yield queue, work


def _urgency(assignment: Assignment) -> Callable[[Work], float]:
    """When a request should be done: by the latency SLO, or by its deadline. First come, first served at its source."""
    if "order" not in assignment.rings:
        return lambda work: work.arrived
    slo_s = max(assignment.latency_s.values(), default=assignment.deadline_seconds)
    return lambda work: work.frame.accepted_at + slo_s
