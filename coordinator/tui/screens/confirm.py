"""Dialogs: a question to be answered with yes or no, and a line to be typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Input

from coordinator.tui.canvas import Canvas
from coordinator.tui.model.text import Line, Lines, Run, wrap

CELLS = 70


class Confirm(ModalScreen[bool]):
    """What would be done, and whether to. Only `y` and a click on it say yes."""

    CSS = """
    Confirm { align: center middle; }
    #box { width: 76; max-width: 96%; max-height: 90%; height: auto; padding: 1 2; background: $panel;
           border: round $primary; }
    #told { height: auto; max-height: 24; }
    #answer { height: 1; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, title: str, told: Sequence[Line]) -> None:
        super().__init__()
        self._title, self._told = title, told

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        with Vertical(id="box"):
            yield Canvas(Lines([(Run(self._title, "title"),), (), *self._told]), id="told")
            answers: Line = (Run(" y ", "key"), Run("yes"), Run("    n ", "key"), Run("no"))
            yield Canvas(Lines([answers]), id="answer")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Be as high as what is told."""
        self.query_one("#told").styles.height = min(len(self._told) + 2, self.size.height - 8)

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)

    @on(Canvas.Pointed, "#answer")
    def _clicked(self, event: Canvas.Pointed) -> None:
        self.dismiss(event.x < len(" y yes"))


class Prompt(ModalScreen[str | None]):
    """A line to be typed. Enter takes it, Escape leaves things as they are."""

    CSS = """
    Prompt { align: center middle; }
    #box { width: 64; max-width: 96%; height: auto; padding: 1 2; background: $panel; border: round $primary; }
    #told { height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave as it is")]

    def __init__(self, title: str, value: str, example: str) -> None:
        super().__init__()
        self._title, self._value, self._example = title, value, example

    def compose(self) -> ComposeResult:
        """The title, what to write, and the line."""
        lines: list[Line] = [(Run(self._title, "title"),)]
        lines += [(Run(part, "dim"),) for part in wrap(self._example, 58)]
        with Vertical(id="box"):
            yield Canvas(Lines(lines), id="told")
            yield Input(value=self._value)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)
