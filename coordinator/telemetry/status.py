"""What runs where, measured against what the plan predicted. Pure: samples in, figures out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from coordinator.fleet.state import Fleet, ReplanRecord, RunningPlan
from coordinator.telemetry.attainment import Attainment, attainment_of
from tiermesh import histogram
from tiermesh.documents.plan import Plan, Predicted, Replica
from tiermesh.errors import InvalidDocument
from tiermesh.histogram import EMPTY, Histogram, merged
from tiermesh.v1 import telemetry_pb2 as pb

SHORTEST_S: Final = 0.5
"""Rates over less than this say nothing: a worker tells its counts four times a second."""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A replica. `busy` is its share of the device's time, 0 to 1; None is not known.

    `batch_sizes` counts batches by size in items; `batch_size` and `batch_timeout_ms` are the setting in use.
    `device_time` are the batches of the last minute; of several replicas, merge them.
    """

    id: str
    stage: str
    device: str
    variant: str | None
    predicted_items_per_second: float
    items_per_second: float | None = None
    predicted_busy: float = 0.0
    busy: float | None = None
    requests: int | None = None
    items: int | None = None
    errors: int | None = None
    waiting: int | None = None
    device_time: Histogram = EMPTY
    device_time_p95_ms: float | None = None
    mean_batch: float | None = None
    batch_sizes: dict[int, int] | None = None
    batch_size: int | None = None
    batch_timeout_ms: float | None = None


class SinkCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What the sinks have on disk, and the repetitions that they dropped."""

    results: int = 0
    errors: int = 0
    filtered: int = 0
    duplicates: int = 0

    @property
    def ended(self) -> int:
        """Requests that ended there."""
        return self.results + self.errors + self.filtered


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What came in and what came of it: accepted = results + errors + filtered + in flight, at every moment.

    All of that is what each source says of one moment. `sinks` is what other devices said, at other moments: they are
    compared only when nothing is in flight.
    """

    waiting: int = 0
    """Requests that are due at their source and not accepted yet: the plan, or the devices, take no more."""
    accepted: int = 0
    confirmed: int = 0
    in_flight: int = 0
    retried: int = 0
    results: int = 0
    errors: int = 0
    filtered: int = 0
    sinks: SinkCounts = SinkCounts()
    finished: bool = False

    @property
    def balanced(self) -> bool:
        """Whether nothing is in flight, and every request accepted has ended exactly once at a sink."""
        return not self.in_flight and self.accepted == self.sinks.ended


class BatteryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device's battery: how full it is, 0 to 100, and charging, discharging, resting or unspecified."""

    level_percent: float
    state: str


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the plan, and whether it serves the generation."""

    name: str
    tier: str
    state: str
    generation: int | None = None
    worker: str | None = None
    worker_restarts: int | None = None
    cpu_percent: float | None = None
    memory_used_bytes: int | None = None
    battery: BatteryStatus | None = None
    emulated_slowdown: float | None = None
    why: str = ""


class WorkflowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that runs. Latencies in milliseconds, end to end."""

    workflow: str
    generation: int
    run: str
    plan: str
    since: float
    predicted: Predicted
    expected_ms: dict[str, float] = {}
    """Latency that is expected by what batches are measured to take; empty where nothing was measured."""
    throughput_rps: float | None
    latency_ms: dict[str, float]
    """By percentile, over all sources and the last minute; of the durations in `latency`."""
    latency: Histogram = EMPTY
    ledger: Ledger
    devices: list[DeviceStatus]
    replicas: list[ReplicaStatus]
    attainment: Attainment
    replan: ReplanRecord | None = None
    """The newest replan, under way or ended; None where there was none."""


