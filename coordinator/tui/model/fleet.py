"""The fleet as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Device
from coordinator.sessions.link_quality import Grade
from coordinator.telemetry.recent import DeviceTelemetry
from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

STATES: Final[dict[DeviceState, tuple[str, str]]] = {
    DeviceState.READY: ("●", "good"),
    DeviceState.ENROLLED: ("○", "note"),
    DeviceState.DISCOVERED: ("○", "note"),
    DeviceState.SUSPECT: ("◐", "warn"),
    DeviceState.DRAINING: ("◒", "warn"),
    DeviceState.FAILED: ("✗", "bad"),
    DeviceState.LEFT: ("◌", "dim"),
}
"""A sign and a role for each state: the sign says it without colour."""

HOT_CELSIUS: Final = 80.0
LOW_PERCENT: Final = 20.0
BUSY: Final = 0.9


class Sort(StrEnum):
    """What the table is in order of."""

    TIER = "tier"
    NAME = "name"
    STATE = "state"
    LOAD = "load"
    MEMORY = "memory"
    PRICE = "price"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column: its title, its cells, the width of terminal from which it is shown, and what it shows."""

    title: str
    cells: int
    from_width: int
    show: Callable[[View, Device, DeviceTelemetry], Run]
    align: t.Align = "<"
    optional: bool = False

    def fits(self, view: View, width: int, devices: Sequence[Device]) -> bool:
        """Whether there is room for it; one that no device has anything to say in is left out, if it may be."""
        if width < self.from_width:
            return False
        if not self.optional:
            return True
        shown = (self.show(view, d, view.telemetry.of(d.id)) for d in devices)
        return any(run.text != t.UNKNOWN for run in shown)


def _name(_view: View, device: Device, _heard: DeviceTelemetry) -> Run:
    return Run(t.safe(device.name), "name")


def _state(_view: View, device: Device, _heard: DeviceTelemetry) -> Run:
    sign, role = STATES[device.state]
    return Run(f"{sign} {device.state}", role)


def _machine(_view: View, device: Device, _heard: DeviceTelemetry) -> Run:
    print_ = device.description.fingerprint
    slow = f" ÷{print_.emulated.slowdown:g} emulated" if print_.emulated else ""
    return Run(t.safe(f"{print_.threads} × {print_.cpu.architecture}{slow}"), "dim")


def _price(_view: View, device: Device, _heard: DeviceTelemetry) -> Run:
    return Run(t.usd(device.description.price_per_hour))


def _load(_view: View, _device: Device, heard: DeviceTelemetry) -> Run:
    if not heard.load:
        return Run(t.UNKNOWN, "dim")
    now = heard.load[-1]
    role = "dim" if heard.why_silent else "warn" if now >= BUSY else "data"
    return Run(f"{t.spark(list(heard.load), 8)}{now:>5.0%}", role)


def _memory(_view: View, device: Device, heard: DeviceTelemetry) -> Run:
    total = device.description.fingerprint.memory_bytes
    sample = heard.newest
    if sample is None or total <= 0:
        return Run(t.size(total), "dim")
    share = sample.memory_used_bytes / total
    return Run(
        f"{t.bar(share, 5)} {t.size(sample.memory_used_bytes)}", "warn" if share > BUSY else ""
    )


def _temperature(_view: View, _device: Device, heard: DeviceTelemetry) -> Run:
    sample = heard.newest
    if sample is None or not sample.temperature_celsius:
        return Run(t.UNKNOWN, "dim")
    celsius = sample.temperature_celsius
    return Run(f"{celsius:.0f} °C", "warn" if celsius >= HOT_CELSIUS else "")


def _power(_view: View, device: Device, heard: DeviceTelemetry) -> Run:
    """The level of its battery, and which way it goes; of a device without one, what feeds it, where that is known."""
    battery = heard.battery
    if battery is None:
        power = device.description.fingerprint.power
        return Run(t.UNKNOWN if power == "unknown" else power, "" if power == "battery" else "dim")
    low = battery.state == "discharging" and battery.level_percent <= LOW_PERCENT
    return Run(f"{battery.level_percent:3.0f} % {_WAYS.get(battery.state, '')}", "warn" * low)


_WAYS: Final = {"charging": "▲", "discharging": "▼", "resting": "="}


def _link(_view: View, _device: Device, heard: DeviceTelemetry) -> Run:
    if heard.why_silent:
        return Run("✗ silent", "bad")
    if heard.link is None:
        return Run(t.UNKNOWN, "dim")
    trip, grade = t.milliseconds(heard.link.rtt_ms), heard.link.grade
    return Run(f"{trip:>7} {grade}", _GRADES[grade])


_GRADES: Final = {Grade.GOOD: "good", Grade.FAIR: "", Grade.POOR: "warn"}


