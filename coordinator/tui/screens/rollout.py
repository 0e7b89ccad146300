"""Rollout: how far each device is; pause, go on, give up, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from coordinator.tui.canvas import Canvas, Table
from coordinator.tui.model import text as t
from coordinator.tui.model.journal import event_line
from coordinator.tui.model.rollout import rollout_lines
from coordinator.tui.model.text import Line, Lines, Run
from coordinator.tui.model.timeline import served
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command, MeshScreen
from coordinator.tui.screens.confirm import Confirm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.fleet.state import Rollout


class RolloutScreen(MeshScreen):
    """The newest rollout of the workflow, and its events below."""

    MODE = "rollout"
    CSS = """
    #devices { padding: 1 1 0 1; }
    #events { height: 30%; padding: 0 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "space",
            "hold",
            "Pause/continue",
            tooltip="pause the rollout before its next step; resume it",
        ),
        Binding("x", "cancel", "Abort", tooltip="undo an open rollout, after a question"),
        Binding("b", "roll_back", "Roll back", tooltip="roll back to the previous plan"),
    ]

    def body(self) -> ComposeResult:
        """Devices above, events below."""
        yield Table(id="devices")
        yield Canvas(id="events")

    def on_mount(self) -> None:
        """Scroll with the keys at once."""
        self.query_one("#devices").focus()

    def show(self, view: View) -> None:
        """Paint both."""
        cells = self.size.width - 3
        workflow = view.workflow
        lines = rollout_lines(view, workflow or "", cells)
        self.query_one("#devices", Table).show(Lines(lines))
        room = max(int(self.size.height * 0.3) - 1, 3)
        self.query_one("#events", Canvas).show(Lines(self._events(view, workflow, cells, room)))

    def _events(self, view: View, workflow: str | None, cells: int, room: int) -> list[Line]:
        rollout = view.fleet.rollouts.get(workflow or "")
        if rollout is None:
            return []
        mine = [
            e
            for e in view.journal
            if getattr(e.event, "workflow", "") == workflow
            and getattr(e.event, "generation", 0) == rollout.generation
        ]
        serves = served(view.journal)
        return [
            (Run("what happened", "head"),),
            *(event_line(view, e, cells, serves) for e in mine[-room:]),
        ]

    def _open(self) -> Rollout | None:
        view = self.view
        rollout = view.fleet.rollouts.get(view.workflow or "")
        return rollout if rollout is not None and rollout.outcome is None else None

    def document(self, view: View) -> Any:
        """The rollout."""
        rollout = view.fleet.rollouts.get(view.workflow or "")
        return msgspec.to_builtins(rollout, enc_hook=float) if rollout is not None else None

    def commands(self) -> Iterable[Command]:
        """What the keys do."""
        yield (
            "Pause or continue the rollout",
            "No device begins another step (space)",
            self.action_hold,
        )
        yield "Give the rollout up", "After a question (key x)", self.action_cancel
        yield "Roll back", "To the plan that ran before (key b)", self.action_roll_back

    def action_hold(self) -> None:
        """Pause the open rollout, or let it go on."""
        rollout, app = self._open(), self.mesh_app
        if rollout is None:
            app.tell("no rollout is in progress", severity="warning")
            return
        work = app.session.hold_rollout(rollout.workflow, hold=not rollout.held)
        app.work("pause the rollout", work, group="steer")

    def action_cancel(self) -> None:
        """Ask, then give the open rollout up."""
        rollout, app = self._open(), self.mesh_app
        if rollout is None:
            app.tell("no rollout is in progress", severity="warning")
            return
        told: list[Line] = [(Run("What ran before runs on; devices forget the new generation."),)]
        question = Confirm(f"Give generation {rollout.generation} up?", told)

        def answered(yes: bool | None) -> None:
            if yes:
                app.work("give up", app.session.cancel_rollout(rollout.workflow), group="steer")

        self.mesh_app.push_screen(question, answered)

    def action_roll_back(self) -> None:
        """Ask, then roll back to the previous plan."""
        view, app = self.view, self.mesh_app
        name = view.workflow
        way = view.fleet.way_back.get(name or "", [])
        if name is None or not way:
            app.tell("no other plan served this workflow before", severity="warning")
            return
        last = view.fleet.plans.get(way[-1].plan)
        cost = f", {t.usd(last.plan.cost.total_per_hour)} USD/h" if last is not None else ""
        told: list[Line] = [
            (Run(f"The plan of generation {way[-1].generation}{cost} is rolled out again,"),),
            (Run("as a new generation."),),
        ]

        def answered(yes: bool | None) -> None:
            if yes:
                app.work(f"roll back {name}", app.session.roll_back(name))

        self.mesh_app.push_screen(Confirm(f"Roll {t.safe(name)} back?", told), answered)
