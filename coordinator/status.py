"""What runs where, measured against what the plan predicted. Pure: samples in, figures out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from coordinator.fleet.state import Fleet, Replan, Running
from tiermesh.documents.plan import Plan, Predicted, Replica
from tiermesh.v1 import telemetry_pb2 as pb

PERCENTILES = ("p50", "p75", "p90", "p95", "p99")


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A replica. Rates in items per second; `busy` is its share of the device's time; None is not known.

    `batch_sizes` counts batches by size in items; `batch_size` and `batch_timeout_ms` are the setting in use.
    """

    id: str
    stage: str
    device: str
    variant: str | None
    predicted_rate_rps: float
    rate_rps: float | None = None
    predicted_busy: float = 0.0
    busy: float | None = None
    requests: int | None = None
    items: int | None = None
    errors: int | None = None
    waiting: int | None = None
    service_p95_ms: float | None = None
    mean_batch: float | None = None
    batch_sizes: dict[int, int] | None = None
    batch_size: int | None = None
    batch_timeout_ms: float | None = None


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What came in and what came out. It balances when every request accepted has ended exactly once."""

    waiting: int = 0
    """Requests that are due at their source and not accepted yet: the plan, or the devices, take no more."""
    accepted: int = 0
    confirmed: int = 0
    in_flight: int = 0
    retried: int = 0
    results: int = 0
    errors: int = 0
    filtered: int = 0
    duplicates: int = 0
    finished: bool = False

    @property
    def balanced(self) -> bool:
        """Whether accepted = results + errors + filtered."""
        return self.accepted == self.results + self.errors + self.filtered


class Battery(msgspec.Struct, frozen=True, kw_only=True):
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
    battery: Battery | None = None
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
    throughput_rps: float | None
    latency_ms: dict[str, float]
    ledger: Ledger
    devices: list[DeviceStatus]
    replicas: list[ReplicaStatus]
    replan: Replan | None = None
    """The newest replan, under way or ended; None where there was none."""


def status_of(
    workflow: str,
    fleet: Fleet,
    samples: Mapping[str, Sequence[pb.Sample]],
    silent: Mapping[str, str],
) -> WorkflowStatus:
    """The status of a running workflow from the samples of each device (by id), oldest first.

    Rates come from the first and the last sample. `silent` says why a device gave none.
    """
    running = fleet.running[workflow]
    plan = fleet.plans[running.plan].plan
    newest = [of[-1] for of in samples.values() if of]
    sources = _sources(newest, workflow, running.run)
    return WorkflowStatus(
        workflow=workflow,
        generation=running.generation,
        run=running.run,
        plan=running.plan,
        since=running.since,
        predicted=plan.predicted,
        throughput_rps=sum(s.rate for s in sources) if sources else None,
        latency_ms=latency_ms(sources),
        ledger=ledger_of(newest, workflow, running.run),
        devices=[
            _device(fleet, d, samples.get(d, ()), silent.get(d, ""), workflow)
            for d in running.devices
        ],
        replicas=_replicas(plan, running, fleet, samples),
        replan=fleet.replans.get(workflow),
    )


def battery_of(sample: pb.Sample) -> Battery | None:
    """The battery of a device; None where it has none, or its agent does not tell."""
    if not sample.HasField("battery"):
        return None
    told, known = sample.battery, pb.Battery.State
    state = known.Name(told.state) if told.state in known.values() else "STATE_UNSPECIFIED"
    return Battery(
        level_percent=min(max(told.level_percent, 0.0), 100.0),
        state=state.removeprefix("STATE_").lower(),
    )


def _sources(samples: Iterable[pb.Sample], workflow: str, run: str) -> list[pb.SourceSample]:
    of = (workflow, run)
    return [s for sample in samples for s in sample.sources if (s.workflow, s.run) == of]


def ledger_of(samples: Iterable[pb.Sample], workflow: str, run: str) -> Ledger:
    """The ledger of the run of a workflow, summed over the newest sample of each device."""
    samples = list(samples)
    sources = _sources(samples, workflow, run)
    sinks = [
        s for sample in samples for s in sample.sinks if (s.workflow, s.run) == (workflow, run)
    ]
    return Ledger(
        waiting=sum(s.waiting for s in sources),
        accepted=sum(s.accepted for s in sources),
        confirmed=sum(s.confirmed for s in sources),
        in_flight=sum(s.in_flight for s in sources),
        retried=sum(s.retried for s in sources),
        results=sum(s.results for s in sinks),
        errors=sum(s.errors for s in sinks),
        filtered=sum(s.filtered for s in sinks),
        duplicates=sum(s.duplicates for s in sinks),
        finished=bool(sources) and all(s.finished for s in sources),
    )


def latency_ms(sources: Iterable[pb.SourceSample]) -> dict[str, float]:
    """End-to-end latency; over several sources the mean of their percentiles, by samples."""
    measured = [s.latency for s in sources if s.latency.samples]
    total = sum(m.samples for m in measured)
    return {
        name: 1_000 * sum(getattr(m, name) * m.samples for m in measured) / total
        for name in PERCENTILES
        if total
    }


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
    plan: Plan, running: Running, fleet: Fleet, samples: Mapping[str, Sequence[pb.Sample]]
) -> list[ReplicaStatus]:
    ids = {fleet.devices[d].name: d for d in running.devices}
    return [
        _replica(replica, running, samples.get(ids.get(replica.device, ""), ()))
        for replica in plan.replicas
    ]


def _replica(replica: Replica, running: Running, samples: Sequence[pb.Sample]) -> ReplicaStatus:
    seen = [
        (sample.at, of)
        for sample in samples
        for of in sample.replicas
        if of.replica == replica.id and of.generation == running.generation
    ]
    # A worker that was restarted counts from zero again.
    while seen and seen[0][1].items > seen[-1][1].items:
        seen.pop(0)
    told: dict[str, Any] = {}
    if seen:
        (begun, first), (ended, last) = seen[0], seen[-1]
        told = {
            "requests": last.requests,
            "items": last.items,
            "errors": last.errors,
            "waiting": last.waiting,
            "service_p95_ms": 1_000 * last.service.p95 if last.service.samples else None,
            "mean_batch": last.mean_batch if last.batches else None,
            "batch_size": last.batch_size,
            "batch_timeout_ms": last.batch_timeout_ms,
            "batch_sizes": dict(sorted(last.batch_sizes.items())),
        }
        if ended > begun:
            told["rate_rps"] = (last.items - first.items) / (ended - begun)
            told["busy"] = (last.busy_seconds - first.busy_seconds) / (ended - begun)
    return ReplicaStatus(
        id=replica.id,
        stage=replica.stage,
        device=replica.device,
        variant=replica.variant,
        predicted_rate_rps=replica.rate_rps,
        predicted_busy=replica.utilization,
        **told,
    )
