"""Rows as Markdown, a table for each mesh and scene."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from bench.attainment.scoring import Row

HEAD = (
    "system",
    "attainment",
    "disturbed",
    "misses",
    "goodput",
    "p95",
    "accuracy",
    "least",
    "USD/h",
    "x bound",
    "recover",
    "replans",
    "again",
    "twice",
)


def markdown(rows: Sequence[Row]) -> str:
    """All rows."""
    parts: list[str] = []
    for (mesh, scene), group in groupby(rows, key=lambda r: (r.mesh, r.scene)):
        parts.append(f"**{mesh}, {scene}**\n\n{_table(list(group))}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    bound = next((r.cost_per_hour for r in rows if r.system == "clairvoyant"), None)
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row, bound)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Row, bound: float | None) -> list[str]:
    system = f"{row.system} x {row.scale:g}" if row.scale != 1.0 else row.system
    if row.feasible is False:
        system += " (no plan keeps the SLO)"
    return [
        system,
        f"{row.attainment:.1%}",
        f"{row.disturbed:.1%}",
        f"{round((1 - row.attainment) * row.offered)}",
        f"{row.goodput_rps:.2f}",
        _milliseconds(row.p95_ms),
        f"{row.accuracy:.1%}",
        f"{row.accuracy_least:.1%}",
        f"{row.cost_per_hour:.4g}",
        f"{row.cost_per_hour / bound:.2f}" if bound else "",
        _recovery(row.recover_s),
        _replans(row),
        f"{row.retried:.1%}",
        f"{row.duplicates:.1%}",
    ]


def _milliseconds(value: float) -> str:
    return "none" if value == float("inf") else f"{value:.0f}"


def _recovery(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return f"{seconds:.0f} s" if seconds else "0"


def _replans(row: Row) -> str:
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(row.replans.items()))
    return f"{told}; {row.rollouts} rolled out" if told else "0"
