"""One device in full, and the ways that lead to none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.fleet.lifecycle import REMEDIES, Reach
from coordinator.fleet.state import Device, Sighting
from coordinator.sessions.link_quality import LinkQuality
from coordinator.telemetry.recent import DeviceTelemetry
from coordinator.tui.model import text as t
from coordinator.tui.model.fleet import STATES
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View
from tiermesh.documents.fingerprint import Interface

if TYPE_CHECKING:
    from coordinator.telemetry.status import BatteryStatus


def detail(view: View, device: Device, cells: int) -> list[Line]:
    """Everything known of a device, in lines of `cells` cells."""
    sign, role = STATES[device.state]
    lines: list[Line] = [
        (Run(t.safe(device.name), "title"), Run(f"  {sign} {device.state}", f"{role} bold")),
        (),
    ]
    lines += _why(view, device, cells)
    for title, value in _facts(view, device):
        lines += _fact(title, value, cells)
    return lines


def _why(view: View, device: Device, cells: int) -> list[Line]:
    why = device.why or view.telemetry.of(device.id).why_silent
    if not why:
        return []
    lines: list[Line] = [
        (Run(part, STATES[device.state][1] or "warn"),) for part in t.wrap(t.safe(why), cells)
    ]
    for remedy in _remedies(why):
        lines += [(Run("→ ", "accent"), Run(part)) for part in t.wrap(remedy, cells - 2)]
    return [*lines, ()]


def _remedies(why: str) -> list[str]:
    return [REMEDIES[reach] for reach in Reach if f": {reach.value}" in why]


def _fact(title: str, value: str, cells: int) -> list[Line]:
    indent = 12
    parts = t.wrap(t.safe(value), max(cells - indent, 8))
    first: Line = (Run(f"{title:<{indent}}", "dim"), Run(parts[0]))
    return [first, *((Run(" " * indent), Run(part)) for part in parts[1:])]


def _facts(view: View, device: Device) -> list[tuple[str, str]]:
    said, print_ = device.description, device.description.fingerprint
    heard = view.telemetry.of(device.id)
    runtimes = [
        f"{r.name} {r.version or ''}".rstrip()
        if r.unavailable is None
        else f"{r.name}: {r.unavailable}"
        for r in print_.runtimes
    ]
    facts = [
        ("tier", said.tier),
        ("price", f"{said.price_per_hour:g} USD/h"),
        ("cpu", f"{print_.cpu.model}, {t.count(print_.threads, 'thread')} used"),
        ("memory", _memory_used(print_.memory_bytes, heard)),
        *(("accelerator", f"{a.name} ({a.kind})") for a in print_.accelerators),
        ("runtimes", ", ".join(runtimes) or "none"),
        ("power", _power_in_full(print_.power, heard.battery)),
        ("usable", f"{said.usable_share:.0%} of its time"),
        ("address", device.address),
        ("data", said.data_address),
        *(("network", _interface(i)) for i in print_.interfaces if not i.loopback),
        ("seen", f"{t.age(view.now - (heard.received_at or device.seen_at))} ago"),
        ("agent", f"{said.agent_version}, protocol {said.protocol_version}"),
        ("system", f"{print_.os}, Python {print_.python}"),
        ("class", device.device_class.removeprefix("sha256:")[:12]),
        ("id", device.id),
    ]
    if print_.emulated:
        facts.insert(3, ("emulated", f"{print_.emulated.slowdown:g} × slower than this machine"))
    sample = heard.newest
    if sample is not None:
        if sample.temperature_celsius:
            facts.insert(2, ("temperature", f"{sample.temperature_celsius:.0f} °C"))
        if heard.link is not None:
            facts.insert(2, ("link", _link_in_full(heard.link)))
        restarts = f", restarted {sample.worker.restarts} ×" if sample.worker.restarts else ""
        facts.insert(2, ("worker", f"{t.size(sample.worker.memory_bytes)}{restarts}"))
        facts.insert(
            2, ("serves", ", ".join(r.replica for r in sample.figures.replicas) or "nothing")
        )
    return facts


def _power_in_full(power: str, battery: BatteryStatus | None) -> str:
    if battery is None:
        return "from its battery" if power == "battery" else power
    state = {"resting": "full, or not charging", "unspecified": ""}.get(
        battery.state, battery.state
    )
    return f"battery {battery.level_percent:.0f} %" + (f", {state}" if state else "")


def _link_in_full(link: LinkQuality) -> str:
    times = f"{t.milliseconds(link.rtt_ms)} there and back, {t.milliseconds(link.least_ms)} at best"
    broke = t.count(link.reconnects, "reconnect") if link.reconnects else "no reconnect"
    return f"{link.grade}: {times}; {broke} in the last hour"


def _memory_used(total: int, heard: DeviceTelemetry) -> str:
    if heard.newest is None:
        return t.size(total)
    return f"{t.size(heard.newest.memory_used_bytes)} of {t.size(total)} used"


def _interface(interface: Interface) -> str:
    kind = "wireless" if interface.wireless else "wired"
    speed = f", {interface.speed_mbps} Mbit/s" if interface.speed_mbps else ""
    return f"{interface.name} ({kind}{speed}) {', '.join(interface.addresses)}"


def unreached(view: View, cells: int) -> list[Line]:
    """Ways that lead to no device, and what to do about each."""
    lines: list[Line] = []
    for key, way in sorted(view.fleet.sightings.items()):
        if not way.failures or (way.device is not None and way.device in view.fleet.devices):
            continue
        lines.append(
            (Run("✗ ", "bad"), Run(t.safe(key), "name"), Run(f" by {t.safe(way.via)}", "dim"))
        )
        lines += _failures(way, cells)
    return lines


def _failures(way: Sighting, cells: int) -> list[Line]:
    lines: list[Line] = []
    for failure in way.failures:
        lines += [(Run(f"  {part}", "warn"),) for part in t.wrap(t.safe(failure), cells - 2)]
        for remedy in _remedies(failure):
            lines += [(Run("  → ", "accent"), Run(p)) for p in t.wrap(remedy, cells - 4)]
    return lines
