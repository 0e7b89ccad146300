"""The two lines on top of every screen: where one is, and how the mesh does."""

from __future__ import annotations

from typing import Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model import text as t
from coordinator.tui.model.banner import SIGNS, verdict_of
from coordinator.tui.model.gauges import Figure, gauges, shown
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

TABS: Final = ("fleet", "placement", "plan", "rollout", "profiles", "events")
BRAND: Final = " tiermesh "
NARROW: Final = 84


def strip(view: View, mode: str, cells: int) -> list[Line]:
    """The tabs, and the state of the mesh and of the workflow that is shown."""
    return [_tabs(view, mode, cells), _state(view, cells)]


def _tabs(view: View, mode: str, cells: int) -> Line:
    runs = [Run(BRAND, "brand")]
    for number, tab in enumerate(TABS, 1):
        runs.append(Run(f" {number} {tab.capitalize()} ", "tab-on" if tab == mode else "tab"))
    right = (Run(f"{t.safe(view.title)} ", "tab"),)
    line = t.spread(tuple(runs), right, cells) if cells > NARROW else t.clip(runs, cells)
    return tuple(
        Run(text, role or "tab")
        for text, role in (*line, Run(" " * (cells - t.width(line)), "tab"))
    )


def tab_at(x: int) -> str | None:
    """The tab that covers a cell of the first line."""
    at = len(BRAND)
    for number, tab in enumerate(TABS, 1):
        at_end = at + len(f" {number} {tab} ")
        if at <= x < at_end:
            return tab
        at = at_end
    return None


def _state(view: View, cells: int) -> Line:
    left = [*_devices(view), *_workflow(view, cells)]
    right: Line = ()
    if view.doing:
        right = (Run(f"⟳ {t.safe(view.doing)} ", "warn"),)
    elif view.refusal:
        right = (Run("read only ", "warn"),)
    line = t.spread(tuple(left), right, cells)
    return tuple(Run(text, f"strip {role}".strip()) for text, role in line)


def _devices(view: View) -> list[Run]:
    devices = [d for d in view.fleet.devices.values() if d.state is not DeviceState.LEFT]
    ready = sum(d.state is DeviceState.READY for d in devices)
    bad = [d for d in devices if d.state in (DeviceState.FAILED, DeviceState.SUSPECT)]
    runs = [Run(f" ● {ready}", "good"), Run(f"/{len(devices)} devices")]
    if bad:
        names = ", ".join(t.safe(d.name) for d in bad[:3]) + (" …" if len(bad) > 3 else "")
        runs.append(Run(f"  ✗ {names}", "bad bold"))
    return runs


def _workflow(view: View, cells: int) -> list[Run]:
    name = view.workflow
    running = view.fleet.running.get(name or "")
    if name is None:
        return [Run("  no workflow yet", "dim")]
    if running is None:
        return [Run("  "), Run(t.safe(name), "bold"), Run(" does not run", "dim")]
    more = len(view.fleet.running) - 1
    runs = [Run("   "), Run(t.safe(name), "bold"), Run(f" generation {running.generation}")]
    if more:
        runs.append(Run(f" (+{more}, w)", "dim"))
    word = verdict_of(view, name)
    if word is not None:
        sign, role = SIGNS[word]
        runs.append(Run(f"   {sign} SLO {word}", role))
    for gauge in gauges(view, name):
        if gauge.met is not None and gauge.measured is not None:
            runs += _figure(gauge, word, cells)
    return runs


def _figure(gauge: Figure, word: str | None, cells: int) -> list[Run]:
    """What is measured, and beside it what was promised and is asked; no tick while the SLO is not met."""
    label = gauge.name.removeprefix("latency ").removeprefix("throughput")
    text = f"   {label + ' ' if label else ''}{shown(gauge.measured, gauge.unit)}"
    if not gauge.met:
        runs = [Run(f"{text} ✗", "bad bold")]
    elif word in ("missed", "at-risk"):
        runs = [Run(text)]
    else:
        runs = [Run(f"{text} ✓", "good")]
    if gauge.unit == "ms" and cells > NARROW:
        planned = f"~{shown(gauge.predicted, gauge.unit)} " if gauge.predicted is not None else ""
        runs.append(Run(f" ({planned}≤ {shown(gauge.asked, gauge.unit)})", "dim"))
    return runs
