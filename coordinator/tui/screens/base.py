"""What the screens share: the strip on top, the footer, and being painted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.events import Resize, ScreenResume
from textual.screen import Screen
from textual.widgets import Footer

from coordinator.tui.canvas import Canvas
from coordinator.tui.model.strip import strip, tab_at
from coordinator.tui.model.text import Lines
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.tui.app import TiermeshApp

Command = tuple[str, str, Callable[[], Any]]
"""A line of the command palette: its name, what it does, and the work."""


class MeshScreen(Screen[None]):
    """A screen of the app. Subclasses say what they are made of and paint it."""

    MODE: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = []

    def compose(self) -> ComposeResult:
        """The strip, the body and the footer."""
        yield Canvas(id="top")
        yield from self.body()
        yield Footer(show_command_palette=False)

    @abstractmethod
    def body(self) -> ComposeResult:
        """The widgets between strip and footer."""

    @abstractmethod
    def show(self, view: View) -> None:
        """Paint the body."""

    @abstractmethod
    def document(self, view: View) -> Any:
        """What is shown, for programs."""

    def commands(self) -> Iterable[Command]:
        """What can be done here, for the command palette."""
        return ()

    @property
    def mesh_app(self) -> TiermeshApp:
        """The app."""
        return cast("TiermeshApp", self.app)

    @property
    def view(self) -> View:
        """The state as it is now."""
        return self.mesh_app.view.at(self.mesh_app.session.now())

    def paint(self, view: View) -> None:
        """Paint everything that has changed."""
        if not self.size.width:
            return
        top = strip(view, self.MODE, self.size.width)
        self.query_one("#top", Canvas).show(Lines(top))
        self.show(view)

    def on_screen_resume(self, _event: ScreenResume) -> None:
        """Paint what has changed while another screen was shown."""
        self.call_after_refresh(self.repaint)

    def on_resize(self, _event: Resize) -> None:
        """Paint for the new size, once the widgets have theirs."""
        self.call_after_refresh(self.repaint)

    def repaint(self) -> None:
        """Paint at once, after a key or a resize."""
        if self.is_current or self.mesh_app.screen_stack:
            self.paint(self.view)

    @on(Canvas.Pointed, "#top")
    async def _tab_clicked(self, event: Canvas.Pointed) -> None:
        mode = tab_at(event.x) if event.y == 0 else None
        if mode is not None:
            await self.mesh_app.action_show_mode(mode)
