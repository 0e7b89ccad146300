"""How a workflow keeps its SLO, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from coordinator.cli.margin import interval_words
from coordinator.cli.text import clean
from coordinator.telemetry.attainment import Word, seconds

if TYPE_CHECKING:
    from coordinator.telemetry.attainment import (
        Attainment,
        AttainmentVerdict,
        LatencyObjective,
        ServedAccuracy,
    )
    from tiermesh.documents.plan import Predicted

_SHOWN: Final = {
    Word.MET: "[green]SLO met[/]",
    Word.AT_RISK: "[yellow]SLO at risk[/]",
    Word.MISSED: "[bold red]SLO missed[/]",
    Word.NO_DATA: "[dim]SLO: no data yet[/]",
}
_WINDOWS: Final = {"1min": "1 min", "10min": "10 min", "1h": "1 h", "run": "run"}


def verdict_line(verdict: AttainmentVerdict) -> str:
    """The verdict and why."""
    return f"{_SHOWN[verdict.word]}: {clean(verdict.why)}"


def attainment_lines(
    attainment: Attainment,
    predicted: Predicted,
    latency_ms: Mapping[str, float],
    expected_ms: Mapping[str, float],
) -> Iterator[str]:
    """The verdict, latency with the SLO beside it, shares and burn rates by window, accuracy, cost."""
    yield verdict_line(attainment.verdict)
    limits = {o.percentile: o.limit_ms for o in attainment.objectives}
    for name in {**predicted.latency_ms} | limits:
        yield f"latency {name} {_latency(name, latency_ms, predicted, expected_ms, limits)}"
    for objective in attainment.objectives:
        yield from _objective_lines(objective)
    if attainment.goodput_rps is not None:
        errors = f", {attainment.errors:,} errors" if attainment.errors else ", no errors"
        yield f"goodput {attainment.goodput_rps:.2f}/s; {attainment.ended:,} ended{errors}"
    if (line := _accuracy(attainment.accuracy)) is not None:
        yield line
    cost = attainment.cost
    so_far = "" if cost.so_far_usd is None else f", {cost.so_far_usd:.4f} USD since the run began"
    yield f"cost {cost.per_hour:.4f} USD/h{so_far}"


def _latency(
    name: str,
    measured: Mapping[str, float],
    predicted: Predicted,
    expected_ms: Mapping[str, float],
    limits: Mapping[str, float],
) -> str:
    shown = f"{measured[name]:.0f} ms" if name in measured else "?"
    promised: dict[str, float] = {**predicted.latency_ms}
    interval = interval_words(predicted, name)
    beside = [f"predicted {promised[name]:.0f} ms"] if name in promised else []
    beside += [interval] if interval else []
    beside += [f"now expected {expected_ms[name]:.0f} ms"] if name in expected_ms else []
    beside += [f"SLO {limits[name]:.0f} ms"] if name in limits else []
    return f"{shown} ({', '.join(beside)})"


def _objective_lines(objective: LatencyObjective) -> Iterator[str]:
    told = {n: objective.windows[n] for n in _WINDOWS if n in objective.windows}
    shares = [f"{_WINDOWS[n]} {s.share:.1%}" for n, s in told.items() if s.share is not None]
    if not shares:
        return
    within = f"within {seconds(objective.limit_ms)} of being due"
    yield f"{within}: {', '.join(shares)} ({objective.target:.0%} asked)"
    burned = [
        f"{_WINDOWS[n]} {s.burn_rate:.2f}" for n, s in told.items() if s.burn_rate is not None
    ]
    left = objective.budget_left
    budget = "" if left is None else f"; error budget left {left:.0%}"
    yield f"burn rate: {', '.join(burned)}{budget}"


def _accuracy(accuracy: ServedAccuracy) -> str | None:
    if accuracy.served is None and accuracy.predicted is None:
        return None
    served = "?" if accuracy.served is None else f"{accuracy.served:.2%}"
    beside = [] if accuracy.predicted is None else [f"predicted {accuracy.predicted:.2%}"]
    beside += [] if accuracy.floor is None else [f"floor {accuracy.floor:.2%}"]
    return f"accuracy served {served}" + (f" ({', '.join(beside)})" if beside else "")
