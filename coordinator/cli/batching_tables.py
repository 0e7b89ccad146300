"""What `coordinator batching` prints for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE
from rich.table import Table

from coordinator.cli.batching_answer import BatchingQuestion, HourAnswer
from coordinator.cli.output import CommandOutput
from coordinator.planning.batching.choice import GridPoint, Surface, frontier

_CHARGED: Final = "USD/1e6"


def show(rows: Sequence[HourAnswer], question: BatchingQuestion, output: CommandOutput) -> None:
    """The choices as a table, what could not be met on standard error, and the frontiers."""
    for row in rows:
        if row.infeasible is not None:
            output.progress.print(f"[bold red]infeasible:[/] {row.hour.name}: {row.infeasible}")
        if row.skipped:
            output.progress.print(f"skipped: {row.hour.name}: {row.skipped}")
    if output.json:
        return
    output.console.print(_choices(rows, question))
    for row in rows:
        fitted = row.hour.fitted
        if fitted is not None:
            fits = "fits" if fitted.good else "does not fit"
            why = f" ({fitted.refused})" if fitted.refused else ""
            output.console.print(
                f"{row.hour.name}: {fitted.name}{why}; it {fits}: KS {fitted.ks:.4f}, limit {fitted.ks_limit:.4f}"
            )
        if question.wants_frontier and row.surface is not None:
            output.console.print(_frontier(row.surface, question, row.hour.name))


def _choices(rows: Sequence[HourAnswer], question: BatchingQuestion) -> Table:
    table = _table(f"{question.ask.of} within {question.ask.limit:g}")
    for header in ("hour", "rate/s", "who"):
        table.add_column(header, no_wrap=True)
    for header in ("B", "T/s", "MB", "p50/s", "p95/s", "p99/s", _CHARGED, "busy"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        of_hour = row.hour.name, f"{row.hour.process.rate:.4g}"
        if row.choice is None:
            table.add_row(*of_hour, "skipped" if row.skipped else "infeasible")
        nearest = row.infeasible.fields["nearest"] if row.infeasible else None
        named = (
            ("chosen", row.choice.point if row.choice else None),
            ("nearest", nearest if isinstance(nearest, GridPoint) else None),
            ("actual", row.actual),
            ("BATCH", row.baseline),
        )
        for who, point in named:
            if point is not None:
                table.add_row(*of_hour, who, *_cells(point, row))
    return table


def _cells(point: GridPoint, row: HourAnswer) -> list[str]:
    found, setting = point.estimate, point.setting
    busy = found.utilization
    return [
        str(setting.batch_size),
        f"{setting.timeout_s:g}",
        "" if point.memory_mb is None else f"{point.memory_mb:g}",
        *(f"{value:.4g}" for value in (found.p50, found.p95, found.p99)),
        f"{point.cost_per_request_usd * 1e6:.4g}",
        f"{row.hour.process.rate * found.device_seconds:.3g}" if busy is None else f"{busy:.0%}",
    ]


def _frontier(surface: Surface, question: BatchingQuestion, name: str) -> Table:
    free = question.grid.service.price.free
    table = _table(f"{name}: no setting is better in both")
    cost = "device s/request" if free else _CHARGED
    for header in ("B", "T/s", "MB", f"p{question.ask.quantile * 100:.0f}/s", cost):
        table.add_column(header, justify="right")
    for setting, latency, price in frontier(surface):
        memory = question.grid.service.memory_mb(setting.row)
        table.add_row(
            str(setting.batch_size),
            f"{setting.timeout_s:g}",
            "" if memory is None else f"{memory:g}",
            f"{latency:.4g}",
            f"{price if free else price * 1e6:.4g}",
        )
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
    )
