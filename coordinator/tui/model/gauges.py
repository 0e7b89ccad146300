"""What is asked of a workflow, what the plan promises and what is measured, as gauges with their slack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.telemetry.status import WorkflowStatus
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.workflow import Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure. `at_least` says on which side of what is asked is good; None is not known, or not asked."""

    name: str
    unit: str
    at_least: bool
    measured: float | None = None
    predicted: float | None = None
    asked: float | None = None
    tolerance: float | None = None
    """How far on the bad side of what is asked still counts as met, as a share of it; None: the usual."""

    @property
    def value(self) -> float | None:
        """What is measured, else what is promised."""
        return self.measured if self.measured is not None else self.predicted

    @property
    def slack(self) -> float | None:
        """How far on the good side of what is asked, as a share of it; negative where it is missed."""
        if self.value is None or not self.asked:
            return None
        slack = (self.value - self.asked) / self.asked
        return slack if self.at_least else -slack

    @property
    def met(self) -> bool | None:
        """Whether it is met, with a twentieth of tolerance for a rate that is sampled."""
        slack = self.slack
        usual = 0.05 if self.unit == "/s" and self.measured is not None else 1e-6
        tolerance = usual if self.tolerance is None else self.tolerance
        return None if slack is None else slack >= -tolerance


def gauges(view: View, workflow: str) -> list[Figure]:
    """The gauges of a running workflow."""
    running = view.fleet.running.get(workflow)
    record = view.fleet.plans.get(running.plan) if running is not None else None
    if running is None or record is None:
        return []
    status = view.status(workflow)
    slo = slo_of(view, running.workflow_digest)
    return [
        *gauges_of(record.plan, slo, status),
        _cost(view, record.plan, slo, running.devices),
    ]


def slo_of(view: View, digest: str | None) -> Slo | None:
    """What a workflow of the journal asks."""
    source = view.fleet.workflows.get(digest or "")
    if source is None:
        return None
    from coordinator.tui.model.slo_fields import parsed

    return parsed(source.text).slo


def gauges_of(plan: Plan, slo: Slo | None, status: WorkflowStatus | None) -> list[Figure]:
    """Throughput, accuracy and latency."""
    measured = status.latency_ms if status is not None else {}
    asked = {name: 1_000 * float(value) for name, value in slo.latency.items()} if slo else {}
    names = list(asked) or [n for n in ("p95",) if n in plan.predicted.latency_ms or n in measured]
    return [
        Figure(
            name="throughput",
            unit="/s",
            at_least=True,
            measured=status.throughput_rps if status is not None else None,
            predicted=plan.predicted.throughput_rps,
            asked=float(slo.rate) if slo is not None and slo.rate is not None else None,
        ),
        _accuracy(plan, slo, status),
        *(
            Figure(
                name=f"latency {name}",
                unit="ms",
                at_least=False,
                measured=measured.get(name),
                predicted=plan.predicted.latency_ms.get(name),  # pyright: ignore[reportArgumentType]
                asked=asked.get(name),
            )
            for name in names
        ),
    ]


def _accuracy(plan: Plan, slo: Slo | None, status: WorkflowStatus | None) -> Figure:
    """Measured is what is known of the lanes that requests really took; chance alone makes no miss."""
    floor = slo.accuracy if slo is not None else None
    asked = float(floor.at_least) if floor is not None else None
    found = status.attainment.accuracy if status is not None else None
    served = found.served if found is not None else None
    chance = found.uncertainty / asked if found is not None and served and asked else 0.0
    return Figure(
        name="accuracy",
        unit="%",
        at_least=True,
        measured=served,
        predicted=plan.predicted.accuracy,
        asked=asked,
        tolerance=chance + 1e-6,
    )


def _cost(view: View, plan: Plan, slo: Slo | None, devices: list[str]) -> Figure:
    used = [view.fleet.devices[d] for d in devices if d in view.fleet.devices]
    serving = [d for d in used if d.state in (DeviceState.READY, DeviceState.SUSPECT)]
    spent = sum(d.description.price_per_hour for d in serving) + plan.cost.network_per_hour
    ceiling = float(slo.cost) if slo is not None and slo.cost is not None else None
    return Figure(
        name="cost",
        unit="USD/h",
        at_least=False,
        measured=spent,
        predicted=plan.cost.total_per_hour,
        asked=ceiling,
    )


def shown(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    match unit:
        case "%":
            return t.percent(value, 1)
        case "ms":
            return t.milliseconds(value)
        case "/s":
            return f"{t.number(value)}/s" if value is not None else t.UNKNOWN
        case _:
            return t.usd(value)


NARROW: Final = 58
"""Below so many cells a gauge is one figure, measured or promised, beside what is asked."""


def gauge_lines(found: list[Figure], cells: int) -> list[Line]:
    """A line per gauge, under a head; the bar takes what is left, and goes where there is no room for it."""
    if cells < NARROW:
        return [
            (Run(f"{'~ as planned':<12}{'':>9} {'SLO':>9}", "head"),),
            *map(_narrow_line, found),
        ]
    bar_cells = max(cells - 15 - 3 * 11 - 11, 0)
    head = f"{'':<15}{'measured':>10} {'planned':>10} {'SLO':>10}"
    note = "% of SLO ┃".rjust(bar_cells) if bar_cells >= 24 else ""
    lines: list[Line] = [(Run(f"{head}  {note}", "head"),)]
    return lines + [_gauge_line(gauge, bar_cells) for gauge in found]


def _narrow_line(gauge: Figure) -> Line:
    known = "bold" if gauge.measured is not None else "dim"
    planned = "~" if gauge.measured is None and gauge.predicted is not None else ""
    return (
        Run(t.fit(gauge.name, 12), "name"),
        Run(f"{planned + shown(gauge.value, gauge.unit):>9} ", known),
        Run(f"{_asked(gauge):>9} "),
        _slack(gauge),
    )


def _asked(gauge: Figure) -> str:
    if gauge.asked is None:
        return t.UNKNOWN
    return ("≥ " if gauge.at_least else "≤ ") + shown(gauge.asked, gauge.unit)


def _slack(gauge: Figure) -> Run:
    if gauge.slack is None:
        return Run(" " * 9)
    sign, role = ("✓", "good") if gauge.met else ("✗", "bad")
    return Run(f"{f'{gauge.slack:+.0%} {sign}':>9}", f"{role} bold")


def _gauge_line(gauge: Figure, bar_cells: int) -> Line:
    name = f"{gauge.name} USD/h" if gauge.unit == "USD/h" else gauge.name
    known = "bold" if gauge.measured is not None else "dim"
    role = {True: "good", False: "bad", None: "dim"}[gauge.met]
    return (
        Run(f"{name:<15}", "name"),
        Run(f"{_measured(gauge):>10} ", known),
        Run(f"{shown(gauge.predicted, gauge.unit):>10} ", "dim"),
        Run(f"{_asked(gauge):>10}  "),
        Run(_bar(gauge, bar_cells - 1), role),
        _slack(gauge),
    )


def _measured(gauge: Figure) -> str:
    """What is measured; of accuracy, what is known of the variants that served."""
    unknown = gauge.unit == "%" and gauge.measured is None
    return NO_LABELS if unknown else shown(gauge.measured, gauge.unit)


NO_LABELS: Final = "no labels"


def _bar(gauge: Figure, cells: int) -> str:
    """Full where what is asked lies at the mark, at five sixths of the bar."""
    if cells < 6:
        return ""
    if gauge.asked is None or gauge.value is None:
        return " " * cells
    mark = 5 / 6
    return t.bar(gauge.value / gauge.asked * mark, cells, mark)
