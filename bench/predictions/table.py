"""What was measured, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, NamedTuple

from estimates import Latency, Predicted
from logs import Findings


@dataclass(frozen=True)
class Row:
    """One replay: what was offered, predicted and measured, and why they differ.

    All predictions play the plan through, on the replayed arrivals: `profiled` from the profiles as they are,
    `predicted` from profiles corrected by the run before, `hindsight` by this run. `forecast` is `predicted` on
    another, long draw of the process. `retuned` counts changes of batches by workers.
    """

    kind: str
    load: float
    rate_rps: float
    requests: int
    measured: Latency
    predicted: Predicted
    profiled: Predicted
    hindsight: Predicted
    forecast: Latency
    retuned: int
    found: Findings


_COLUMNS: Final = (
    "load",
    "arrivals",
    "requests",
    "measured p50 / p95",
    "predicted",
    "p95 in 9 of 10 draws",
    "profiled",
    "hindsight",
    "forecast",
    "slower",
    "batches",
    "hop ms",
    "busy",
    "retuned",
)


class _Mean(NamedTuple):
    p50: float
    p95: float


def in_short(rows: Sequence[Row]) -> str:
    """The means over rounds, load by load."""
    lines = [
        "| load | arrivals | p50 predicted | measured | off | p95 predicted | measured | off |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for load, kind in sorted(
        {(r.load, r.kind) for r in rows}, key=lambda k: (k[0], k[1] == "bursty")
    ):
        of = [r for r in rows if (r.load, r.kind) == (load, kind)]
        told, seen = _mean([r.predicted for r in of]), _mean([r.measured for r in of])
        lines.append(
            f"| {load:.2f} | {kind} | {told.p50:.0f} | {seen.p50:.0f} | {told.p50 / seen.p50 - 1:+.0%} | "
            f"{told.p95:.0f} | {seen.p95:.0f} | {told.p95 / seen.p95 - 1:+.0%} |"
        )
    return "\n".join(lines)


def in_full(rows: Sequence[Row]) -> str:
    """Replay by replay."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "| --- " * len(_COLUMNS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(r: Row) -> list[str]:
    return [
        f"{r.load:.2f}",
        r.kind,
        str(r.requests),
        f"{r.measured.p50:.0f} / {r.measured.p95:.0f}",
        _told(r.predicted, r.measured),
        f"{r.predicted.p95_low:.0f} to {r.predicted.p95_high:.0f}",
        *(_told(told, r.measured) for told in (r.profiled, r.hindsight, r.forecast)),
        " ".join(f"{ratio.ratio:.2f}" for ratio in r.found.slower.values()),
        " ".join(f"{size:.1f}" for size in r.found.batch.values()),
        f"{r.found.hop_p50_ms:.1f} / {r.found.hop_p95_ms:.1f}",
        f"{r.found.busiest:.0%}",
        str(r.retuned),
    ]


def _told(told: Latency | Predicted, seen: Latency) -> str:
    p50, p95 = told.p50 / seen.p50 - 1, told.p95 / seen.p95 - 1
    return f"{told.p50:.0f} ({p50:+.0%}) / {told.p95:.0f} ({p95:+.0%})"


def _mean(of: Sequence[Latency | Predicted]) -> _Mean:
    return _Mean(fmean(one.p50 for one in of), fmean(one.p95 for one in of))
