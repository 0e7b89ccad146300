"""Mains or battery, and which temperatures can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from agent.profiling.fingerprint import reading


def supply(sys: Path) -> Literal["mains", "battery", "unknown"]:
    """What feeds the device now; unknown where the kernel shows no supply at all."""
    batteries: list[str] = []
    online = False
    for folder in reading.entries(sys / "class/power_supply"):
        if reading.text(folder / "scope") == "Device":
            continue  # the battery of a mouse or a headset
        if reading.text(folder / "type") == "Battery":
            batteries.append(reading.text(folder / "status"))
        else:
            online |= reading.number(folder / "online") == 1
    if online or (batteries and "Discharging" not in batteries):
        return "mains"
    return "battery" if batteries else "unknown"


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