def status_of(
    workflow: str,
    fleet: Fleet,
    samples: Mapping[str, Sequence[pb.Sample]],
    silent: Mapping[str, str],
    now: float | None = None,
) -> WorkflowStatus:
    """The status of a running workflow from the samples of each device (by id), oldest first.

    Rates come from the first and the last sample. `silent` says why a device gave none. Without `now` (Unix seconds)
    it is not known what the run has cost so far.
    """
    running = fleet.running[workflow]
    plan = fleet.plans[running.plan].plan
    newest = [of[-1] for of in samples.values() if of]
    sources = _sources(newest, workflow, running.run)
    latency = latency_of(sources)
    return WorkflowStatus(
        workflow=workflow,
        generation=running.generation,
        run=running.run,
        plan=running.plan,
        since=running.since,
        predicted=plan.predicted,
        expected_ms=_expected_ms(fleet, workflow, running),
        throughput_rps=sum(s.confirmed_rps for s in sources) if sources else None,
        latency_ms=latency.percentiles_ms(),
        latency=latency,
        ledger=ledger_of(newest, workflow, running.run),
        devices=[
            _device(fleet, d, samples.get(d, ()), silent.get(d, ""), workflow)
            for d in running.devices
        ],
        replicas=_replicas(plan, running, fleet, samples),
        attainment=attainment_of(workflow, fleet, newest, now),
        replan=fleet.replans.get(workflow),
    )


def _expected_ms(fleet: Fleet, workflow: str, running: RunningPlan) -> dict[str, float]:
    corrected = fleet.expected.get(workflow)
    of_this = corrected is not None and corrected.generation == running.generation
    return corrected.latency_ms if corrected is not None and of_this else {}


def battery_of(sample: pb.Sample) -> BatteryStatus | None:
    """The battery of a device; None where it has none, or its agent does not tell."""
    if not sample.HasField("battery"):
        return None
    told, known = sample.battery, pb.Battery.State
    state = known.Name(told.state) if told.state in known.values() else "STATE_UNSPECIFIED"
    return BatteryStatus(
        level_percent=min(max(told.level_percent, 0.0), 100.0),
        state=state.removeprefix("STATE_").lower(),
    )


def _sources(samples: Iterable[pb.Sample], workflow: str, run: str) -> list[pb.SourceSample]:
    of = (workflow, run)
    return [s for sample in samples for s in sample.figures.sources if (s.workflow, s.run) == of]


def ledger_of(samples: Iterable[pb.Sample], workflow: str, run: str) -> Ledger:
    """The ledger of the run of a workflow, summed over the newest sample of each device.

    Each source adds what holds of it at one moment, so that the sum adds up however old the samples are.
    """
    samples = list(samples)
    sources = _sources(samples, workflow, run)
    of = (workflow, run)
    sinks = [s for one in samples for s in one.figures.sinks if (s.workflow, s.run) == of]
    return Ledger(
        waiting=sum(s.waiting for s in sources),
        accepted=sum(s.accepted for s in sources),
        confirmed=sum(s.confirmed for s in sources),
        in_flight=sum(s.accepted - s.confirmed for s in sources),
        retried=sum(s.retried for s in sources),
        results=sum(s.confirmed - s.errors - s.filtered for s in sources),
        errors=sum(s.errors for s in sources),
        filtered=sum(s.filtered for s in sources),
        sinks=SinkCounts(
            results=sum(s.results for s in sinks),
            errors=sum(s.errors for s in sinks),
            filtered=sum(s.filtered for s in sinks),
            duplicates=sum(s.duplicates for s in sinks),
        ),
        finished=bool(sources) and all(s.finished for s in sources),
    )


def latency_of(sources: Iterable[pb.SourceSample]) -> Histogram:
    """End-to-end latency, from accepted to confirmed, of the requests of all sources together."""
    return merged(_known(source.latency) for source in sources)


def _known(told: pb.Histogram) -> Histogram:
    """What a device tells of durations; nothing where it is no histogram, since the rest may be right."""
    try:
        return histogram.read(told)
    except InvalidDocument:
        return EMPTY


