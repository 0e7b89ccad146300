"""The app: takes messages in, keeps the state, and has the visible screen painted, at most twice a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.timer import Timer
from textual.worker import Worker, WorkerError

from coordinator.tui import messages as m
from coordinator.tui.model.candidate import PlanAnswer
from coordinator.tui.model.text import safe
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import MeshScreen
from coordinator.tui.screens.events import EventsScreen
from coordinator.tui.screens.fleet import FleetScreen
from coordinator.tui.screens.help import HelpScreen
from coordinator.tui.screens.placement import PlacementScreen
from coordinator.tui.screens.plan import PlanScreen
from coordinator.tui.screens.profiles import ProfilesScreen
from coordinator.tui.screens.rollout import RolloutScreen
from coordinator.tui.session import MeshSession
from coordinator.tui.theme import DARK, LIGHT, THEMES

REPAINT_S: Final = 0.5
"""Between two paintings of what comes in; what a key does is painted at once."""
JOURNAL_ENTRIES: Final = 5_000
"""How many of the newest entries of the journal are kept to be shown."""


CLOSE_S: Final = 15.0
"""How long the end of what ends with the app is awaited."""


class TiermeshApp(App[None]):
    """The mesh, live."""

    TITLE = "Tiermesh"
    CSS = """
    Screen { layers: base overlay; }
    Canvas, Table { height: 1fr; }
    #top { height: 2; }
    #head { height: 1; }
    """
    MODES: ClassVar[dict[str, Any]] = {
        "fleet": FleetScreen,
        "placement": PlacementScreen,
        "plan": PlanScreen,
        "rollout": RolloutScreen,
        "profiles": ProfilesScreen,
        "events": EventsScreen,
    }
    DEFAULT_MODE = "placement"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(i), f"show_mode('{mode}')", mode.capitalize(), show=False)
            for i, mode in enumerate(MODES, 1)
        ),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("w", "next_workflow", "Workflow", show=False),
        Binding("t", "toggle_theme", "Light/dark", show=False),
        Binding("c", "copy_json", "Copy JSON", show=False),
        Binding("s", "save_svg", "Save SVG", show=False),
        Binding("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        session: MeshSession,
        *,
        light: bool = False,
        pictures: Path | None = None,
        repaint_s: float = REPAINT_S,
    ) -> None:
        super().__init__()
        self.session = session
        self.view = View(journal=deque(maxlen=JOURNAL_ENTRIES))
        self.candidate: PlanAnswer | None = None
        self.explained: m.Explained | None = None
        self.pictures = pictures or Path()
        self.repaint_s = repaint_s
        self.paintings = 0
        self.failure = ""
        self._due: Timer | None = None
        self._following: Worker[None] | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = LIGHT if light else DARK

    def on_mount(self) -> None:
        """Begin to follow the mesh."""
        self._following = self.run_worker(self.session.run(self.post_message), name="session")

    # --- painting ------------------------------------------------------------------------------------------------

    def dirty(self) -> None:
        """Something has changed: paint soon. Without a change, nothing is painted and no timer runs."""
        if self._due is None:
            self._due = self.set_timer(self.repaint_s, self.paint)

    def paint(self) -> None:
        """Paint the visible screen from the state, now."""
        if self._due is not None:
            self._due.stop()
            self._due = None
        screen = self._mesh_screen()
        if screen is not None and screen.is_mounted:
            self.paintings += 1
            screen.paint(self.view.at(self.session.now()))

    def _mesh_screen(self) -> MeshScreen | None:
        """The screen of the mode: it shows through beneath dialogs."""
        found = (s for s in reversed(self.screen_stack) if isinstance(s, MeshScreen))
        return next(found, None)

    # --- state: only these handlers change it --------------------------------------------------------------------

    def _become(self, **changes: Any) -> None:
        self.view = replace(self.view, **changes)
        self.dirty()

    @on(m.MeshOpened)
    def _opened(self, message: m.MeshOpened) -> None:
        self._become(title=message.title, tiers=message.tiers, refusal=message.refusal)

    @on(m.FleetChanged)
    def _fleet_changed(self, message: m.FleetChanged) -> None:
        self._become(fleet=message.fleet)

    @on(m.Journalled)
    def _journalled(self, message: m.Journalled) -> None:
        journal = self.view.journal
        assert isinstance(journal, deque)  # noqa: S101 - made in __init__
        journal.extend(message.entries)
        self.dirty()

    @on(m.SamplesArrived)
    def _sampled(self, message: m.SamplesArrived) -> None:
        for observed in message.observed:
            self.view.telemetry.observe(observed)
        self.dirty()

    @on(m.Progressed)
    def _progressed(self, message: m.Progressed) -> None:
        steps = {(step.device, step.subject): step for step in message.steps}
        self._become(progress={**self.view.progress, **steps})

    @on(m.WorkStarted)
    def _began(self, message: m.WorkStarted) -> None:
        self._become(doing=message.what, progress={})

    @on(m.WorkEnded)
    def _ended(self, message: m.WorkEnded) -> None:
        self._become(doing="")
        if message.error is not None:
            self.tell(str(message.error), severity="error", title=f"{message.what} failed")
        elif message.text:
            severity = "information" if message.good else "warning"
            self.tell(message.text, severity=severity, title=message.what)

    @on(m.ActionRefused)
    def _refused(self, message: m.ActionRefused) -> None:
        self.tell(str(message.error), severity="error", title=f"cannot {message.what}")

    @on(m.CandidateChanged)
    def _candidate_changed(self, message: m.CandidateChanged) -> None:
        newest = self.candidate
        if newest is None or message.candidate.number >= newest.number:
            self.candidate = message.candidate
        self.dirty()

    @on(m.Explained)
    def _was_explained(self, message: m.Explained) -> None:
        self.explained = message
        self.dirty()

    @on(m.Fatal)
    def _fatal(self, message: m.Fatal) -> None:
        self.failure = str(message.error)
        self.exit(return_code=message.error.exit_code)

    def tell(self, text: str, *, severity: Any = "information", title: str = "") -> None:
        """Say something in a corner; it is shown as it is, not as markup."""
        self.notify(safe(text, 600), severity=severity, title=safe(title), markup=False, timeout=8)

    async def action_quit(self) -> None:
        """Close the mesh, then the app: what ends with it, such as a demo, ends in order."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(TimeoutError, WorkerError):
                await asyncio.wait_for(self._following.wait(), CLOSE_S)
        self.exit()

    # --- actions -------------------------------------------------------------------------------------------------

    async def action_show_mode(self, mode: str) -> None:
        """Show one of the six screens."""
        while len(self.screen_stack) > 1:
            await self.pop_screen()
        await self.switch_mode(mode)
        self.paint()

    def action_help(self) -> None:
        """Show what the keys do."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self._mesh_screen()))

    def action_next_workflow(self) -> None:
        """Show the next workflow that runs."""
        names = sorted(self.view.fleet.running)
        if names:
            shown = self.view.workflow
            at = names.index(shown) if shown in names else -1
            self._become(wanted=names[(at + 1) % len(names)])
            self.paint()

    def action_toggle_theme(self) -> None:
        """Go from dark to light, or back."""
        self.theme = LIGHT if self.theme == DARK else DARK

    def action_copy_json(self) -> None:
        """Copy what the screen shows, as JSON."""
        screen = self._mesh_screen()
        if screen is None:
            return
        import msgspec

        plain = screen.document(self.view.at(self.session.now()))
        text = msgspec.json.format(msgspec.json.encode(plain, enc_hook=str), indent=2).decode()
        self.copy_to_clipboard(text)
        self.tell(f"{len(text)} characters of JSON are in the clipboard", title="copied")

    def action_save_svg(self) -> None:
        """Save a picture of the screen."""
        path = self.pictures / f"tiermesh-{self.current_mode}.svg"
        try:
            path.write_text(self.picture(), encoding="utf-8")
        except OSError as error:
            self.tell(f"cannot write {path}: {error.strerror}", severity="error")
            return
        self.tell(str(path), title="picture saved")

    def picture(self) -> str:
        """The screen as SVG."""
        svg = self.export_screenshot(title=f"coordinator · {self.current_mode}")
        # Without it some viewers drop the blanks at the beginning of a run.
        return svg.replace("<svg ", '<svg xml:space="preserve" ', 1)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the command palette offers: the screens, what each can do, and what holds everywhere."""
        for number, mode in enumerate(self.MODES, 1):
            yield SystemCommand(
                mode.capitalize(), f"Show this screen (key {number})", self._to_mode(mode)
            )
        below = self._mesh_screen()
        for name, help_, work in below.commands() if below is not None else ():
            yield SystemCommand(name, help_, work)
        yield SystemCommand("Light or dark", "Change the theme (key t)", self.action_toggle_theme)
        yield SystemCommand("Copy as JSON", "What the screen shows (key c)", self.action_copy_json)
        yield SystemCommand("Save a picture", "The screen as SVG (key s)", self.action_save_svg)
        yield SystemCommand("Keys", "What the keys do (key ?)", self.action_help)
        yield SystemCommand("Quit", "Devices keep serving (key q)", self.action_quit)

    def _to_mode(self, mode: str) -> Callable[[], Any]:
        return lambda: self.call_later(self.action_show_mode, mode)

    # --- work ----------------------------------------------------------------------------------------------------

    def work(self, what: str, coroutine: Any, *, group: str = "work") -> None:
        """Have the session do something; newer work of a group takes the older one's place.

        Refused, with the reason, where this app cannot change the mesh.
        """
        if self.view.refusal and group == "work":
            coroutine.close()
            self.tell(self.view.refusal, severity="warning", title=f"cannot {what}")
            return
        if self.view.doing and group == "work":
            coroutine.close()
            self.tell(f"{self.view.doing} first", severity="warning", title=f"cannot {what} now")
            return
        self.run_worker(coroutine, group=group, exclusive=group != "work", exit_on_error=True)
