"""A device: the product's `Flow`, with a compute lane, sources and sinks whose times are simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Protocol

from agent.serving.batcher import Job, JobStep, Work
from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.feeds import PacedFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.request import Request
from agent.serving.endpoints.sink import SinkState
from agent.serving.endpoints.source import SourceState
from agent.serving.endpoints.sources import count_for, locate_sinks
from agent.serving.flow import Flow
from agent.serving.instructions import (
    Acknowledge,
    Hangup,
    Instruction,
    Outcome,
    Prepared,
    Read,
    Record,
    StageOutput,
    Wake,
    Write,
)
from agent.serving.routing.generation import Generation
from bench.attainment.timeline import Timeline
from bench.attainment.wires import Wires
from tiermesh.documents.assignment import Assignment
from tiermesh.frames import Frame, Packed

DISK_S: Final = 0.002
PREPARE_S: Final = 0.0003
"""Device time of splitting a request into items."""


class Times(Protocol):
    """What the world says of requests and devices."""

    def service_s(self, device: str, stage: str, variant: str, size: int) -> float:
        """Seconds of a batch on a device now."""
        ...

    def items(self, request: str, stage: str) -> int:
        """Items of a request at a stage."""
        ...

    def payload(self, request: str, stage: str) -> Packed:
        """What a stage makes of a request."""
        ...

    def arrivals(self, device: str) -> Sequence[float]:
        """When requests are due at the source of a device."""
        ...

    def accepted(self, device: str, requests: Sequence[Request]) -> None:
        """A source has accepted requests."""
        ...

    def ran(self, work: Work, stage: str, variant: str) -> None:
        """A stage has run on a request, as this variant."""
        ...

    def ended(self, frame: Frame) -> None:
        """A request has ended at a sink."""
        ...


class GivenArrivals(ArrivalSchedule):
    """Arrivals at given times, whatever their share; `begun` is when the source starts."""

    def __init__(self, times: Sequence[float], admit_rps: float | None, begun: float) -> None:
        self._times = times
        self._admit = admit_rps
        self._begun = begun
        self.count = len(times)

    @property
    def admit_rps(self) -> float | None:
        """As the plan says."""
        return self._admit

    @property
    def mean_gap(self) -> float:
        """Seconds between two arrivals, on average."""
        return (self._times[-1] - self._times[0]) / len(self._times) if self._times else 1.0

    def gap(self, index: int) -> float:
        """Seconds from the arrival before to this one."""
        if index >= len(self._times):
            return inf
        return self._times[index] - (self._times[index - 1] if index else self._begun)


class _Files(Sequence[str]):
    """As many files as anybody asks for."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: Any) -> Any:
        return f"{index}.jpg"


