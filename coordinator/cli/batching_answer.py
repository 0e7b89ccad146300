"""The answers of `coordinator batching`: for each hour the choice, BATCH's own and the frontier; and their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.cli.output import CommandOutput
from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from coordinator.planning.batching.choice import (
    Ceiling,
    GridChoice,
    GridPoint,
    GridSetting,
    Law,
    SettingsGrid,
    Surface,
    choose,
    frontier,
    point_at,
)
from coordinator.planning.batching.fitting import Fit, Timestamps, fit
from coordinator.planning.batching.forecast import forecast
from coordinator.planning.batching.laws import TraceLaw, law_for
from coordinator.planning.batching.published import published_choice
from coordinator.planning.batching.recursion import PERCENTILES
from tiermesh.errors import Infeasible, Unsupported


@dataclass(frozen=True)
class BatchingQuestion:
    """What is asked of every hour. `published` is the grid on which BATCH chooses."""

    grid: SettingsGrid
    published: SettingsGrid
    servers: int | None
    ask: Ceiling
    wants_frontier: bool


@dataclass(frozen=True)
class Hour:
    """The arrivals of an hour: a MAP, or timestamps with the process fitted to them."""

    name: str
    process: MarkovianArrivals
    recorded: Floats | None = None
    fitted: Fit | None = None

    def law(self, servers: int | None) -> Law:
        """What the hour's arrivals do."""
        if self.recorded is not None:
            return TraceLaw(self.recorded, self.process, servers)
        return law_for(self.process, servers)


@dataclass(frozen=True)
class HourAnswer:
    """An hour's answer. `actual` are the chosen setting's figures under the hour's own arrivals, for a forecast."""

    hour: Hour
    choice: GridChoice | None = None
    infeasible: Infeasible | None = None
    skipped: str = ""
    actual: GridPoint | None = None
    baseline: GridPoint | None = None
    no_baseline: str = ""
    surface: Surface | None = field(default=None, repr=False)


def hours_of_maps(maps: Mapping[str, MarkovianArrivals]) -> list[Hour]:
    """One hour per MAP."""
    return [Hour(name, process) for name, process in maps.items()]


def hours_of_trace(raw: Floats, window_s: float | None, output: CommandOutput) -> list[Hour]:
    """The whole trace, or its windows; says on standard error what had to be mended."""
    timestamps = Timestamps.read(raw)
    for count, what in ((timestamps.unsorted, "out of order"), (timestamps.duplicates, "equal")):
        if count:
            output.progress.print(
                f"[yellow]note:[/] {count} timestamps are {what} to the one before"
            )
    parts = timestamps.hours(window_s) if window_s else {0: timestamps}
    hours: list[Hour] = []
    for number, part in parts.items():
        if window_s and not part.has_rate:
            output.progress.print(f"[yellow]note:[/] hour {number} has no rate and is left out")
            continue
        fitted = fit(part)
        hours.append(Hour(str(number or "trace"), fitted.process, part.seconds, fitted))
    return hours


def answer_hours(
    question: BatchingQuestion, hours: Sequence[Hour], *, forecast: bool
) -> list[HourAnswer]:
    """One row per hour; an infeasible hour does not stop the others."""
    if not forecast:
        return [_answer(question, hour) for hour in hours]
    return [_answer_ahead(question, hours, index) for index in range(len(hours))]


def _answer(question: BatchingQuestion, hour: Hour) -> HourAnswer:
    law = hour.law(question.servers)
    surface = law.surface(question.grid, question.ask.quantile)
    baseline, no_baseline = _baseline(question, hour.process, law)
    parts: dict[str, Any] = {"baseline": baseline, "no_baseline": no_baseline, "surface": surface}
    try:
        return HourAnswer(hour, choose(law, surface, question.ask), **parts)
    except Infeasible as error:
        return HourAnswer(hour, infeasible=error, **parts)


def _answer_ahead(question: BatchingQuestion, hours: Sequence[Hour], index: int) -> HourAnswer:
    """Choose for an hour from those before it, then look at what that does in the hour itself."""
    hour = hours[index]
    if index == 0:
        return HourAnswer(hour, skipped="there is no data before it")
    expected = forecast([earlier.process for earlier in hours[:index]])
    row = _answer(question, Hour(hour.name, expected))
    law = hour.law(question.servers)
    baseline, no_baseline = row.baseline, row.no_baseline
    if baseline is not None:
        baseline = _figures(law, question.published, baseline.setting)
        no_baseline = "" if baseline else "its choice cannot serve the hour"
    actual = _figures(law, question.grid, row.choice.point.setting) if row.choice else None
    return HourAnswer(
        hour, row.choice, row.infeasible, "", actual, baseline, no_baseline, row.surface
    )


