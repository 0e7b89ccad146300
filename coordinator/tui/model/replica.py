"""The replica under the cursor, in three lines."""

from __future__ import annotations

from coordinator.tui.model import text as t
from coordinator.tui.model.placement import Board, Card
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View


def replica_lines(view: View, board: Board, card: Card, cells: int) -> list[Line]:
    """Who it is, what it does against what was planned, and where its requests come from and go."""
    device = view.fleet.named(card.column)
    tier = f" ({t.safe(device.description.tier)})" if device is not None else ""
    status = view.status(board.workflow)
    live = next((r for r in status.replicas if r.id == card.id), None) if status else None
    done = f"{live.requests or 0} requests, {live.items or 0} items" if live is not None else ""
    title: Line = (
        Run(t.safe(card.id), "title"),
        Run(f"{tier}  {t.safe(card.precision)}  {done}", "dim"),
    )
    figures: Line = (
        Run("rate ", "dim"),
        Run(f"{t.number(card.items_per_second)} items/s"),
        Run(f" (plan {t.number(card.predicted_items_per_second)})  ", "dim"),
        Run("busy ", "dim"),
        Run(t.percent(card.busy)),
        Run(f" (plan {t.percent(card.predicted_busy)})  ", "dim"),
        Run("p95 ", "dim"),
        Run(t.milliseconds(card.p95_ms)),
        Run(f" (profile {t.milliseconds(card.predicted_p95_ms)})  ", "dim"),
        Run("batch ", "dim"),
        Run(f"{card.batch_size}"),
        Run(f"  waiting {card.waiting}  errors {card.errors}", "bad" if card.errors else "dim"),
    )
    coming = [f"{t.safe(x.source)} {x.share:.0%}" for x in board.links if x.target == card.id]
    going = [f"{t.safe(x.target)} {x.share:.0%}" for x in board.links if x.source == card.id]
    ways: Line = (
        Run("from ", "dim"),
        Run(", ".join(coming) or "outside"),
        Run("  to ", "dim"),
        Run(", ".join(going) or "outside"),
    )
    return [t.clip(line, cells) for line in (title, figures, ways)]
