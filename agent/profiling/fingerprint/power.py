"""Mains or battery, how full that is, and which temperatures can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Final, Literal, NamedTuple

from agent.host_facts import HostBattery, HostFacts
from agent.profiling.fingerprint import reading


class BatteryReading(NamedTuple):
    """How full it is, 0 to 100, and what becomes of that."""

    level_percent: float
    state: Literal["charging", "discharging", "resting", "unspecified"]


def supply(sys: Path, facts: HostFacts) -> Literal["mains", "battery", "unknown"]:
    """What feeds the device now; unknown where the system shows no supply at all.

    Linux lists each supply, also the battery of a mouse; psutil, which tells of one battery, is asked elsewhere.
    """
    if not _lists_supplies(sys):
        return _supply_of(facts.battery())
    batteries: list[str] = []
    online = False
    for folder in _supplies(sys):
        if reading.text(folder / "type") == "Battery":
            batteries.append(reading.text(folder / "status"))
        else:
            online |= reading.number(folder / "online") == 1
    if online or (batteries and "Discharging" not in batteries):
        return "mains"
    return "battery" if batteries else "unknown"


def _supply_of(battery: HostBattery | None) -> Literal["mains", "battery", "unknown"]:
    if battery is None or battery.is_plugged is None:
        return "unknown"
    return "mains" if battery.is_plugged else "battery"


def battery(sys: Path, facts: HostFacts) -> BatteryReading | None:
    """The level of the batteries that can feed the device, in the mean; None where there are none, or none tells."""
    if not _lists_supplies(sys):
        return _battery_of(facts.battery())
    levels: list[int] = []
    states: set[str] = set()
    for folder in _supplies(sys):
        level = reading.number(folder / "capacity")
        if reading.text(folder / "type") == "Battery" and level is not None:
            levels.append(min(max(level, 0), 100))
            states.add(reading.text(folder / "status"))
    if not levels:
        return None
    for status, state in _STATES.items():
        if status in states:
            return BatteryReading(mean(levels), state)
    return BatteryReading(mean(levels), "unspecified")


def _battery_of(found: HostBattery | None) -> BatteryReading | None:
    if found is None:
        return None
    # Whether it is charging or full is not told.
    return BatteryReading(
        found.level_percent, "discharging" if found.is_plugged is False else "unspecified"
    )


def _lists_supplies(sys: Path) -> bool:
    return (sys / "class").is_dir()


_STATES: Final[dict[str, Literal["charging", "discharging", "resting"]]] = {
    "Discharging": "discharging",
    "Charging": "charging",
    "Not charging": "resting",
    "Full": "resting",
}
"""What the kernel says of a battery; of several, the first that is said of any."""


def _supplies(sys: Path) -> Iterator[Path]:
    """What may feed the device: not the battery of a mouse or a headset."""
    for folder in reading.entries(sys / "class/power_supply"):
        if reading.text(folder / "scope") != "Device":
            yield folder


def temperature_sensors(sys: Path) -> list[str]:
    """The names of thermal zones and hardware monitors that give a temperature."""
    zones = [
        reading.text(zone / "type") or zone.name
        for zone in reading.entries(sys / "class/thermal", "thermal_zone*")
        if reading.number(zone / "temp") is not None
    ]
    monitors = [
        reading.text(monitor / "name") or monitor.name
        for monitor in reading.entries(sys / "class/hwmon")
        if reading.entries(monitor, "temp*_input")
    ]
    return sorted({*zones, *monitors})