def _figures(law: Law, grid: SettingsGrid, setting: GridSetting) -> GridPoint | None:
    try:
        return point_at(law, grid, setting)
    except Infeasible:
        return None


def _baseline(
    question: BatchingQuestion, process: MarkovianArrivals, law: Law
) -> tuple[GridPoint | None, str]:
    """BATCH's own choice with its exact figures, or why there is none."""
    try:
        setting = published_choice(process, question.published, question.ask)
        return point_at(law, question.published, setting), ""
    except Infeasible as error:
        return None, error.what
    except Unsupported as error:
        return None, f"{error.what}: {error.why}"


def to_document(
    rows: Sequence[HourAnswer], question: BatchingQuestion, seconds: float, *, several: bool
) -> dict[str, Any]:
    """The command's JSON: one answer, or a list of hours."""
    answers = [_row_document(row, question) for row in rows]
    if not several:
        return {**answers[0], "seconds": seconds}
    return {
        "hours": answers,
        "infeasible_hours": [row.hour.name for row in rows if row.infeasible],
        "seconds": seconds,
    }


def _row_document(row: HourAnswer, question: BatchingQuestion) -> dict[str, Any]:
    process = row.hour.process
    document: dict[str, Any] = {
        "hour": row.hour.name,
        "arrivals": _arrivals_document(row.hour),
        "chosen": _point_document(row.choice.point, process) if row.choice else None,
        "evaluated": row.surface.grid.size if row.surface else 0,
        "feasible": row.choice.feasible if row.choice else 0,
        "baseline": {"failed": row.no_baseline or row.skipped},
    }
    if row.baseline is not None:
        document["baseline"] = _point_document(row.baseline, process)
    if row.actual is not None:
        met = question.ask.value(row.actual) <= question.ask.limit
        document["actual"] = {**_point_document(row.actual, process), "meets_slo": met}
    if row.skipped:
        document["skipped"] = row.skipped
    if row.infeasible is not None:
        document["infeasible"] = _infeasible_document(row.infeasible, process, question.ask)
    if question.wants_frontier and row.surface is not None:
        document["frontier"] = _frontier_document(row.surface, question)
    return document


def _arrivals_document(hour: Hour) -> dict[str, Any]:
    process, fitted = hour.process, hour.fitted
    document: dict[str, Any] = {
        "rate_rps": process.rate,
        "phases": process.phases,
        "dispersion": process.dispersion,
    }
    if fitted is not None:
        document["fit"] = {
            "process": fitted.name,
            "arrivals": fitted.arrivals,
            "ks": fitted.ks,
            "ks_limit": fitted.ks_limit,
            "bic_gain": fitted.bic_gain,
            "two_phases_refused": fitted.refused or None,
        }
    return document


def _frontier_document(surface: Surface, question: BatchingQuestion) -> list[dict[str, Any]]:
    cost = (
        "device_seconds_per_request" if question.grid.service.price.free else "cost_per_request_usd"
    )
    return [
        {
            "batch_size": setting.batch_size,
            "timeout_s": setting.timeout_s,
            "memory_mb": question.grid.service.memory_mb(setting.row),
            "latency_s": {f"p{question.ask.quantile * 100:.0f}": latency},
            cost: price,
        }
        for setting, latency, price in frontier(surface)
    ]


def _infeasible_document(
    error: Infeasible, process: MarkovianArrivals, ask: Ceiling
) -> dict[str, Any]:
    nearest = error.fields["nearest"]
    if not isinstance(nearest, GridPoint):
        return {**error.to_dict(), "nearest_slo": None}
    return {
        **error.to_dict(),
        "nearest_slo": ask.value(nearest),
        "nearest": _point_document(nearest, process),
    }


def _point_document(point: GridPoint, process: MarkovianArrivals) -> dict[str, Any]:
    found = point.estimate
    percentiles = (f"p{q * 100:.0f}" for q in PERCENTILES)
    return {
        "batch_size": point.setting.batch_size,
        "timeout_s": point.setting.timeout_s,
        "memory_mb": point.memory_mb,
        "latency_s": {name: getattr(found, name) for name in percentiles},
        "cost_per_request_usd": point.cost_per_request_usd,
        "utilization": found.utilization,
        "busy_servers": process.rate * found.device_seconds,
        "mean_batch": found.mean_batch,
        "device_seconds_per_request": found.device_seconds,
    }
