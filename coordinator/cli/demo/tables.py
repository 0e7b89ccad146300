"""What the demo shows: the fleet, the plan, and what came out against what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from coordinator.cli.demo.agents import DemoDevice
from coordinator.cli.margin import interval_words
from coordinator.cli.text import clean, device_label
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
            clean(replica.stage),
            clean(replica.variant or ""),
            device_label(replica.device, emulated.get(replica.device)),
            f"{replica.items_per_second:.2f}",
            str(replica.batch_size),
            f"{replica.utilization:.0%}",
        )
    return table


def comparison_table(
    plan: Plan, rate_rps: float, latency_ms: Mapping[str, float], cost_per_hour: float
) -> Table:
    """Predicted against measured."""
    columns = (">predicted", ">90 % interval", ">measured", ">off")
    table = _table("predicted against measured", "", *columns)
    predicted = plan.predicted.latency_ms
    rows = [("throughput (requests/s)", plan.predicted.throughput_rps, rate_rps, "")]
    rows += [
        (
            f"latency {name} (ms)",
            predicted[name],
            latency_ms[name],
            interval_words(plan.predicted, name),
        )
        for name in SHOWN_PERCENTILES
        if name in predicted and name in latency_ms
    ]
    used = "cost of devices in use (USD/h)"
    rows.append((used, plan.cost.total_per_hour, cost_per_hour, ""))
    for name, promised, found, interval in rows:
        change = f"{found / promised - 1:+.0%}" if promised else ""
        table.add_row(name, f"{promised:.4g}", interval, f"{found:.4g}", change)
    return table


def _table(title: str, *columns: str) -> Table:
    """A table; a column that begins with > holds numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for column in columns:
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=True)
    return table
