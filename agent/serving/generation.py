"""One generation of a workflow on one device: its lanes, and the queue of each replica that is here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent.serving.batcher import Batcher, Work
from agent.serving.meetings import Gathering, Join
from agent.serving.percentiles import Measurements
from agent.serving.router import Router
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec

QUIET_S: Final = 5.0
"""An older generation goes when nothing of it has come for so long. What still comes is injected again as the newer."""


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

    def note_batch(self, size: int, seconds: float, now: float) -> None:
        """A batch has run."""
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

    def expired(self, now: float) -> Iterator[tuple[str, Work]]:
        """Requests whose deadline has passed while they waited here, with their stage."""
        for queue in self.queues.values():
            if queue.join is not None:
                queue.join.expire(now)
            for work in queue.batcher.expired(now):
                yield queue.spec.stage, work
