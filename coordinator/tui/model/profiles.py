"""What was measured: every variant on every device, as a heat map, and one cell of it in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from coordinator.fleet.priors import Priors
from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.fleet.state import Device
    from tiermesh.documents.profile import Profile

NAME_CELLS: Final = 21
CELL_CELLS: Final = 11
SHADES: Final = ("▁", "▂", "▄", "▆", "█")
STALE_S: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class ProfileRung:
    """A variant of a ladder."""

    model: str
    variant: str
    digest: str
    precision: str = ""


class HeatMap:
    """Rows are variants, columns devices; a cell says what a batch of one takes at the median."""

    def __init__(self, view: View, cells: int, first: int = 0) -> None:
        self.view, self.width = view, cells
        self.devices: list[Device] = [d for d in view.ordered() if d.state != "left"]
        self.rungs = _rungs(view)
        self.first = first
        room = max((cells - NAME_CELLS) // CELL_CELLS, 1)
        self.shown: Sequence[Device] = self.devices[first : first + room]
        self.rows: list[ProfileRung | str] = []
        for model in dict.fromkeys(r.model for r in self.rungs):
            self.rows += [model, *(r for r in self.rungs if r.model == model)]

    @property
    def height(self) -> int:
        """One line per variant, and one per model."""
        return max(len(self.rows), 1)

    def head(self, chosen: int) -> Line:
        """The devices."""
        runs = [Run(" " * NAME_CELLS)]
        for i, device in enumerate(self.shown):
            here = i + self.first == chosen
            runs.append(
                Run(t.fit(t.safe(device.name), CELL_CELLS - 1) + " ", "key" if here else "head")
            )
        more = len(self.devices) - self.first - len(self.shown)
        return (*runs, Run(f"+{more} →" if more > 0 else "", "dim"))

    def line(self, y: int) -> Line:
        """A variant on each device, or the name of a model."""
        if not self.rows:
            return (Run(" nothing was measured yet: coordinator profile WORKFLOW.yaml", "dim"),)
        row = self.rows[y]
        if isinstance(row, str):
            return (Run(f"{t.safe(row)} ".ljust(self.width, "─"), "tier"),)
        best = self._best(row)
        name = t.fit(t.safe(row.variant), NAME_CELLS - 8)
        runs = [Run(f" {name} ", "name"), Run(t.fit(t.safe(row.precision), 5), "dim")]
        return (*runs, *(self._cell(row, device, best) for device in self.shown))

    def _cell(self, rung: ProfileRung, device: Device, best: tuple[float, float]) -> Run:
        found = self.view.fleet.profile(device, rung.digest)
        if found is None:
            failed = self.view.fleet.profile_failures.get(device.id, {}).get(rung.digest)
            prior = Priors(self.view.fleet).of(device, rung.digest)
            if prior is not None:
                ms = t.milliseconds(median_ms(prior.profile) or 0.0)
                return Run(t.fit(f"~ {ms}", CELL_CELLS), "dim")
            return Run(
                t.fit("✗ failed" if failed else "· missing", CELL_CELLS),
                "warn" if failed else "dim",
            )
        if found.cannot_run is not None:
            return Run(t.fit("✗ cannot", CELL_CELLS), "bad")
        ms = median_ms(found)
        if ms is None:
            return Run(t.fit(t.UNKNOWN, CELL_CELLS), "dim")
        low, high = best
        heat = 0 if high <= low else min(int((ms - low) / (high - low) * 4.999), 4)
        return Run(
            t.fit(f" {SHADES[heat]} {t.milliseconds(ms)}", CELL_CELLS - 1) + " ", f"heat{heat}"
        )

    def _best(self, rung: ProfileRung) -> tuple[float, float]:
        """The fastest and the slowest of all rungs of its model, on any device."""
        found = [
            ms
            for other in self.rungs
            if other.model == rung.model
            for device in self.devices
            if (p := self.view.fleet.profile(device, other.digest)) is not None
            and (ms := median_ms(p)) is not None
        ]
        return (min(found), max(found)) if found else (0.0, 0.0)

    def is_heading(self, y: int) -> bool:
        """Whether a line names a model."""
        return bool(self.rows) and isinstance(self.rows[y], str)

    def at(self, y: int, column: int) -> tuple[ProfileRung, Device] | None:
        """The variant of a row and the device of a column."""
        row = self.rows[y] if 0 <= y < len(self.rows) else None
        if row is None or isinstance(row, str) or not 0 <= column < len(self.devices):
            return None
        return row, self.devices[column]


def _rungs(view: View) -> list[ProfileRung]:
    """Every variant that was measured or is served, by model and name."""
    found: dict[str, ProfileRung] = {}
    for running in view.fleet.running.values():
        for variants in running.catalogue.variants.values():
            for variant in variants.values():
                found[variant.digest] = ProfileRung(
                    variant.model, variant.name, variant.digest, variant.precision
                )
    for profiles in view.fleet.profiles.values():
        for digest, profile in profiles.items():
            found.setdefault(digest, ProfileRung(profile.model, profile.variant, digest))
    return sorted(found.values(), key=lambda r: (r.model, r.variant, r.digest))


def median_ms(profile: Profile) -> float | None:
    """What its smallest batch takes at the median, with the most threads."""
    if not profile.points:
        return None
    point = min(profile.points, key=lambda p: (p.batch_size, -p.threads))
    return 1_000 * point.seconds.p50


def cell_lines(view: View, rung: ProfileRung, device: Device, cells: int) -> list[Line]:
    """One variant on one device in full."""
    lines: list[Line] = [
        (Run(t.safe(f"{rung.model}/{rung.variant}"), "title"),),
        (Run(f"on {t.safe(device.name)}", "dim"),),
        (),
    ]
    profile = view.fleet.profile(device, rung.digest)
    if profile is None:
        why = view.fleet.profile_failures.get(device.id, {}).get(rung.digest)
        said = f"the measurement failed: {why}" if why else "it was not measured here"
        lines += [(Run(p, "warn"),) for p in t.wrap(t.safe(said), cells)]
        prior = Priors(view.fleet).of(device, rung.digest)
        if prior is not None:
            planned = f"planned with a prior from class {prior.hardware.label}"
            lines += [(Run(p),) for p in t.wrap(t.safe(planned), cells)]
        return [*lines, (), (Run("r", "key"), Run(" measures it", "dim"))]
    if profile.cannot_run is not None:
        lines += [(Run("✗ it cannot run here", "bad bold"),)]
        lines += [(Run(p, "bad"),) for p in t.wrap(t.safe(profile.cannot_run), cells)]
        return lines
    lines += [*_facts(view, profile, cells), (), *_points(profile, cells)]
    return lines


def _facts(view: View, profile: Profile, cells: int) -> list[Line]:
    old = age_s(view, profile)
    facts = [
        ("measured", f"{t.age(old)} ago by agent {profile.agent_version}"),
        ("runtime", f"{profile.runtime} {profile.runtime_version or ''}"),
        ("memory", f"{t.size(profile.peak_memory_bytes)} at its peak"),
        (
            "load",
            f"{profile.load_seconds:.2f} s" if profile.load_seconds is not None else t.UNKNOWN,
        ),
        ("items", f"{profile.items_per_request:.3g} per request"),
        ("sends", f"{t.size(profile.bytes_out_per_request)} per request"),
    ]
    if profile.emulated is not None:
        facts.append(("emulated", f"{profile.emulated.slowdown:g} × slower"))
    role = "warn" if old is not None and old > STALE_S else ""
    return [
        t.clip((Run(f"{k:<10}", "dim"), Run(t.safe(v), role if k == "measured" else "")), cells)
        for k, v in facts
    ]


def age_s(view: View, profile: Profile) -> float | None:
    """How old a profile is, in seconds."""
    try:
        return view.now - datetime.fromisoformat(profile.measured_at).timestamp()
    except ValueError:
        return None


def _points(profile: Profile, cells: int) -> list[Line]:
    head = f"{'batch':>5}{'p50':>9}{'p95':>9}{'p99':>9}{'items/s':>9} {'±':>5}"
    lines: list[Line] = [(Run(t.fit(head, cells), "head"),)]
    for p in profile.points:
        found = [t.milliseconds(1_000 * v) for v in (p.seconds.p50, p.seconds.p95, p.seconds.p99)]
        times = "".join(f"{ms:>9}" for ms in found)
        said = f"{p.batch_size:>5}{times}{t.number(p.items_per_second):>9} {p.interval:>5.0%}"
        lines.append((Run(t.fit(said, cells)),))
    return lines
