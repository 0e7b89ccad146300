"""The one widget that paints: lines of the model, of which only those that are visible and changed are drawn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from coordinator.tui.model.text import Line, Lines, Painting
from coordinator.tui.theme import looks

if TYPE_CHECKING:
    from textual.app import App
    from textual.widget import Widget


def _app_of(widget: Widget) -> App[object]:
    return cast("App[object]", widget.app)


class Canvas(ScrollView, can_focus=False):
    """Shows a painting. It scrolls where the painting is larger."""

    DEFAULT_CSS = """
    Canvas { background: transparent; scrollbar-size: 1 1; scrollbar-size-horizontal: 1; }
    """

    @dataclass
    class Pointed(Message):
        """Somebody clicked on a cell of the painting."""

        canvas: Canvas
        x: int
        y: int
        twice: bool

        @property
        def control(self) -> Canvas:
            """The canvas."""
            return self.canvas

    def __init__(self, painting: Painting | None = None, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.painting: Painting = painting or Lines([])
        self._drawn: dict[int, tuple[Line, bool]] = {}
        self.marked: int | None = None

    def show(self, painting: Painting) -> None:
        """Show another painting; lines that look as they did are not drawn again."""
        self.painting = painting
        size = Size(painting.width, painting.height)
        if size != self.virtual_size:
            self.virtual_size = size
            self.refresh()
            return
        self._refresh_changed()

    def mark(self, y: int | None) -> None:
        """Set the line of the cursor."""
        self.marked = y
        self._refresh_changed()

    def on_mount(self) -> None:
        """Take the size of what is shown first, and follow the theme."""
        self.virtual_size = Size(self.painting.width, self.painting.height)
        _app_of(self).theme_changed_signal.subscribe(self, self._repaint)

    def _repaint(self, _theme: object) -> None:
        self.refresh()

    def _refresh_changed(self) -> None:
        top = int(self.scroll_y)
        width, height = self.scrollable_content_region.size
        for y in range(top, min(top + height, self.painting.height)):
            if self._drawn.get(y) != (self.painting.line(y), y == self.marked):
                self.refresh(Region(0, y - top, width, 1))
        self._drawn = {y: d for y, d in self._drawn.items() if top <= y < top + height}

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        left, top = self.scroll_offset
        at, width = y + top, self.size.width
        base = self.rich_style
        if at >= self.painting.height:
            return Strip.blank(width, base)
        line = self.painting.line(at)
        marked = at == self.marked
        self._drawn[at] = (line, marked)
        found = looks(dark=_app_of(self).current_theme.dark)
        under = base + found.style("cursor") if marked else base
        # A style's own background wins, but for the cursor's, which goes over all of the line.
        over = found.style("cursor") if marked else found.style("")
        strip = Strip([Segment(run.text, under + found.style(run.role) + over) for run in line])
        return strip.crop_extend(left, left + width, under)

    def on_click(self, event: Click) -> None:
        """Pass on which cell was meant."""
        self.post_message(
            self.Pointed(
                self,
                event.x + int(self.scroll_x),
                event.y + int(self.scroll_y),
                twice=event.chain > 1,
            )
        )


class Table(Canvas, can_focus=True):
    """A canvas with a cursor that goes from line to line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "end(0)", "First", show=False),
        Binding("end,G", "end(1)", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another line."""

        table: Table
        y: int

        @property
        def control(self) -> Table:
            """The table."""
            return self.table

    @dataclass
    class Chosen(Message):
        """The line of the cursor was chosen."""

        table: Table
        y: int

        @property
        def control(self) -> Table:
            """The table."""
            return self.table

    def on_resize(self) -> None:
        """Keep the line of the cursor in sight."""
        if self.marked is not None:
            self.call_after_refresh(self._reveal, self.marked)

    def place(self, y: int) -> None:
        """Put the cursor on a line, as near as there is one that is no heading, and show it."""
        y = self._nearest(max(min(y, self.painting.height - 1), 0), y < (self.marked or 0))
        if y != self.marked:
            self.mark(y)
            self.post_message(self.Moved(self, y))
        self._reveal(y)

    def _nearest(self, y: int, upwards: bool) -> int:
        """The next line that is no heading, upwards or downwards; the last such line the other way at an end."""
        is_heading = getattr(self.painting, "is_heading", None)
        if is_heading is None:
            return y
        below, above = range(y, self.painting.height), range(y, -1, -1)
        ways = (above, below) if upwards else (below, above)
        return next((at for way in ways for at in way if not is_heading(at)), y)

    def _reveal(self, y: int) -> None:
        height = self.scrollable_content_region.height
        top = int(self.scroll_y)
        # By force, since the scroll bar of lines that have just come is there only after the next layout.
        if y < top:
            self.scroll_to(y=y, animate=False, force=True)
        elif height and y >= top + height:
            self.scroll_to(y=y - height + 1, animate=False, force=True)

    def action_move(self, by: int) -> None:
        """Move the cursor by lines."""
        self.place((self.marked or 0) + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by screens."""
        self.place((self.marked or 0) + by * max(self.size.height - 1, 1))

    def action_end(self, last: int) -> None:
        """Move the cursor to the first or the last line."""
        self.place(self.painting.height - 1 if last else 0)

    def action_choose(self) -> None:
        """Choose the line of the cursor."""
        if self.marked is not None:
            self.post_message(self.Chosen(self, self.marked))

    def on_click(self, event: Click) -> None:
        """Put the cursor where it was clicked; choose on a second click."""
        self.place(event.y + int(self.scroll_y))
        if event.chain > 1:
            self.action_choose()
