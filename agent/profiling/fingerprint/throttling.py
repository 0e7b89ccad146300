"""Whether heat or power holds the processor back now, as far as the kernel tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agent.host_facts import HostFacts
from agent.profiling.fingerprint import reading

_CPUS: Final = "devices/system/cpu"
_RPI_NOW: Final = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""Bits of `get_throttled` (Raspberry Pi documentation, vcgencmd)."""


def state(sys: Path, facts: HostFacts) -> dict[str, Any]:
    """What can be read: how often the processor was throttled since the start, its clock and limit in MHz, and why.

    `cooling` are cooling devices that hold something back now, with their step and the highest one.
    """
    found: dict[str, Any] = {}
    counts = [n for file in _counters(sys) if (n := reading.number(file)) is not None]
    if counts:
        found["thermal_throttle_count"] = sum(counts)
    for name, file in (("mhz", "scaling_cur_freq"), ("limit_mhz", "scaling_max_freq")):
        clocks = _clocks(sys, file)
        if clocks:
            found[name] = min(clocks) / 1000
    clock = facts.clock()
    if clock is not None:
        found = {"mhz": clock.now_mhz, "limit_mhz": clock.limit_mhz} | found
    cooling = _cooling(sys)
    if cooling:
        found["cooling"] = cooling
    reasons = _raspberry_pi(sys)
    if reasons:
        found["held_back_by"] = reasons
    return found


def _counters(sys: Path) -> list[Path]:
    return reading.entries(sys / _CPUS, "cpu[0-9]*/thermal_throttle/core_throttle_count")


def _clocks(sys: Path, name: str) -> list[int]:
    files = reading.entries(sys / _CPUS, f"cpu[0-9]*/cpufreq/{name}")
    return [khz for file in files if (khz := reading.number(file))]


def _cooling(sys: Path) -> dict[str, str]:
    """Also a Jetson's: its power and heat governors are cooling devices."""
    found: dict[str, str] = {}
    for device in reading.entries(sys / "class/thermal", "cooling_device*"):
        step, highest = (reading.number(device / f"{which}_state") for which in ("cur", "max"))
        kind = reading.text(device / "type")
        # A fan that turns holds nothing back.
        if step and highest and "fan" not in kind.lower():
            found[f"{kind} ({device.name})"] = f"step {step} of {highest}"
    return found


def _raspberry_pi(sys: Path) -> list[str]:
    text = reading.text(sys / "devices/platform/soc/soc:firmware/get_throttled")
    try:
        bits = int(text, 16)
    except ValueError:
        return []
    return [reason for bit, reason in _RPI_NOW.items() if bits >> bit & 1]
