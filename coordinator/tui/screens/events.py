"""Events: the journal as a log, filtered, with each event in full; and the requests that ended in errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from coordinator.tui.canvas import Canvas, Table
from coordinator.tui.model.journal import JournalLog, entry_lines
from coordinator.tui.model.text import Lines, Run
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command
from coordinator.tui.screens.pane import PANE_CSS, FilteredScreen

if TYPE_CHECKING:
    from collections.abc import Iterable

SIDE_FROM: Final = 130
SIDE_CELLS: Final = 48


class EventsScreen(FilteredScreen):
    """The log; while the cursor is on the last line, it follows what happens."""

    MODE = "events"
    LIST = "#log"
    CSS = "#side { width: 50; padding: 0 1; }" + PANE_CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("e", "errors", "Failed requests", tooltip="only requests that ended in an error"),
        Binding("enter", "detail", "Detail", key_display="⏎"),
        Binding("f", "follow", "Follow", tooltip="go to the newest, and stay there"),
        Binding("escape", "back", "Back", show=False, tooltip="close the filter or the detail"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.errors = False
        self.following = True
        self.chosen: int | None = None
        self.log_shown: JournalLog | None = None

    def body(self) -> ComposeResult:
        """Log and pane."""
        with Horizontal():
            with Vertical(id="left"):
                yield Input(placeholder="words in kind, device, reason", id="filter")
                yield Canvas(id="head")
                yield Table(id="log")
            yield Canvas(id="side")

    def show(self, view: View) -> None:
        """Paint the log, and the event under the cursor."""
        wide = self.size.width >= SIDE_FROM
        side = self.place_pane(beside=wide, wide=wide)
        cells = self.size.width - (SIDE_CELLS + 2 if wide else 0) - 1
        log = self.log_shown = JournalLog(view, cells, wanted=self.wanted, errors=self.errors)
        note = f"   {len(log.entries)} events" + (" · failed requests only" if self.errors else "")
        self.query_one("#head", Canvas).show(Lines([(*log.head(), Run(note, "head"))]))
        table = self.query_one("#log", Table)
        table.show(log)
        self._follow(table, log)
        if wide or self.opened:
            entry = log.entry(table.marked or 0)
            shown = entry_lines(view, entry, SIDE_CELLS - 2) if entry is not None else []
            side.show(Lines([(), *shown]))

    def _follow(self, table: Table, log: JournalLog) -> None:
        row = log.height - 1
        if not self.following:
            numbers = (i for i, e in enumerate(log.entries) if e.number == self.chosen)
            row = next(numbers, row)
        if table.marked != row:
            table.place(row)

    def document(self, view: View) -> Any:
        """The entries that the filter lets through."""
        log = JournalLog(view, self.size.width, wanted=self.wanted, errors=self.errors)
        return [
            {"number": e.number, **msgspec.to_builtins(e.event, enc_hook=float)}
            for e in log.entries
        ]

    def commands(self) -> Iterable[Command]:
        """What the keys do."""
        yield "Filter events", "By words in kind, device, reason (key /)", self.action_filter
        yield "Failed requests", "With the stage they died at (key e)", self.action_errors
        yield "Follow", "Stay at the newest event (key f)", self.action_follow

    @on(Table.Moved, "#log")
    def _moved(self, event: Table.Moved) -> None:
        log = self.log_shown
        entry = log.entry(event.y) if log is not None else None
        self.chosen = entry.number if entry is not None else None
        self.following = log is None or event.y >= log.height - 1
        self.repaint()

    @on(Table.Chosen, "#log")
    def _chosen(self) -> None:
        self.action_detail()

    def action_detail(self) -> None:
        """Open or close the pane."""
        self.opened = not self.opened
        self.repaint()

    def action_errors(self) -> None:
        """Show failed requests only, or everything."""
        self.errors = not self.errors
        self.following = True
        self.repaint()

    def action_follow(self) -> None:
        """Go to the newest."""
        self.following = True
        self.repaint()

    def filter_by(self, words: str) -> None:
        """Show what these words let through, from the newest."""
        self.following = True
        super().filter_by(words)
