"""What is asked, the plan that answers it, and how it differs from the one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model import text as t
from coordinator.tui.model.candidate import AccuracyAlternative, Asking, PlanAnswer, Search
from coordinator.tui.model.gauges import Figure, gauge_lines, gauges_of
from coordinator.tui.model.grid import CellGrid
from coordinator.tui.model.slo_fields import fields
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.planning.diff import Difference
    from coordinator.planning.explain import Explanation
    from coordinator.planning.search_progress import SearchBounds
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.workflow import Slo


class RowKind(StrEnum):
    """What a row of the form is about."""

    TITLE = "title"
    ASK = "ask"
    TIER = "tier"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class FormRow:
    """A row: an ask with its value, or a tier or device that may be used or not."""

    kind: RowKind
    key: str
    title: str = ""
    before: str = ""
    now: str = ""


NARROW_FORM: Final = 36
"""Below so many cells, asks have signs for words."""


class Form:
    """What is asked, as rows of which one is under the cursor."""

    def __init__(self, view: View, slo: Slo, asking: Asking, cells: int) -> None:
        self.width = cells
        self.rows: list[FormRow] = [FormRow(RowKind.TITLE, "", "SLO")]
        for field in fields(slo, asking.changes):
            self.rows.append(FormRow(RowKind.ASK, field.key, field.title, field.before, field.now))
        self.rows.append(FormRow(RowKind.TITLE, "", "allowed devices"))
        self._places(view, asking)

    def _places(self, view: View, asking: Asking) -> None:
        devices = [d for d in view.ordered() if d in view.fleet.ready]
        for tier in dict.fromkeys(d.description.tier for d in devices):
            barred = tier in asking.tiers
            self.rows.append(FormRow(RowKind.TIER, tier, tier, "", "no" if barred else "yes"))
            for device in (d for d in devices if d.description.tier == tier):
                no = barred or device.name in asking.devices
                price = f"{device.description.price_per_hour:g}"
                self.rows.append(
                    FormRow(RowKind.DEVICE, device.name, device.name, price, "no" if no else "yes")
                )

    @property
    def height(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def is_heading(self, y: int) -> bool:
        """Whether a row is a title."""
        return self.rows[y].kind is RowKind.TITLE

    def line(self, y: int) -> Line:
        """A row."""
        row = self.rows[y]
        match row.kind:
            case RowKind.TITLE:
                return (Run(row.title, "head"),)
            case RowKind.ASK:
                return self._ask(row)
            case RowKind.TIER:
                return (Run(_box(row)), Run(f"tier {t.safe(row.title)}", "tier bold"))
            case RowKind.DEVICE:
                name = t.fit(t.safe(row.title), max(self.width - 19, 6))
                return (
                    Run(f"  {_box(row)}"),
                    Run(name, "name"),
                    Run(f"{row.before:>6} USD/h", "dim"),
                )

    def _ask(self, row: FormRow) -> Line:
        changed = row.now != row.before
        value = t.safe(row.now) or "not set"
        was = f" was {t.safe(row.before) or 'not set'}" if changed else ""
        role = "accent bold" if changed else "bold" if row.now else "dim"
        title = f"{row.title:<20}"
        if self.width < NARROW_FORM:
            short = row.title.replace("at least", "≥").replace("at most", "≤")
            title = f"{short:<14}"
        line = (
            Run(f"{'*' if changed else ' '} {title}", "name"),
            Run(value, role),
            Run(was, "dim"),
        )
        return t.clip(line, self.width)


def _box(row: FormRow) -> str:
    return "[✓] " if row.now == "yes" else "[✗] "


class Tab(StrEnum):
    """What the lower part shows."""

    CHANGES = "changes"
    REASONS = "reasons"
    FRONTIER = "frontier"


def candidate_lines(view: View, candidate: PlanAnswer, slo: Slo | None, cells: int) -> list[Line]:
    """How the search stands, and what its plan promises against what is asked."""
    lines = [_state(candidate, cells), *_steps(candidate, cells)]
    if candidate.search in (Search.INFEASIBLE, Search.FAILED) and candidate.plan is None:
        lines += [(), *((Run(p, "bad"),) for p in t.wrap(t.safe(candidate.why), cells))]
        fix = t.wrap(t.safe(candidate.fix), cells - 2) if candidate.fix else []
        return lines + [(Run("→ ", "accent"), Run(part)) for part in fix]
    if candidate.plan is not None:
        lines += [(), *_promises(view, candidate.plan, slo, cells)]
        warnings = [*_outdated(view, candidate.plan), *candidate.plan.warnings]
        lines += [(Run(p, "warn"),) for w in warnings for p in t.wrap(f"▲ {t.safe(w)}", cells)]
    return lines


def _outdated(view: View, plan: Plan) -> list[str]:
    """What a plan that was made a while ago counts on, and is not there now."""
    names = dict.fromkeys(r.device for r in plan.replicas)
    known = {name: view.fleet.named(name) for name in names}
    gone = [
        f"{name} is {device.state if device is not None else 'gone'}"
        for name, device in known.items()
        if device is None or device.state is not DeviceState.READY
    ]
    return [f"{', '.join(gone)} since this was planned: press p to replan"] if gone else []


def running_lines(view: View, plan: Plan, slo: Slo | None, cells: int) -> list[Line]:
    """The plan that runs, before anything else is asked."""
    proof = plan.solver
    left = (Run("● the plan that runs", "good bold"),)
    how = f"{proof.termination}, found in {proof.seconds:.2f} s by {t.safe(proof.name)}"
    return [
        t.spread(left, _price_and_gap(plan), cells),
        (Run(how, "dim"),),
        (),
        *_promises(view, plan, slo, cells),
        (),
        (
            Run("change SLO, or press ", "dim"),
            Run("p", "key"),
            Run(" to replan", "dim"),
        ),
    ]


def _state(candidate: PlanAnswer, cells: int) -> Line:
    plan, took = candidate.plan, f"{candidate.seconds:.1f} s"
    match candidate.search:
        case Search.SOLVING:
            sign, role, said = (
                "⟳",
                "warn",
                f"{'solving' if plan is None else 'looking for a better plan'} {took}",
            )
        case Search.FOUND:
            how = plan.solver.termination if plan is not None else "found"
            sign, role, said = "✓", "good", f"{how}, in {took}"
        case Search.INFEASIBLE:
            sign, role, said = "✗", "bad", "infeasible: constraints conflict"
        case Search.FAILED:
            sign, role, said = "✗", "bad", "no plan"
    if candidate.search is Search.SOLVING:
        right = _known(candidate.standing)
    else:
        right = _price_and_gap(plan) if plan is not None else ()
    return t.spread((Run(f"{sign} {said}", f"{role} bold"),), right, cells)


def _known(standing: SearchBounds) -> Line:
    """What is known of the cost while the search goes on."""
    if standing.objective is not None:
        gap = "" if standing.gap is None else f"  gap {standing.gap:.2%}"
        return Run(f"{standing.objective:.4g} USD/h", "bold"), Run(gap, "dim")
    if standing.bound is not None and standing.bound > 0:
        return (Run(f"at least {standing.bound:.4g} USD/h", "dim"),)
    return ()


def _price_and_gap(plan: Plan) -> Line:
    gap = "gap unknown" if plan.solver.gap is None else f"gap {plan.solver.gap:.2%}"
    return Run(f"{plan.cost.total_per_hour:.4g} USD/h", "bold"), Run(f"  {gap}", "dim")


def _steps(candidate: PlanAnswer, cells: int) -> list[Line]:
    """How the gap closes: a bar for each of the last steps."""
    lines: list[Line] = []
    for step in candidate.steps[-4:]:
        gap = t.UNKNOWN if step.gap is None else f"{step.gap:.2%}"
        room = max(cells - 34, 4)
        lines.append(
            (
                Run(f"{step.seconds:6.2f} s ", "dim"),
                Run(f"{step.cost_per_hour:>9.4g} USD/h "),
                Run(f"{gap:>8} ", "accent"),
                Run(t.bar(None if step.gap is None else min(step.gap, 1.0), room), "accent"),
            )
        )
    return lines


def _promises(view: View, plan: Plan, slo: Slo | None, cells: int) -> list[Line]:
    ceiling = float(slo.cost) if slo is not None and slo.cost is not None else None
    cost = Figure(
        name="cost", unit="USD/h", at_least=False, predicted=plan.cost.total_per_hour, asked=ceiling
    )
    status = view.status(plan.workflow)
    runs = view.fleet.running.get(plan.workflow)
    live = status if runs is not None and runs.plan == plan.digest else None
    return gauge_lines([*gauges_of(plan, slo, live), cost], cells)


# --- what it would change ----------------------------------------------------------------------------------------


def against_running(view: View, plan: Plan | None) -> Difference | None:
    """How a plan differs from the one that runs now; None where nothing runs."""
    from coordinator.planning.diff import difference

    running = view.fleet.running.get(plan.workflow) if plan is not None else None
    record = view.fleet.plans.get(running.plan) if running is not None else None
    if plan is None or record is None:
        return None
    return difference(record.plan, plan)


def difference_lines(found: Difference | None, plan: Plan | None, cells: int) -> list[Line]:
    """What an apply would start, stop, move and retune, and what it costs or saves."""
    if found is None:
        starts: Line = (Run("nothing runs; it would start", "dim"),)
        return [starts, *replica_lines(plan, cells)] if plan is not None else []
    if found.empty:
        return [(Run("this plan runs already: nothing would change", "dim"),)]
    lines: list[Line] = [*_saving(found)]
    lines += [(Run("+ starts  ", "good bold"), Run(t.safe(r))) for r in found.started]
    lines += [(Run("- stops   ", "bad bold"), Run(t.safe(r))) for r in found.stopped]
    for stage, variant, source, target in found.moved:
        moved = f"{stage} {variant or ''} from {source} to {target}"
        lines.append((Run("> moves   ", "warn bold"), Run(t.safe(moved))))
    for r in found.retuned:
        told = f"{r.items_per_second[0]:.3g} → {r.items_per_second[1]:.3g} items/s"
        if r.batch_size[0] != r.batch_size[1]:
            told += f", batch {r.batch_size[0]} → {r.batch_size[1]}"
        lines.append((Run("~ changes ", "accent"), Run(f"{t.safe(r.id)}: {told}")))
    return [t.clip(line, cells) for line in lines]


def _saving(found: Difference) -> list[Line]:
    """What it costs or saves, and what it does to requests and devices."""
    cost = found.cost_per_hour
    said, role = "costs as much", "good bold"
    if cost < -1e-9:
        said = f"saves {-cost:.4g} USD/h"
    elif cost > 1e-9:
        said, role = f"costs {cost:.4g} USD/h more", "warn bold"
    accuracy = f", accuracy {100 * found.accuracy:+.2f} points" if found.accuracy else ""
    rerouted = f"{found.rerouted_share:.0%} of the requests change route"
    return [
        (Run(said, role), Run(accuracy)),
        (Run(rerouted, "dim"),),
        (Run(f"{found.loads_mb:.0f} MB to load", "dim"),),
    ]


def replica_lines(plan: Plan, cells: int) -> list[Line]:
    """The replicas of a plan."""
    lines: list[Line] = []
    for r in plan.replicas:
        told = f" {t.number(r.items_per_second)} items/s, batch {r.batch_size}, {r.utilization:.0%} busy"
        line = (Run("▏ ", "accent"), Run(t.fit(t.safe(r.id), 34), "name"), Run(told, "dim"))
        lines.append(t.clip(line, cells))
    return lines


# --- why it is so ------------------------------------------------------------------------------------------------


def explanation_lines(found: Explanation | None, cells: int) -> list[Line]:
    """What binds, and why each replica is where it is."""
    if found is None:
        return [(Run("press ", "dim"), Run("e", "key"), Run(" to have the plan explained", "dim"))]
    lines: list[Line] = [(Run("what binds", "head"),)]
    for row in found.binding:
        said = f"{t.safe(row.constraint)}: {t.safe(row.relaxed_by)} less would save {row.saves:.4g}"
        lines.append((Run("┃ ", "warn"), Run(t.fit(said, cells - 2).rstrip())))
    if not found.binding:
        lines.append((Run("no constraint is binding", "dim"),))
    lines += [(), (Run("why each replica", "head"),)]
    for why in found.replicas:
        lines.append((Run(t.safe(why.replica), "name bold"),))
        lines += [(Run("  " + part, "dim"),) for part in t.wrap(t.safe(why.reason), cells - 2)]
    return lines


# --- what other accuracies cost ----------------------------------------------------------------------------------

PLOT_LINES: Final = 8
AXIS_CELLS: Final = 10


def frontier_lines(
    choices: Sequence[AccuracyAlternative], plan: Plan | None, cells: int
) -> list[Line]:
    """Cost against accuracy, each point with its latency; ◆ is the plan above."""
    known = [c for c in choices if c.cost_per_hour is not None]
    if not known:
        return [
            (
                Run("press ", "dim"),
                Run("f", "key"),
                Run(" to see what other accuracies cost", "dim"),
            )
        ]
    chosen = None
    if plan is not None and plan.predicted.accuracy is not None:
        chosen = (plan.predicted.accuracy, plan.cost.total_per_hour)
    lines = _plot([(c.accuracy, c.cost_per_hour or 0.0) for c in known], chosen, cells)
    lines += [(), (Run(f"{'accuracy':>9}{'USD/h':>10}{'p95':>12}", "head"),)]
    for c in choices:
        cost = t.usd(c.cost_per_hour) if c.cost_per_hour is not None else "no plan"
        lines.append(
            (
                Run(f"{c.accuracy:>9.1%}"),
                Run(f"{cost:>10}", "bold"),
                Run(f"{t.milliseconds(c.p95_ms):>12}", "dim"),
            )
        )
    return lines


def _plot(
    points: list[tuple[float, float]], chosen: tuple[float, float] | None, cells: int
) -> list[Line]:
    everything = [*points, *([chosen] if chosen is not None else [])]
    low_x, high_x = _range([x for x, _ in everything])
    low_y, high_y = _range([0.0, *(y for _, y in everything)])
    wide = max(min(cells, 72) - AXIS_CELLS - 2, 8)
    grid = CellGrid(AXIS_CELLS + wide + 2, PLOT_LINES + 2)
    grid.vertical(AXIS_CELLS, 0, PLOT_LINES - 1, "dim", 0)
    grid.horizontal(PLOT_LINES, AXIS_CELLS, AXIS_CELLS + wide, "dim", 0)
    grid.joint(AXIS_CELLS, PLOT_LINES, 1, "dim", 0)
    grid.text(0, 0, f"{t.usd(high_y):>8}", "dim")
    grid.text(0, 1, f"{'USD/h':>8}", "dim")
    grid.text(0, PLOT_LINES - 1, f"{t.usd(low_y):>8}", "dim")
    grid.text(AXIS_CELLS, PLOT_LINES + 1, f"{low_x:.1%}", "dim")
    grid.text(AXIS_CELLS + wide - 6, PLOT_LINES + 1, f"{high_x:>6.1%}", "dim")
    grid.text(AXIS_CELLS + wide // 2 - 4, PLOT_LINES + 1, "accuracy", "dim")

    def at(point: tuple[float, float]) -> tuple[int, int]:
        x = AXIS_CELLS + 1 + round((point[0] - low_x) / (high_x - low_x) * (wide - 1))
        y = round((1 - (point[1] - low_y) / (high_y - low_y)) * (PLOT_LINES - 1))
        return x, y

    for point in points:
        grid.text(*at(point), "●", "accent bold")
    if chosen is not None:
        grid.text(*at(chosen), "◆", "warn bold")
    return grid.lines()


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0) * 0.1)