class Machine:
    """A device, while it is up; what it was to serve, it serves again when it is back."""

    def __init__(
        self, name: str, timeline: Timeline, wires: Wires, times: Times, *, tick_s: float
    ) -> None:
        self.name = name
        self._tick_s = tick_s
        self.flow: Flow | None = None
        self.peers: dict[str, Machine] = {}
        self._timeline = timeline
        self._wires = wires
        self._times = times
        self._assignment: Assignment | None = None
        self._busy = False
        self._epoch = 0
        self._ticked = 0.0
        self._timer_at = inf
        self.start()

    @property
    def now(self) -> float:
        """The simulation's clock; devices agree on it."""
        return self._timeline.now

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.flow is not None

    def start(self) -> None:
        """Begin to run, and serve what was served."""
        self._epoch += 1
        self._busy = False
        self._timer_at = inf
        self.flow = Flow("read-signs", self.name, self._epoch)
        if self._assignment is not None:
            self.prepare(self._assignment)
            self.commit(self._assignment)

    def fail(self) -> None:
        """Lose all that is in memory, and be silent."""
        self.flow = None
        self._wires.fail(self)

    # Generations

    def prepare(self, assignment: Assignment) -> None:
        """Load a generation."""
        flow = self._running()
        generation = Generation(assignment, self.now)
        for _, stage in generation.sources_and_sinks():
            if stage.kind == "sink" and stage.name not in flow.sinks:
                flow.sinks[stage.name] = SinkState(assignment.run)
        flow.prepare(generation)

    def commit(self, assignment: Assignment) -> None:
        """New requests take the generation from now on."""
        flow = self._running()
        self._assignment = assignment
        flow.commit(assignment.generation, self.now)
        generation = flow.generations[assignment.generation]
        for spec, stage in generation.sources_and_sinks():
            if stage.source is not None:
                admit = stage.source.admit_rps
                share = generation.router.share(spec.id, stage.name)
                rate = admit * (share[1] - share[0]) if admit is not None else None
                self._begin_source(flow, generation, spec.id, stage.name, rate)
        flow.tick(self.now)
        self.pump()

    def _begin_source(
        self, flow: Flow, generation: Generation, replica: str, stage: str, admit: float | None
    ) -> None:
        assignment = generation.assignment
        key = f"{assignment.run}.{stage}"
        arrivals = GivenArrivals(self._times.arrivals(self.name), admit, self.now)
        if key in flow.sources.by_key:
            flow.sources.by_key[key].adopt(replica, PacedFeed(arrivals, _Files()), self.now)
            return
        ledger = RequestLedger(generation.graph.sinks_below(stage), assignment.deadline_seconds)
        locate_sinks(ledger, generation, stage)
        count_for(ledger, generation, self.now)
        flow.sources.by_key[key] = SourceState(
            key,
            stage,
            replica,
            workflow=assignment.workflow,
            run=generation.router.run_of(stage, self.name),
            feed=PacedFeed(arrivals, _Files()),
            ledger=ledger,
            now=self.now,
        )

    def stop(self) -> None:
        """Accept no more."""
        if self.flow is not None:
            self.flow.stop()
        self._assignment = None

    def _running(self) -> Flow:
        if self.flow is None:
            raise RuntimeError(f"{self.name} is off")
        return self.flow

    # What the flow says

    def follow(self) -> None:
        """Carry out what the flow says; windows that open let jobs start with the next tick."""
        flow = self.flow
        while flow is not None and (instructions := flow.take_instructions()):
            for instruction in instructions:
                self._carry_out(flow, instruction)

    def pump(self) -> None:
        """Carry out what the flow says, give the compute lane its next job, and set the timer."""
        flow = self.flow
        if flow is None or not flow.generations:
            return
        self.follow()
        if not self._busy:
            job = flow.next_job(self.now)
            if job is not None:
                self._busy = True
                seconds = self._seconds(flow, job)
                self._later(seconds, lambda f: self._computed(f, job, seconds))
        self._set_timer(flow)

    def _later(self, seconds: float, event: Callable[[Flow], None]) -> None:
        """An event of the flow that runs now, unless it is gone by then."""
        flow = self.flow

        def run() -> None:
            if flow is not None and self.flow is flow:
                event(flow)
                flow.tick(self.now)
                self.pump()

        self._timeline.after(seconds, run)

    def _set_timer(self, flow: Flow) -> None:
        at = max(min(self._ticked + self._tick_s, flow.wake_at(self.now)), self.now)
        if at >= self._timer_at:
            return
        self._timer_at = at

        def tick() -> None:
            if self.flow is flow and self._timer_at == at:
                self._timer_at = inf
                self._ticked = self.now
                flow.tick(self.now)
                self.pump()

        self._timeline.after(at - self.now, tick)

    def _carry_out(self, flow: Flow, instruction: Instruction) -> None:
        match instruction:
            case Wake(device):
                self._wires.converse(self, self.peers[device])
            case Acknowledge(device):
                call = self._wires.calls.get((device, self.name))
                if call is not None:
                    self._wires.acknowledge(call)
            case Hangup(device):
                call = self._wires.calls.get((self.name, device))
                if call is not None:
                    self._wires.end(call)
            case Record(source, requests):
                self._times.accepted(self.name, requests)
                self._later(DISK_S, lambda f: f.recorded(source, requests, self.now))
            case Read(source, request):
                payload = self._times.payload(request.id, "")
                self._later(DISK_S, lambda f: f.inject(source, request, payload, self.now))
            case Write():
                self._later(DISK_S, lambda f: self._write(f, instruction))
            case _:
                pass

    def _write(self, flow: Flow, write: Write) -> None:
        self._times.ended(write.frame)
        flow.written([write], self.now)

    # Computing

    def _seconds(self, flow: Flow, job: Job) -> float:
        if job.step is not JobStep.INFER:
            return PREPARE_S * len(job.works)
        spec = flow.generations[job.generation].queues[job.replica].spec
        variant = spec.variant.name if spec.variant is not None else ""
        return self._times.service_s(self.name, spec.stage, variant, len(job.items))

    def _computed(self, flow: Flow, job: Job, seconds: float) -> None:
        self._busy = False
        flow.computed(job, self._outcomes(flow, job), seconds, self.now)

    def _outcomes(self, flow: Flow, job: Job) -> list[tuple[Work, Outcome]]:
        if job.step is not JobStep.INFER:
            return [(w, self._prepared(w)) for w in job.works]
        for item in job.items:
            item.work.outputs[item.index] = item.value
        generation = flow.generations.get(job.generation)
        if generation is None:
            return []
        spec = generation.queues[job.replica].spec
        variant = spec.variant.name if spec.variant is not None else ""
        done = [w for w in dict.fromkeys(item.work for item in job.items) if w.is_complete]
        for work in done:
            self._times.ran(work, spec.stage, variant)
        return [(w, StageOutput(self._times.payload(w.frame.request_id, spec.stage))) for w in done]

    def _prepared(self, work: Work) -> Prepared:
        count = self._times.items(work.frame.request_id, work.frame.stage)
        return Prepared(tuple((0, index) for index in range(count)))
