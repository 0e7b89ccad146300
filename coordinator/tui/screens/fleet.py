"""Fleet: the devices by tier, one of them in full, and why others cannot be reached."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.canvas import Canvas, Table
from coordinator.tui.model.device import detail, unreached
from coordinator.tui.model.fleet import FleetTable, Sort
from coordinator.tui.model.text import Line, Lines, Run, clip
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command
from coordinator.tui.screens.confirm import Confirm
from coordinator.tui.screens.pane import PANE_CSS, FilteredScreen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.fleet.state import Device

SIDE_FROM: Final = 110
"""Width of terminal from which the pane of the device stands beside the table; below it, it is opened over it."""
SIDE_CELLS: Final = 46
ROOMY: Final = 150
"""Width from which it does so unasked: below it, the columns of the table come first."""


class FleetScreen(FilteredScreen):
    """The table, the filter, and the pane of the device under the cursor."""

    MODE = "fleet"
    LIST = "#devices"
    CSS = (
        "#side { width: 48; padding: 0 1; }"
        + PANE_CSS
        + """
    #unreached { height: auto; max-height: 8; background: $surface; display: none; }
    #unreached.some { display: block; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("o", "sort", "Sort", tooltip="sort by tier, name, state, load, memory, price"),
        Binding("enter,d", "detail", "Detail", key_display="⏎"),
        Binding("x", "drain", "Drain", tooltip="want no work on the device; again: want it again"),
        Binding("escape", "back", "Back", show=False, tooltip="close the filter or the detail"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sort = Sort.TIER
        self.chosen: str | None = None
        self.beside: bool | None = None
        self.table: FleetTable | None = None

    def body(self) -> ComposeResult:
        """Table and pane side by side."""
        with Horizontal():
            with Vertical(id="left"):
                yield Input(placeholder="words in name, tier, state, address", id="filter")
                yield Canvas(id="head")
                yield Table(id="devices")
                yield Canvas(id="unreached")
            yield Canvas(id="side")

    def show(self, view: View) -> None:
        """Paint the table, and the pane where there is room for it."""
        wide = self.size.width >= SIDE_FROM
        beside = wide and self._wants_pane()
        side = self.place_pane(beside=beside, wide=wide)
        cells = self.size.width - (SIDE_CELLS + 2 if beside else 0) - 1
        table = self.table = FleetTable(view, cells, wanted=self.wanted, sort=self.sort)
        self.query_one("#head", Canvas).show(Lines([self._head(table)]))
        devices = self.query_one("#devices", Table)
        devices.show(table)
        self._follow(devices, table)
        self._show_unreached(view, cells)
        if beside or (self.opened and not wide):
            side.show(Lines(self._detail(view, SIDE_CELLS - 2 if wide else self.size.width - 4)))

    def _wants_pane(self) -> bool:
        return self.size.width >= ROOMY if self.beside is None else self.beside

    def _head(self, table: FleetTable) -> Line:
        shown = sum(not isinstance(row, str) for row in table.rows)
        count = f"{shown} of {table.total}" if self.wanted else f"{table.total}"
        note = f"{count} · by {self.sort}" + (f" · /{self.wanted}" if self.wanted else "")
        *titles, last = table.head()
        room = len(last.text) - len(note) - 2
        title = last.text[:room] if room >= len(last.text.rstrip()) else " " * room
        return clip((*titles, Run(f"{title}{note}", "head")), table.width)

    def _follow(self, devices: Table, table: FleetTable) -> None:
        """Keep the cursor on its device while rows move."""
        row = table.row_of(self.chosen)
        if row is None:
            row = next((i for i, r in enumerate(table.rows) if not isinstance(r, str)), None)
            device = table.device(row) if row is not None else None
            self.chosen = device.id if device is not None else None
        if row is not None and devices.marked != row:
            devices.mark(row)

    def _show_unreached(self, view: View, cells: int) -> None:
        lines = unreached(view, cells)
        canvas = self.query_one("#unreached", Canvas)
        canvas.set_class(bool(lines), "some")
        canvas.styles.height = min(len(lines), 8)
        canvas.show(Lines(lines))

    def _detail(self, view: View, cells: int) -> list[Line]:
        device = view.fleet.devices.get(self.chosen or "")
        if device is None:
            return [(Run("no device", "dim"),)]
        return [(), *detail(view, device, cells)]

    def document(self, view: View) -> Any:
        """The device under the cursor, and its newest sample."""
        device = view.fleet.devices.get(self.chosen or "")
        return None if device is None else msgspec.to_builtins(device, enc_hook=float)

    def commands(self) -> Iterable[Command]:
        """Each order, and what can be done with the device."""
        yield "Filter devices", "By words in name, tier, state, address (key /)", self.action_filter
        for sort in Sort:
            yield f"Sort by {sort}", "The table of devices", partial(self._sort_by, sort)
        yield "Drain the device", "Want no work there (key x)", self.action_drain

    # --- keys ----------------------------------------------------------------------------------------------------

    @on(Table.Moved, "#devices")
    def _moved(self, event: Table.Moved) -> None:
        device = self.table.device(event.y) if self.table is not None else None
        if device is not None:
            self.chosen = device.id
        self.repaint()

    @on(Table.Chosen, "#devices")
    def _chosen(self) -> None:
        self.action_detail()

    def action_sort(self) -> None:
        """Sort by the next column."""
        orders = list(Sort)
        self._sort_by(orders[(orders.index(self.sort) + 1) % len(orders)])

    def _sort_by(self, sort: Sort) -> None:
        self.sort = sort
        self.repaint()

    def action_detail(self) -> None:
        """Open or close the pane. Without it, a wide table has more columns."""
        if self.size.width >= SIDE_FROM:
            self.beside = not self._wants_pane()
        else:
            self.opened = not self.opened
        self.repaint()

    def action_drain(self) -> None:
        """Ask, then drain the device or take that back."""
        device = self.view.fleet.devices.get(self.chosen or "")
        if device is None:
            return
        undo = device.state is DeviceState.DRAINING
        told: list[Line] = [
            (
                Run(
                    "It may be planned for again."
                    if undo
                    else "It is left out of plans from now on,"
                ),
            )
        ]
        if not undo:
            told.append((Run("and what it serves goes to other devices first."),))
        what = "Take back the draining of" if undo else "Drain"
        self.mesh_app.push_screen(
            Confirm(f"{what} {device.name}?", told), lambda yes: self._drain(device, yes, undo=undo)
        )

    def _drain(self, device: Device, yes: bool | None, *, undo: bool) -> None:
        if yes:
            app = self.mesh_app
            app.work(f"drain {device.name}", app.session.drain(device.id, undo=undo))
