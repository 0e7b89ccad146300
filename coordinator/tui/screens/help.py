"""What the keys do, here and everywhere, and what the signs mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer

from coordinator.tui.canvas import Table
from coordinator.tui.model.fleet import STATES
from coordinator.tui.model.text import Line, Lines, Run

if TYPE_CHECKING:
    from coordinator.tui.screens.base import MeshScreen

EVERYWHERE: Final = (
    ("1 … 6", "the screens"),
    ("w", "the next workflow that runs"),
    ("ctrl+p", "command palette: everything that can be done here"),
    ("t", "light or dark"),
    ("c", "copy this screen as JSON"),
    ("s", "save a picture of the screen, as SVG"),
    ("?", "this help"),
    ("q", "quit; devices keep serving"),
)
SIGNS: Final = (
    ("┃ in a bar", "what the plan assumes, or the SLO"),
    ("▼62%", "the share of all requests on this route"),
    ("╎ ╌", "a route whose device has failed"),
    ("÷6", "emulated: this many times slower than this machine"),
)


class HelpScreen(ModalScreen[None]):
    """Closes with Escape, `?` or `q`."""

    CSS = """
    HelpScreen { align: center middle; }
    #box { width: 76; max-width: 96%; height: auto; max-height: 94%; padding: 1 2; background: $panel;
           border: round $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", key_display="esc")
    ]

    def __init__(self, below: MeshScreen | None) -> None:
        super().__init__()
        self._lines = _lines(below)

    def compose(self) -> ComposeResult:
        """The lines; they scroll where the terminal is low."""
        with Vertical(id="box"):
            yield Table(Lines(self._lines), id="keys")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Be as high as there are lines, if they fit."""
        table = self.query_one(Table)
        table.styles.height = min(len(self._lines), max(self.size.height - 7, 4))
        table.focus()


def _lines(below: MeshScreen | None) -> list[Line]:
    here = _bindings(below) if below is not None else []
    lines: list[Line] = []
    if below is not None and here:
        lines += [(Run(below.MODE.capitalize(), "title"),), *map(_key, here), ()]
    lines += [(Run("Everywhere", "title"),), *map(_key, EVERYWHERE), ()]
    lines += [(Run("Signs", "title"),)]
    return [*lines, *_states(), *map(_key, SIGNS)]


def _states() -> list[Line]:
    """The sign of each state, so many to a line as the box is wide enough for."""
    said = [f"{sign} {state}".ljust(16) for state, (sign, _) in STATES.items()]
    return [(Run("  " + "".join(said[i : i + 4]).rstrip()),) for i in range(0, len(said), 4)]


def _bindings(below: MeshScreen) -> list[tuple[str, str]]:
    found = (b for b in below.BINDINGS if isinstance(b, Binding))
    return [(b.key_display or b.key.replace(",", " "), b.tooltip or b.description) for b in found]


def _key(said: tuple[str, str]) -> Line:
    key, what = said
    return (Run(f"  {key:<14}", "key"), Run(what))
