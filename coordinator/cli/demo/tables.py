"""What the demo shows: the fleet, the plan, the mesh while it serves, and what came out against what was predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.markup import escape
from rich.table import Table

from coordinator.cli.demo.agents import DemoDevice
from tiermesh.documents.plan import Plan, Replica
from tiermesh.v1 import telemetry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Counts:
    """The ledger of a workflow, summed over its devices."""

    accepted: int = 0
    confirmed: int = 0
    in_flight: int = 0
    retried: int = 0
    results: int = 0
    errors: int = 0
    filtered: int = 0
    duplicates: int = 0
    finished: bool = False
    rate_rps: float = 0.0
    latency_ms: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def balanced(self) -> bool:
        """Whether every accepted request has ended exactly once."""
        return self.accepted == self.results + self.errors + self.filtered


def counts(samples: Iterable[pb.Sample], workflow: str) -> Counts:
    """The ledger from the newest sample of each device."""
    samples = list(samples)
    sources = [s for sample in samples for s in sample.sources if s.workflow == workflow]
    sinks = [s for sample in samples for s in sample.sinks if s.workflow == workflow]
    measured = [s.latency for s in sources if s.latency.samples]
    total = sum(m.samples for m in measured)
    return Counts(
        accepted=sum(s.accepted for s in sources),
        confirmed=sum(s.confirmed for s in sources),
        in_flight=sum(s.in_flight for s in sources),
        retried=sum(s.retried for s in sources),
        results=sum(s.results for s in sinks),
        errors=sum(s.errors for s in sinks),
        filtered=sum(s.filtered for s in sinks),
        duplicates=sum(s.duplicates for s in sinks),
        finished=bool(sources) and all(s.finished for s in sources),
        rate_rps=sum(s.rate for s in sources),
        latency_ms={
            name: 1000 * sum(getattr(m, name) * m.samples for m in measured) / total
            for name in ("p50", "p95", "p99")
            if total
        },
    )


def fleet_table(devices: Sequence[DemoDevice]) -> Table:
    """The devices, their price, and that they are emulated."""
    table = Table(title="fleet", title_justify="left", title_style="bold")
    for heading in ("device", "tier", "USD/h", "threads", "emulated"):
        table.add_column(heading, justify="left" if heading in ("device", "tier") else "right")
    for device in devices:
        slow = f"{device.slowdown:g} x slower" if device.slowdown > 1 else "no"
        table.add_row(
            device.name, device.tier, f"{device.price_per_hour:.3f}", str(device.threads), slow
        )
    return table


def plan_table(plan: Plan, emulated: Mapping[str, float]) -> Table:
    """The replicas of a plan and what each is expected to carry."""
    table = Table(
        title=f"plan: {plan.cost.total_per_hour:.4f} USD/h, gap {plan.solver.gap or 0:.2%}",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("stage", "variant", "device", "items/s", "batch", "load"):
        text = heading in ("stage", "variant", "device")
        table.add_column(heading, justify="left" if text else "right")
    for replica in plan.replicas:
        table.add_row(
            replica.stage,
            replica.variant or "-",
            device_label(replica.device, emulated),
            f"{replica.rate_rps:.2f}",
            str(replica.batch_size),
            f"{replica.utilization:.0%}",
        )
    return table


def device_label(device: str, emulated: Mapping[str, float]) -> str:
    """A device's name, marked where its speed is emulated."""
    slow = emulated.get(device, 1.0)
    return escape(device) + (f" [dim](emulated {slow:g} x slower)[/]" if slow > 1 else "")


def live_table(
    plan: Plan,
    samples: Mapping[str, pb.Sample],
    before: Mapping[str, pb.Sample],
    emulated: Mapping[str, float],
) -> Table:
    """The replicas as they serve: planned against measured over the time between two samples of a device."""
    table = Table(title="serving", title_justify="left", title_style="bold")
    for heading in ("stage", "variant", "device", "items/s", "planned", "load", "batch", "p95 ms"):
        text = heading in ("stage", "variant", "device")
        table.add_column(heading, justify="left" if text else "right")
    for replica in plan.replicas:
        table.add_row(*_live_row(replica, samples, before, emulated))
    return table


def _live_row(
    replica: Replica,
    samples: Mapping[str, pb.Sample],
    before: Mapping[str, pb.Sample],
    emulated: Mapping[str, float],
) -> list[str]:
    label = [replica.stage, replica.variant or "-", device_label(replica.device, emulated)]
    now, then = _sample_of(replica, samples), _sample_of(replica, before)
    if now is None or then is None:
        return [*label, "-", f"{replica.rate_rps:.2f}", "-", "-", "-"]
    seconds = max(samples[replica.device].at - before[replica.device].at, 1e-3)
    # A restarted worker counts from zero again.
    items = max(now.items - then.items, 0)
    batches = max(now.batches - then.batches, 0)
    busy = max(now.busy_seconds - then.busy_seconds, 0.0)
    return [
        *label,
        f"{items / seconds:.2f}",
        f"{replica.rate_rps:.2f}",
        f"{busy / seconds:.0%}",
        f"{items / batches:.1f}" if batches else "-",
        f"{1000 * now.service.p95:.0f}" if now.service.samples else "-",
    ]


def _sample_of(replica: Replica, samples: Mapping[str, pb.Sample]) -> pb.ReplicaSample | None:
    sample = samples.get(replica.device)
    found = (r for r in sample.replicas if r.replica == replica.id) if sample is not None else ()
    return next(iter(found), None)


def ledger_line(counts: Counts) -> str:
    """The ledger in one line."""
    text = f"accepted {counts.accepted} = results {counts.results} + errors {counts.errors}"
    if counts.filtered:
        text += f" + filtered {counts.filtered}"
    text += f"   in flight {counts.in_flight}   injected again {counts.retried}"
    return text + f"   duplicates dropped {counts.duplicates}"


def comparison_table(
    plan: Plan, rate_rps: float, latency_ms: Mapping[str, float], cost: float
) -> Table:
    """Predicted against measured."""
    table = Table(title="predicted against measured", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("predicted", "measured", "difference"):
        table.add_column(heading, justify="right")
    predicted = plan.predicted
    rows = [("throughput", "requests/s", predicted.throughput_rps, rate_rps)]
    rows += [
        (f"latency {name}", "ms", predicted.latency_ms[name], latency_ms[name])
        for name in ("p50", "p95")
        if name in predicted.latency_ms and name in latency_ms
    ]
    rows.append(("cost", "USD/h", plan.cost.total_per_hour, cost))
    for name, unit, promised, found in rows:
        change = f"{found / promised - 1:+.0%}" if promised else "-"
        table.add_row(f"{name} ({unit})", _figure(promised), _figure(found), change)
    return table


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"