def _device(
    fleet: Fleet, device_id: str, samples: Sequence[pb.Sample], why: str, workflow: str
) -> DeviceStatus:
    device = fleet.devices[device_id]
    emulated = device.description.fingerprint.emulated
    told: dict[str, Any] = {}
    if samples:
        last = samples[-1]
        state = pb.WorkerState.State.Name(last.worker.state).removeprefix("STATE_").lower()
        told = {
            "generation": last.generations.get(workflow, 0),
            "worker": state,
            "worker_restarts": last.worker.restarts,
            "cpu_percent": last.cpu_percent,
            "memory_used_bytes": last.memory_used_bytes,
            "battery": battery_of(last),
        }
    return DeviceStatus(
        name=device.name,
        tier=device.description.tier,
        state=device.state.value,
        emulated_slowdown=emulated.slowdown if emulated else None,
        why=why or device.why,
        **told,
    )


def _replicas(
    plan: Plan, running: RunningPlan, fleet: Fleet, samples: Mapping[str, Sequence[pb.Sample]]
) -> list[ReplicaStatus]:
    ids = {fleet.devices[d].name: d for d in running.devices}
    return [
        _replica(replica, plan.workflow, running, samples.get(ids.get(replica.device, ""), ()))
        for replica in plan.replicas
    ]


def counted_at(sample: pb.Sample) -> float:
    """When the counts of a sample were read, by a clock of its device; without a worker, when it was taken."""
    return sample.figures.at or sample.at


def _replica(
    replica: Replica, workflow: str, running: RunningPlan, samples: Sequence[pb.Sample]
) -> ReplicaStatus:
    seen = [
        (sample, of)
        for sample in samples
        for of in sample.figures.replicas
        if (of.workflow, of.generation, of.replica) == (workflow, running.generation, replica.id)
    ]
    told = {**_told(seen[-1][1]), **_rates(seen)} if seen else {}
    return ReplicaStatus(
        id=replica.id,
        stage=replica.stage,
        device=replica.device,
        variant=replica.variant,
        predicted_items_per_second=replica.items_per_second,
        predicted_busy=replica.utilization,
        **told,
    )


def _told(last: pb.ReplicaSample) -> dict[str, Any]:
    device_time = _known(last.device_time)
    return {
        "requests": last.requests,
        "items": last.items,
        "errors": last.errors,
        "waiting": last.waiting,
        "device_time": device_time,
        "device_time_p95_ms": device_time.percentiles_ms().get("p95"),
        "mean_batch": last.items / last.batches if last.batches else None,
        "batch_size": last.batch_size,
        "batch_timeout_ms": last.batch_timeout_ms,
        "batch_sizes": dict(sorted(last.batch_sizes.items())),
    }


def _rates(seen: Sequence[tuple[pb.Sample, pb.ReplicaSample]]) -> dict[str, Any]:
    """Rates between the first and the last sample of one worker: counts and times by the same clock.

    Nothing where they are too close. A device computes one job at a time, and the part of one under way counts, so
    that what it was busy for is no longer than the time that passed; what clocks round is cut off.
    """
    newest, last = seen[-1]
    same = [one for one in seen if _is_continued(one, seen[-1])]
    oldest, first = same[0]
    seconds = counted_at(newest) - counted_at(oldest)
    if seconds < SHORTEST_S:
        return {}
    busy = (last.busy_seconds - first.busy_seconds) / seconds
    return {
        "items_per_second": (last.items - first.items) / seconds,
        "busy": min(max(busy, 0.0), 1.0),
    }


def _is_continued(
    before: tuple[pb.Sample, pb.ReplicaSample], after: tuple[pb.Sample, pb.ReplicaSample]
) -> bool:
    """Whether two samples are of one worker, whose counts only grow."""
    began = before[0].figures.began_at, after[0].figures.began_at
    return began[0] == began[1] and before[1].items <= after[1].items
