"""One generation of a workflow on one device: its lanes, and the queue of each replica that is here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from agent.serving.batcher import Batcher, Job, Step, Work
from agent.serving.links import Links
from agent.serving.meetings import Gathering, Join
from agent.serving.percentiles import Measurements
from agent.serving.router import Router
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec

QUIET_S: Final = 2.0
"""An older generation goes when nothing of it has come for so long. What still comes is injected again as the newer."""


class Outlook(Protocol):
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

    def __init__(self, generation: int, run: str, spec: ReplicaSpec, stage: StageSpec) -> None:
        self.run = run
        self.spec = spec
        self.stage = stage
        self.batcher = Batcher(
            generation,
            spec.id,
            spec.batch_size,
            spec.batch_timeout_ms / 1000,
            batches=spec.variant is not None,
        )
        self.join = Join(stage.inputs) if stage.kind == "join" else None
        self.gathering = Gathering()
        self.service = Measurements()
        self.requests = self.items = self.batches = self.errors = 0
        self.busy_seconds = 0.0
        self.batch_sizes: dict[int, int] = {}

    @property
    def computes(self) -> bool:
        """Whether its requests go through the compute lane."""
        return self.spec.variant is not None or self.spec.bundle is not None

    def note(self, job: Job, seconds: float, now: float) -> None:
        """A job has run. What preparing took counts with the batch that a request's first item is in."""
        self.busy_seconds += seconds
        if job.works:
            self.batcher.took(seconds, len(job.works))
        if job.step is Step.PREPARE:
            for work in job.works:
                work.prepare_s = seconds / len(job.works)
        elif job.step is Step.APPLY:
            for _ in job.works:
                self._note_batch(1, seconds / len(job.works), now)
        else:
            works = {item.work for item in job.items}
            self._note_batch(len(job.items), seconds + sum(w.prepare_s for w in works), now)
            for work in works:
                work.prepare_s = 0.0

    def _note_batch(self, size: int, seconds: float, now: float) -> None:
        self.batches += 1
        self.items += size
        self.batch_sizes[size] = self.batch_sizes.get(size, 0) + 1
        self.service.add(seconds, now)


class Generation:
    """What of an assignment is state. `touched` is when something of it last came or ended."""

    def __init__(self, assignment: Assignment, now: float) -> None:
        self.assignment = assignment
        self.number = assignment.generation
        self.router = Router(assignment)
        self.graph = self.router.graph
        self.queues = {
            spec.id: ReplicaQueue(self.number, assignment.run, spec, assignment.stages[spec.stage])
            for spec in assignment.replicas
        }
        self.touched = now

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

    def has_room(self, lane: int, stage: str, post: Outlook) -> bool:
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
            for work in queue.batcher.expired(now):
                yield queue, work
