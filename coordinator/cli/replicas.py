"""The replicas of a workflow as they serve, and its ledger, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli.text import clean, device_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.telemetry.status import Ledger, ReplicaStatus, WorkflowStatus


def replica_table(status: WorkflowStatus) -> Table:
    """The replicas, each figure as measured / predicted. It fits into 80 columns."""
    emulated = {device.name: device.emulated_slowdown for device in status.devices}
    errors = any(replica.errors for replica in status.replicas)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("stage", "variant", "device"):
        table.add_column(column, no_wrap=True)
    for column in ("items/s", "busy", "waits", "p95 ms", *(["errors"] if errors else [])):
        table.add_column(column, no_wrap=True, justify="right")
    for replica in status.replicas:
        failed = [f"[red]{replica.errors or 0}[/]"] if errors else []
        table.add_row(*_row(replica, emulated), *failed)
    return table


def _row(replica: ReplicaStatus, emulated: Mapping[str, float | None]) -> list[str]:
    measured = _or_dash(replica.items_per_second, ".2f")
    busy = _or_dash(None if replica.busy is None else 100 * replica.busy, ".0f")
    return [
        clean(replica.stage),
        clean(replica.variant or ""),
        device_label(replica.device, emulated.get(replica.device)),
        f"{measured}/{replica.predicted_items_per_second:.2f}",
        f"{busy}/{replica.predicted_busy:.0%}",
        _or_dash(replica.waiting, "d"),
        _or_dash(replica.device_time_p95_ms, ".0f"),
    ]


def ledger_line(ledger: Ledger) -> str:
    """The ledger in one line."""
    text = f"accepted {ledger.accepted} = results {ledger.results} + errors {ledger.errors}"
    if ledger.filtered:
        text += f" + filtered {ledger.filtered}"
    text += f" + in flight {ledger.in_flight}" if ledger.in_flight else ""
    text += f"; waiting to be accepted {ledger.waiting}" if ledger.waiting else ""
    return f"{text}; retried {ledger.retried}, duplicates dropped {ledger.sinks.duplicates}"


def sinks_line(ledger: Ledger) -> str:
    """What the sinks have, as they say at another moment; empty while something is in flight."""
    sinks = ledger.sinks
    if ledger.in_flight or not sinks.ended:
        return ""
    text = f"at the sinks: {sinks.results} results + {sinks.errors} errors"
    return text + (f" + {sinks.filtered} filtered" if sinks.filtered else "") + " on disk"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
