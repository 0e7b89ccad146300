"""The picture of `coordinator batching --plot`: cost against latency, one panel per hour (at most 24)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.cli.batching_answer import BatchingQuestion, HourAnswer
from coordinator.planning.batching.choice import frontier
from tiermesh.errors import TiermeshError

_MOST_PANELS: Final = 24
_MOST_DOTS: Final = 4_000


def draw(rows: Sequence[HourAnswer], question: BatchingQuestion, path: Path) -> None:
    """Write the picture; the format follows from the suffix of `path`.

    Raises:
        TiermeshError: matplotlib (the extra `plot`) is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TiermeshError(
            "a picture needs matplotlib", fix="Install the extra: pip install 'tiermesh[plot]'"
        ) from None
    drawn = [row for row in rows if row.surface is not None][:_MOST_PANELS]
    columns = min(4, max(1, math.ceil(math.sqrt(len(drawn)))))
    lines = max(1, math.ceil(len(drawn) / columns))
    figure: Any = Figure(figsize=(1.5 + 4 * columns, 1 + 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, row in zip(panels, drawn, strict=False):
        _draw_hour(panel, row, question)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    try:
        figure.savefig(path)
    except OSError as error:
        raise TiermeshError(f"{path} cannot be written", why=error.strerror or str(error)) from None


def _draw_hour(panel: Any, row: HourAnswer, question: BatchingQuestion) -> None:
    assert row.surface is not None  # noqa: S101 - the caller chose such rows
    latency, cost = row.surface.latency_s.ravel(), row.surface.cost.ravel()
    shown = np.flatnonzero(np.isfinite(latency))
    shown = shown[:: max(1, len(shown) // _MOST_DOTS)]
    panel.scatter(latency[shown], cost[shown], s=3, color="0.75", label="settings", rasterized=True)
    best = frontier(row.surface)
    panel.plot([p[1] for p in best], [p[2] for p in best], color="C0", label="frontier")
    free = question.grid.service.price.free
    named = (
        ("chosen", row.choice.point if row.choice else None, "C2o"),
        ("BATCH", row.baseline, "C3x"),
    )
    for label, point, style in named:
        if point is not None:
            charged = point.estimate.device_seconds if free else point.cost_per_request_usd
            panel.plot(
                point.estimate.percentile(question.ask.quantile), charged, style, label=label
            )
    line = panel.axvline if question.ask.of == "latency" else panel.axhline
    line(question.ask.limit, color="0.4", linestyle=":", label="SLO")
    seen = [p[1] for p in best]
    if question.ask.of == "latency":
        seen.append(question.ask.limit)
    panel.set_xlim(0, 1.5 * max(seen, default=1.0))  # saturated settings would squeeze the rest
    panel.set_title(f"{row.hour.name}: {row.hour.process.rate:.3g} requests/s", fontsize="medium")
    panel.set_xlabel(f"p{question.ask.quantile * 100:.0f} latency (s)")
    panel.set_ylabel("device s per request" if free else "USD per request")
    panel.legend(fontsize="x-small")
