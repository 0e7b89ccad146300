"""Placement: what runs where, live, against what the plan promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region

from coordinator.tui.canvas import Canvas
from coordinator.tui.model import text as t
from coordinator.tui.model.banner import banner
from coordinator.tui.model.drawing import Drawing, draw
from coordinator.tui.model.gauges import gauge_lines, gauges
from coordinator.tui.model.journal import chain
from coordinator.tui.model.placement import Board, Card, board
from coordinator.tui.model.progress_bars import work_lines
from coordinator.tui.model.replica import replica_lines
from coordinator.tui.model.text import Line, Lines, Run
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command, MeshScreen

if TYPE_CHECKING:
    from collections.abc import Iterable

LOW: Final = 38
"""Terminals with fewer lines get cards of two lines."""
TICKER_LINES: Final = 3


class PlacementScreen(MeshScreen):
    """Gauges, a banner when something is wrong, the board, and what happened last."""

    MODE = "placement"
    CSS = """
    #gauges { height: 5; padding: 0 1; }
    #banner { height: 1; display: none; }
    #banner.some { display: block; }
    #board { padding: 0 1; }
    #ticker { height: 3; padding: 0 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "step(-1, 0)", "Replica", key_display="←↑↓→", tooltip="choose a replica"),
        Binding("right,l", "step(1, 0)", "Right", show=False, tooltip="the replica to the right"),
        Binding("up,k", "step(0, -1)", "Up", show=False, tooltip="the replica above"),
        Binding("down,j", "step(0, 1)", "Down", show=False, tooltip="the replica below"),
        Binding("enter", "explain", "Why there", key_display="⏎", tooltip="explain the plan"),
        Binding("v", "cards", "Cards", tooltip="high or low cards"),
        Binding("escape", "unchoose", "None", show=False, tooltip="choose no replica"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.selected: str | None = None
        self.slim: bool | None = None
        self.board: Board | None = None
        self.drawing: Drawing | None = None

    def body(self) -> ComposeResult:
        """From above to below."""
        yield Canvas(id="banner")
        yield Canvas(id="gauges")
        yield Canvas(id="board")
        yield Canvas(id="ticker")

    def show(self, view: View) -> None:
        """Paint all parts."""
        workflow = view.workflow
        cells = self.size.width - 2
        self._show_banner(view, cells)
        found = gauges(view, workflow) if workflow is not None else []
        meters = self.query_one("#gauges", Canvas)
        meters.styles.height = len(found) + 1 if found else 0
        meters.show(Lines(gauge_lines(found, cells)))
        self.board = board(view, workflow) if workflow is not None else None
        canvas = self.query_one("#board", Canvas)
        if self.board is None:
            self.drawing = None
            canvas.show(Lines(_nothing_runs(view, cells)))
        else:
            slim = self.size.height < LOW if self.slim is None else self.slim
            self.drawing = draw(self.board, cells - 1, slim=slim, selected=self.selected)
            canvas.show(self.drawing)
        self._show_ticker(view, cells)

    def _show_banner(self, view: View, cells: int) -> None:
        line = banner(view, cells + 2)
        canvas = self.query_one("#banner", Canvas)
        canvas.set_class(line is not None, "some")
        canvas.show(Lines([line] if line is not None else []))

    def _show_ticker(self, view: View, cells: int) -> None:
        lines: list[Line] = []
        card = self._card()
        if card is not None and self.board is not None:
            lines = replica_lines(view, self.board, card, cells)
        count = TICKER_LINES if self.size.height >= LOW - 8 or card else 1
        if self.board is not None:
            lines = lines or work_lines(view, cells, count)
        lines = lines or chain(view, cells, count)
        ticker = self.query_one("#ticker", Canvas)
        ticker.styles.height = max(len(lines), 1)
        ticker.show(Lines(lines))

    def _card(self) -> Card | None:
        """The card that is chosen."""
        cards = self.board.cards if self.board is not None else []
        return next((c for c in cards if c.id == self.selected), None)

    def document(self, view: View) -> Any:
        """The status of the workflow, as `coordinator status --json` has it."""
        status = view.status()
        return msgspec.to_builtins(status) if status is not None else None

    def commands(self) -> Iterable[Command]:
        """What the keys do."""
        yield "Explain the plan", "Why each replica is where it is (⏎)", self.action_explain
        yield "High or low cards", "How much each card says (key v)", self.action_cards

    # --- keys ----------------------------------------------------------------------------------------------------

    def action_step(self, right: int, down: int) -> None:
        """Choose the nearest replica in a direction."""
        if self.drawing is None or not self.drawing.places:
            return
        places = self.drawing.places
        here = places.get(self.selected or "")
        if here is None:
            self._choose(next(iter(places)))
            return
        ahead: list[tuple[int, int, str]] = []
        for card, place in places.items():
            dx, dy = place.middle - here.middle, place.y - here.y
            if right and dx * right > 0:
                ahead.append((abs(dy), dx * right, card))
            elif down and dy * down > 0:
                ahead.append((dy * down, abs(dx), card))
        if ahead:
            self._choose(min(ahead)[2])

    def _choose(self, card: str | None) -> None:
        self.selected = card
        self.repaint()
        place = self.drawing.places.get(card or "") if self.drawing is not None else None
        if place is not None:
            region = Region(place.x, max(place.y - 2, 0), place.width, place.height + 3)
            self.query_one("#board", Canvas).scroll_to_region(region, animate=False)

    def action_unchoose(self) -> None:
        """Choose none."""
        self._choose(None)

    def action_cards(self) -> None:
        """Change how much the cards say."""
        self.slim = not (self.size.height < LOW if self.slim is None else self.slim)
        self.repaint()

    async def action_explain(self) -> None:
        """Explain the running plan on the screen for plans."""
        running = self.view.fleet.running.get(self.view.workflow or "")
        record = self.view.fleet.plans.get(running.plan) if running is not None else None
        if record is not None:
            app = self.mesh_app
            app.work("explain", app.session.explain(record.plan), group="explain")
            await app.action_show_mode("plan")

    @on(Canvas.Pointed, "#board")
    async def _pointed(self, event: Canvas.Pointed) -> None:
        card = self.drawing.card_at(event.x, event.y) if self.drawing is not None else None
        self._choose(card)
        if event.twice and card is not None:
            await self.action_explain()


def _nothing_runs(view: View, cells: int) -> list[Line]:
    ready = len(view.fleet.ready)
    lines: list[Line] = [(), (Run("  nothing runs yet", "title"),), ()]
    if view.doing:
        lines.append((Run(f"  ⟳ {t.safe(view.doing)}", "warn"),))
        lines += [(Run("    "), *line) for line in work_lines(view, cells - 4, 12)]
    elif not ready:
        lines.append((Run("  no device is ready; start one: agent run", "dim"),))
    elif not view.fleet.plans:
        lines.append(
            (
                Run(f"  {ready} devices are ready; plan a workflow: ", "dim"),
                Run("coordinator plan WORKFLOW.yaml", "accent"),
            )
        )
    else:
        lines.append((Run("  a plan is made; apply it from screen ", "dim"), Run("3 Plan", "key")))
    return lines
