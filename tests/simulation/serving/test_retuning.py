"""A drift of the arrivals, with and without re-tuning: the real batcher and tuner under a clock of their own."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise

from agent.serving.batcher import Job, JobStep, Work
from agent.serving.flow import Flow
from agent.serving.instructions import Prepared, StageOutput
from agent.serving.routing.generation import Generation, ReplicaQueue
from agent.serving.tuning.retuning import EVERY_S, Retuning, keep_tuned
from tests.unit.serving.offered import VARIANT
from tiermesh import ids
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.documents.plan import Lane, Room
from tiermesh.documents.problem import BatchTime
from tiermesh.frames import EMPTY, Frame, Kind

CALM_RPS, BUSY_RPS = 20.0, 55.0
"""A batch of one takes 20 ms: up to 50 requests a second."""
DRIFT_S, END_S = 60.0, 180.0
REPLICA = "s@d"


def batch_seconds(size: int) -> float:
    return 0.016 + 0.004 * size


def arrivals(seed: int) -> list[float]:
    draw, now, times = random.Random(seed), 0.0, list[float]()
    while now < END_S:
        now += draw.expovariate(CALM_RPS if now < DRIFT_S else BUSY_RPS)
        times.append(now)
    return times


def flow(room: Room | None) -> Flow:
    spec = ReplicaSpec(id=REPLICA, stage="s", variant=VARIANT, batch_size=1, room=room)
    assignment = Assignment(
        workflow="w",
        generation=1,
        plan=ids.digest_bytes(b""),
        run="run",
        device="d",
        stages={"s": StageSpec(name="s", kind="model")},
        replicas=[spec],
        lanes=[Lane(share=1.0, path={"s": REPLICA})],
        replica_devices={REPLICA: "d"},
        peers={},
    )
    made = Flow("w", "d", 1)
    made.prepare(Generation(assignment, 0.0))
    made.commit(1, 0.0)
    return made


@dataclass
class Device:
    """One device that serves one replica; `latencies` are (arrival, seconds)."""

    flow: Flow
    tunes: bool
    now: float = 0.0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def queue(self) -> ReplicaQueue:
        return self.flow.generations[1].queues[REPLICA]

    def serve(self, times: list[float]) -> None:
        retuning = Retuning(lambda kind, text: self.events.append((self.now, f"{kind}: {text}")))
        due = [*times, float("inf")]
        looks, free = 0.0, 0.0
        while due[0] < float("inf") or not self.queue.batcher.is_idle:
            ready = max(self.flow.ready(self.now)[0], free)
            self.now = max(min(due[0], ready, looks), self.now)
            if self.now >= looks:
                looks += EVERY_S
                if self.tunes:
                    self.look(retuning)
            while due[0] <= self.now:
                self.queue.batcher.add(request(len(times) - len(due), due.pop(0)))
            if self.now >= free and (job := self.flow.next_job(self.now)) is not None:
                free = self.run(job)

    def look(self, retuning: Retuning) -> None:
        for queue, question in list(retuning.questions({"w": self.flow}, self.now)):
            retuning.follow(queue, question.answer(), self.now)

    def run(self, job: Job) -> float:
        """Take the job's effects at once; the device is free at the time returned, and takes no job before."""
        if job.step is JobStep.PREPARE:
            prepared = [(work, Prepared((("shape", None),))) for work in job.works]
            self.flow.computed(job, prepared, 0.0, self.now)
            return self.now
        seconds = batch_seconds(len(job.items))
        end = self.now + seconds
        self.latencies += [(item.work.arrived, end - item.work.arrived) for item in job.items]
        done = [(item.work, StageOutput(EMPTY)) for item in job.items]
        self.flow.computed(job, done, seconds, end)
        self.flow.take_instructions()
        return end


def request(number: int, at: float) -> Work:
    return Work(Frame(Kind.DATA, 1, 0, f"{number:032x}", 1, "o", "s", (), 0.0, 1e9), at)


def p95(device: Device, begin: float, end: float) -> float:
    values = sorted(seconds for at, seconds in device.latencies if begin <= at < end)
    return values[int(0.95 * len(values))]


def served(room: Room | None, *, tunes: bool = True, seed: int = 1) -> Device:
    device = Device(flow(room), tunes)
    times = arrivals(seed)
    device.serve(times)
    assert len(device.latencies) == len(times), "every request was served, once"
    return device


ROOM = Room(
    batch_size_max=8,
    latency_p95_ms=100.0,
    batches=[BatchTime(batch_size=n, mean=batch_seconds(n)) for n in (1, 2, 4, 8)],
)


def test_a_drift_makes_latency_worse_and_retuning_makes_it_good_again() -> None:
    fixed, tuned = served(ROOM, tunes=False), served(ROOM)
    before = p95(fixed, 0.0, DRIFT_S)
    assert before < 0.1
    assert p95(fixed, DRIFT_S + 40, END_S) > 1.0, "the queue grows without end"
    assert p95(tuned, 0.0, DRIFT_S) == before, "before the drift nothing changes"
    assert p95(tuned, DRIFT_S + 40, END_S) < 0.1, "back within what the plan promised"
    at, text = tuned.events[0]
    assert DRIFT_S < at < DRIFT_S + 40
    assert text.startswith("retuned: w, s@d: batches of 1, 0 ms -> batches of ")


def test_settings_do_not_flap() -> None:
    for seed in range(3):
        device = served(ROOM, seed=seed)
        assert len(device.events) <= 2
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(device.events)]
        assert all(gap >= 20.0 for gap in gaps)


def test_a_plan_without_room_is_followed_to_the_letter() -> None:
    device = served(None)
    assert device.events == []
    assert device.queue.batch_sizes.keys() == {1}


class Overloaded:
    """What `keep_tuned` sees of a worker that gets twice what it can serve; each look at the clock is a step."""

    def __init__(self) -> None:
        self.flows = {"w": flow(ROOM)}
        self.time = 1_000.0
        self.notices: list[tuple[str, str]] = []
        self.retuned = asyncio.Event()

    @property
    def queue(self) -> ReplicaQueue:
        return self.flows["w"].generations[1].queues[REPLICA]

    def now(self) -> float:
        self.time += 1.0
        assert self.queue.tuner is not None
        for number in range(100):
            self.queue.tuner.arrived(self.time - 1.0 + number / 100, 1)
        return self.time

    def notice(self, kind: str, text: str) -> None:
        self.notices.append((kind, text))

    def changed(self) -> None:
        self.retuned.set()


async def test_the_worker_looks_by_itself() -> None:
    serving = Overloaded()
    looking = asyncio.create_task(keep_tuned(serving, every_s=0.0))
    async with asyncio.timeout(10):
        await serving.retuned.wait()
    looking.cancel()
    assert [kind for kind, _ in serving.notices] == ["retuned"]
    assert serving.queue.batcher.setting.batch_size > 1
