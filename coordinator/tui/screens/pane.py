"""Screens with a pane beside a list, or over it where there is no room; and those whose list has a filter."""

from __future__ import annotations

from typing import ClassVar, Final

from textual import on
from textual.widgets import Input

from coordinator.tui.canvas import Canvas
from coordinator.tui.screens.base import MeshScreen

PANE_CSS: Final = """
    #left { width: 1fr; }
    #left.hidden { display: none; }
    #side { background: $surface; display: none; }
    #side.beside { display: block; }
    #side.over { display: block; width: 100%; }
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #filter.open { display: block; }
    """
"""Of the pane `#side`, the list's side `#left` and the line `#filter`; a screen puts the width of its pane first."""


class PaneScreen(MeshScreen):
    """A screen of a list, `LIST`, and a pane. `opened`: the pane lies over the list."""

    LIST: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.opened = False

    def place_pane(self, *, beside: bool, wide: bool) -> Canvas:
        """Put the pane beside the list, over it, or away."""
        side, over = self.query_one("#side", Canvas), self.opened and not wide
        side.set_class(beside, "beside")
        side.set_class(over, "over")
        self.query_one("#left").set_class(over, "hidden")
        return side


class FilteredScreen(PaneScreen):
    """A screen whose list shows what a line of words, `wanted`, lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = ""

    def on_mount(self) -> None:
        """Move in the list at once."""
        self.query_one(self.LIST).focus()

    def action_filter(self) -> None:
        """Type a filter."""
        line = self.query_one("#filter", Input)
        line.add_class("open")
        line.focus()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self.filter_by(event.value)

    def filter_by(self, words: str) -> None:
        """Show what these words let through."""
        self.wanted = words
        self.repaint()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one("#filter").set_class(bool(self.wanted), "open")
        self.query_one(self.LIST).focus()

    def action_back(self) -> None:
        """Close what is open: the pane, then the filter."""
        if self.opened:
            self.opened = False
        else:
            line = self.query_one("#filter", Input)
            line.value = self.wanted = ""
            line.remove_class("open")
        self.query_one(self.LIST).focus()
        self.repaint()
