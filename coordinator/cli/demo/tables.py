"""What the demo shows: the fleet, the plan, the mesh while it serves, and what came out against what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from coordinator.cli.demo.agents import DemoDevice
from coordinator.status import Ledger, ReplicaStatus, WorkflowStatus
from tiermesh.documents.plan import Plan

SHOWN_PERCENTILES = ("p50", "p95")


def fleet_table(devices: Sequence[DemoDevice]) -> Table:
    """The devices, their price, and that they are emulated."""
    table = _table("fleet", "device", "tier", ">USD/h", ">threads", "emulated")
    for device in devices:
        slow = f"{device.slowdown:g} x slower" if device.slowdown > 1 else "no"
        price, threads = f"{device.price_per_hour:.3f}", str(device.threads)
        table.add_row(device.name, device.tier, price, threads, slow)
    return table


def plan_table(plan: Plan, emulated: Mapping[str, float]) -> Table:
    """The replicas of a plan and what each is expected to carry."""
    title = f"plan: {plan.cost.total_per_hour:.4f} USD/h, gap {plan.solver.gap or 0:.2%}"
    table = _table(title, "stage", "variant", "device", ">items/s", ">batch", ">busy")
    for replica in plan.replicas:
        table.add_row(
            replica.stage,
            replica.variant or "",
            device_label(replica.device, emulated),
            f"{replica.rate_rps:.2f}",
            str(replica.batch_size),
            f"{replica.utilization:.0%}",
        )
    return table


def device_label(device: str, emulated: Mapping[str, float]) -> str:
    """A device's name, marked where its speed is emulated."""
    slow = emulated.get(device, 1.0)
    return escape(device) + (f" [dim](emulated {slow:g}x)[/]" if slow > 1 else "")


def live_table(status: WorkflowStatus, emulated: Mapping[str, float]) -> Table:
    """The replicas as they serve, planned against measured."""
    columns = (">items/s", ">planned", ">busy", ">planned", ">waiting", ">p95 ms")
    table = _table("serving", "stage", "variant", "device", *columns)
    for replica in status.replicas:
        table.add_row(*_live_row(replica, emulated))
    return table


def _live_row(replica: ReplicaStatus, emulated: Mapping[str, float]) -> list[str]:
    return [
        replica.stage,
        replica.variant or "",
        device_label(replica.device, emulated),
        _or_dash(replica.rate_rps, ".2f"),
        f"{replica.predicted_rate_rps:.2f}",
        _or_dash(replica.busy, ".0%"),
        f"{replica.predicted_busy:.0%}",
        _or_dash(replica.waiting, "d"),
        _or_dash(replica.service_p95_ms, ".0f"),
    ]


def ledger_line(ledger: Ledger) -> str:
    """The ledger in one line."""
    text = f"accepted {ledger.accepted} = results {ledger.results} + errors {ledger.errors}"
    if ledger.filtered:
        text += f" + filtered {ledger.filtered}"
    text += f" + in flight {ledger.in_flight}" if ledger.in_flight else ""
    return text + f"; injected again {ledger.retried}, duplicates dropped {ledger.duplicates}"


def comparison_table(
    plan: Plan, rate_rps: float, latency_ms: Mapping[str, float], cost_per_hour: float
) -> Table:
    """Predicted against measured."""
    table = _table("predicted against measured", "", ">predicted", ">measured", ">difference")
    predicted = plan.predicted.latency_ms
    rows = [("throughput (requests/s)", plan.predicted.throughput_rps, rate_rps)]
    rows += [
        (f"latency {name} (ms)", predicted[name], latency_ms[name])
        for name in SHOWN_PERCENTILES
        if name in predicted and name in latency_ms
    ]
    rows.append(("cost of the devices in use (USD/h)", plan.cost.total_per_hour, cost_per_hour))
    for name, promised, found in rows:
        change = f"{found / promised - 1:+.0%}" if promised else ""
        table.add_row(name, f"{promised:.4g}", f"{found:.4g}", change)
    return table


def _table(title: str, *columns: str) -> Table:
    """A table; a column that begins with > holds numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=True)
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
