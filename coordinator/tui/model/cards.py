"""A card in lines: what it is, its rate, how busy it is, and how long its batches take, against the plan."""

from __future__ import annotations

from typing import Final

from coordinator.tui.model import text as t
from coordinator.tui.model.placement import Card
from coordinator.tui.model.text import Line, Run

LATE: Final = 1.5
"""So many times what was measured is late."""


def card_lines(card: Card, cells: int, *, slim: bool) -> list[Line]:
    """What a card says, in lines of exactly `cells` cells."""
    if card.slim:
        return [_halves(Run("◆ " + _times(card), "dim"), _rate(card), cells)]
    if slim:
        said = t.safe(card.variant)
        busy = t.percent(card.busy if card.busy is not None else card.predicted_busy)
        p95 = t.milliseconds(card.p95_ms if card.p95_ms is not None else card.predicted_p95_ms)
        return [
            _halves(Run(said, "bold"), Run(busy, _busy_role(card)), cells),
            _halves(_rate(card), Run(p95, "" if card.p95_ms is not None else "dim"), cells),
        ]
    return [_titled(card, cells), _rated(card, cells), _loaded(card, cells), _timed(card, cells)]


def _titled(card: Card, cells: int) -> Line:
    wide = cells >= len(card.variant) + len(card.precision) + 1 + len(_times(card))
    right = Run(t.safe(card.precision) if wide else "", "dim")
    return _halves(Run(t.safe(card.variant or card.stage) + _times(card), "bold"), right, cells)


def _rated(card: Card, cells: int) -> Line:
    told = f"{t.number(card.items_per_second)} of {t.number(card.predicted_items_per_second)}/s"
    if card.items_per_second is None:
        told = f"plan {t.number(card.predicted_items_per_second)}/s"
    right = Run(
        f"batch {card.batch_size}" if cells >= len(told) + 9 else f"b{card.batch_size}", "dim"
    )
    return _halves(Run(told, "data" if card.items_per_second is not None else "dim"), right, cells)


def _loaded(card: Card, cells: int) -> Line:
    share = card.busy if card.busy is not None else card.predicted_busy
    said = f" {t.percent(share)}"
    role = _busy_role(card)
    return (
        Run(t.bar(share, max(cells - 5, 1), card.predicted_busy), role),
        Run(t.fit(said, 5, ">"), role),
    )


def _timed(card: Card, cells: int) -> Line:
    measured, predicted = card.p95_ms, card.predicted_p95_ms
    told = f"p95 {t.milliseconds(measured if measured is not None else predicted)}"
    role = "dim"
    if measured is not None:
        role = "warn" if predicted is not None and measured > LATE * predicted else ""
    return _halves(Run(told, role), _trouble(card, cells - len(told)), cells)


def _trouble(card: Card, room: int) -> Run:
    """What is wrong with it; else what its batches took when they were measured."""
    if card.lost:
        return Run("lost", "bad bold")
    if card.errors:
        return Run(f"✗{card.errors}", "bad bold")
    if card.waiting > 0:
        return Run(f"{card.waiting} wait", "warn")
    if card.p95_ms is not None and card.predicted_p95_ms is not None and room >= 10:
        return Run(f"/{t.milliseconds(card.predicted_p95_ms)}", "dim")
    return Run("")


def _rate(card: Card) -> Run:
    if card.items_per_second is None:
        return Run(f"{t.number(card.predicted_items_per_second)}/s", "dim")
    return Run(f"{t.number(card.items_per_second)}/s", "data")


def _busy_role(card: Card) -> str:
    share = card.busy if card.busy is not None else card.predicted_busy
    if card.busy is None:
        return "dim"
    return "bad" if share >= 0.95 else "warn" if share > 1.5 * card.predicted_busy + 0.1 else "good"


def _times(card: Card) -> str:
    return f" ×{card.replicas}" if card.replicas > 1 else ""


def _halves(left: Run, right: Run, cells: int) -> Line:
    room = cells - len(right.text)
    return (
        Run(t.fit(left.text, max(room, 0)), left.role),
        Run(t.fit(right.text, cells - max(room, 0)), right.role),
    )
