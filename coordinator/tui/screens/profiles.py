"""Profiles: what each variant takes on each device, what was not measured, and what cannot run and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from coordinator.tui.canvas import Canvas, Table
from coordinator.tui.model.profiles import CELL_CELLS, NAME_CELLS, HeatMap, cell_lines
from coordinator.tui.model.text import Line, Lines, Run
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command
from coordinator.tui.screens.confirm import Confirm
from coordinator.tui.screens.pane import PANE_CSS, PaneScreen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.fleet.state import Device
    from coordinator.tui.model.profiles import ProfileRung

SIDE_FROM: Final = 110
SIDE_CELLS: Final = 50


class ProfilesScreen(PaneScreen):
    """The heat map with a cursor on one of its cells, and that cell in full."""

    MODE = "profiles"
    LIST = "#map"
    CSS = "#side { width: 52; padding: 1 1; } #map { padding: 0; }" + PANE_CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "step(-1)", "Device", key_display="←→", tooltip="choose a device"),
        Binding("right,l", "step(1)", "Right", show=False, tooltip="the next device"),
        Binding("enter,d", "detail", "Detail", key_display="⏎"),
        Binding("r", "profile", "Measure again", tooltip="measure the variant on the device"),
        Binding("escape", "back", "Back", show=False, tooltip="close the detail"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.column = 0
        self.map: HeatMap | None = None

    def body(self) -> ComposeResult:
        """Map and pane."""
        with Horizontal():
            with Vertical(id="left"):
                yield Canvas(id="head")
                yield Table(id="map")
            yield Canvas(id="side")

    def on_mount(self) -> None:
        """Move in the map at once."""
        table = self.query_one("#map", Table)
        table.focus()
        table.marked = 1

    def show(self, view: View) -> None:
        """Paint the map and the cell under the cursor."""
        wide = self.size.width >= SIDE_FROM
        side = self.place_pane(beside=wide, wide=wide)
        cells = self.size.width - (SIDE_CELLS + 2 if wide else 0) - 1
        room = max((cells - NAME_CELLS) // CELL_CELLS, 1)
        heat = self.map = HeatMap(view, cells, max(self.column - room + 1, 0))
        self.column = max(min(self.column, len(heat.devices) - 1), 0)
        self.query_one("#head", Canvas).show(Lines([heat.head(self.column)]))
        table = self.query_one("#map", Table)
        table.show(heat)
        if wide or self.opened:
            side.show(Lines(self._cell(view, heat, table.marked or 0)))

    def _cell(self, view: View, heat: HeatMap, row: int) -> list[Line]:
        found = heat.at(row, self.column)
        if found is None:
            return [(Run("choose a variant", "dim"),)]
        return cell_lines(view, *found, SIDE_CELLS - 2)

    def document(self, view: View) -> Any:
        """The profile under the cursor."""
        found = self._found()
        profile = view.fleet.profile(found[1], found[0].digest) if found is not None else None
        return msgspec.to_builtins(profile, enc_hook=float) if profile is not None else None

    def commands(self) -> Iterable[Command]:
        """What the keys do."""
        yield (
            "Measure again",
            "The variant under the cursor on its device (key r)",
            self.action_profile,
        )

    def _found(self) -> tuple[ProfileRung, Device] | None:
        """The variant and the device under the cursor."""
        table = self.query_one("#map", Table)
        return self.map.at(table.marked or 0, self.column) if self.map is not None else None

    @on(Table.Moved, "#map")
    def _moved(self) -> None:
        self.repaint()

    @on(Table.Chosen, "#map")
    def _chosen(self) -> None:
        self.action_detail()

    def action_step(self, by: int) -> None:
        """Choose another device."""
        self.column = max(self.column + by, 0)
        self.repaint()

    def action_detail(self) -> None:
        """Open or close the pane."""
        self.opened = not self.opened
        self.repaint()

    def action_back(self) -> None:
        """Close the pane."""
        self.opened = False
        self.repaint()

    def action_profile(self) -> None:
        """Ask, then measure the variant again."""
        found = self._found()
        if found is None:
            return
        rung, device = found
        told: list[Line] = [
            (Run("What was measured is dropped. The device serves more slowly"),),
            (Run("while it measures."),),
        ]
        app = self.mesh_app

        def answered(yes: bool | None) -> None:
            if yes:
                app.work("profile", app.session.profile(device.id, rung.digest))

        question = Confirm(f"Measure {rung.model}/{rung.variant} on {device.name} again?", told)
        self.mesh_app.push_screen(question, answered)