def _serves(view: View, device: Device, heard: DeviceTelemetry) -> Run:
    if device.why or heard.why_silent:
        return Run(t.safe(device.why or heard.why_silent), STATES[device.state][1] or "warn")
    sample = heard.newest
    generations = dict(sample.generations if sample else device.description.generations)
    stages = [r.replica.partition("@")[0] for r in sample.figures.replicas] if sample else []
    shown = ", ".join(dict.fromkeys(stages)) or ", ".join(
        f"{w} g{g}" for w, g in sorted(generations.items()) if g
    )
    return Run(t.safe(shown) or "idle", "" if shown else "dim")


COLUMNS: Final = (
    TableColumn("device", 16, 0, _name),
    TableColumn("state", 12, 0, _state),
    TableColumn("load", 13, 0, _load),
    TableColumn("memory", 13, 92, _memory),
    TableColumn("USD/h", 7, 0, _price, ">"),
    TableColumn("link", 13, 78, _link),
    TableColumn("temp", 7, 104, _temperature, ">", optional=True),
    TableColumn("power", 8, 112, _power, optional=True),
    TableColumn("machine", 26, 150, _machine),
    TableColumn("serves, or why not", 20, 60, _serves),
)


class FleetTable:
    """The devices that a filter lets through, grouped by tier when sorted by it. A row is made when it is shown."""

    def __init__(self, view: View, width: int, *, wanted: str = "", sort: Sort = Sort.TIER) -> None:
        self.view, self.width = view, width
        found = [d for d in view.ordered() if d.state is not DeviceState.LEFT]
        self.columns = [c for c in COLUMNS if c.fits(view, width, found)]
        self.total = len(found)
        shown = [d for d in found if _matches(d, wanted.casefold().split())]
        self.rows: list[Device | str] = list(_sorted(view, shown, sort))
        if sort is Sort.TIER:
            self.rows = list(_grouped(shown))

    @property
    def height(self) -> int:
        """One line per row."""
        return max(len(self.rows), 1)

    def head(self) -> Line:
        """The titles of the columns."""
        return tuple(
            Run(t.fit(c.title, self._cells(c), c.align) + "  ", "head") for c in self.columns
        )

    def line(self, y: int) -> Line:
        """A device, or the name of the tier that follows."""
        if not self.rows:
            why = "no device matches" if self.total else "no devices yet"
            return (Run(f" {why}", "dim"),)
        row = self.rows[y]
        if isinstance(row, str):
            return (Run(f"{row} ".ljust(self.width, "─"), "tier"),)
        heard = self.view.telemetry.of(row.id)
        runs: list[Run] = []
        for column in self.columns:
            shown, role = column.show(self.view, row, heard)
            runs.append(Run(t.fit(shown, self._cells(column), column.align) + "  ", role))
        return tuple(runs)

    def is_heading(self, y: int) -> bool:
        """Whether a line names a tier."""
        return bool(self.rows) and isinstance(self.rows[y], str)

    def device(self, y: int) -> Device | None:
        """The device of a row; None for a tier's line."""
        row = self.rows[y] if 0 <= y < len(self.rows) else None
        return row if isinstance(row, Device) else None

    def row_of(self, device: str | None) -> int | None:
        """The row of a device id."""
        return next(
            (i for i, r in enumerate(self.rows) if isinstance(r, Device) and r.id == device), None
        )

    def _cells(self, column: TableColumn) -> int:
        """The last column takes what is left."""
        if column is not self.columns[-1]:
            return column.cells
        taken = sum(c.cells + 2 for c in self.columns[:-1])
        return max(self.width - taken - 2, 4)


def _grouped(devices: Sequence[Device]) -> list[Device | str]:
    rows: list[Device | str] = []
    counts: dict[str, list[Device]] = {}
    for device in devices:
        counts.setdefault(device.description.tier, []).append(device)
    for tier, of in counts.items():
        ready = sum(d.state is DeviceState.READY for d in of)
        rows += [f"{t.safe(tier)} · {ready}/{len(of)} ready", *of]
    return rows


def _sorted(view: View, devices: list[Device], sort: Sort) -> list[Device]:
    def load(device: Device) -> float:
        heard = view.telemetry.of(device.id)
        return -heard.load[-1] if heard.load else 1.0

    def memory(device: Device) -> float:
        sample = view.telemetry.of(device.id).newest
        return -(sample.memory_used_bytes if sample else 0)

    keys: dict[Sort, Callable[[Device], Any]] = {
        Sort.NAME: lambda d: d.name,
        Sort.STATE: lambda d: (d.state is DeviceState.READY, d.state.value, d.name),
        Sort.LOAD: load,
        Sort.MEMORY: memory,
        Sort.PRICE: lambda d: -d.description.price_per_hour,
    }
    return sorted(devices, key=keys[sort]) if sort in keys else devices


def _matches(device: Device, words: list[str]) -> bool:
    """Whether every word is in the device's name, tier, state, address or processor."""
    said = device.description
    text = f"{device.name} {said.tier} {device.state} {device.address} {said.fingerprint.cpu.model} {device.why}"
    folded = text.casefold()
    return all(word in folded for word in words)
