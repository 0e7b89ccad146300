"""A plan as a board: devices by tier as columns, stages as rows, replicas as cards, lanes as links between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model.slo_fields import parsed
from coordinator.tui.model.view import View
from tiermesh.histogram import EMPTY, Histogram, merged

if TYPE_CHECKING:
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Catalogue, RunningPlan
    from coordinator.telemetry.status import ReplicaStatus, WorkflowStatus
    from tiermesh.documents.plan import Plan, Replica
    from tiermesh.documents.variant import Variant

MOST_COLUMNS: Final = 8
"""Devices of a tier that have a column of their own; the busiest do, and the others share one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A replica, or several of one stage that share a card (`replicas` > 1). `device_time` is of batches."""

    id: str
    stage: str
    column: str
    variant: str = ""
    precision: str = ""
    batch_size: int = 1
    items_per_second: float | None = None
    predicted_items_per_second: float = 0.0
    busy: float | None = None
    predicted_busy: float = 0.0
    device_time: Histogram = EMPTY
    predicted_p95_ms: float | None = None
    waiting: int = 0
    errors: int = 0
    replicas: int = 1
    lost: str = ""

    @property
    def p95_ms(self) -> float | None:
        """What 95 % of the batches took at most, in milliseconds; None where none has run."""
        return self.device_time.percentiles_ms().get("p95")

    @property
    def slim(self) -> bool:
        """Whether it has no variant and takes no device time: a source, a sink, a stage of code."""
        return not self.variant and not self.predicted_busy


@dataclass(frozen=True, slots=True)
class PlacementColumn:
    """A device, or several of a tier. `why` says what is wrong with it."""

    key: str
    tier: str
    title: str
    state: DeviceState
    why: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage."""

    name: str
    kind: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class CardLink:
    """What flows from one card to another. `share` of all requests, `rate_rps` in requests a second."""

    source: str
    target: str
    share: float
    rate_rps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """All of it. `cells` has the cards by stage and column key."""

    workflow: str
    generation: int | None
    columns: Sequence[PlacementColumn]
    rows: Sequence[StageRow]
    cells: Mapping[tuple[str, str], Sequence[Card]]
    links: Sequence[CardLink]

    @property
    def cards(self) -> list[Card]:
        """All cards, row by row."""
        return [
            card
            for row in self.rows
            for column in self.columns
            for card in self.cells.get((row.name, column.key), ())
        ]


def board(view: View, workflow: str) -> Board | None:
    """The board of what serves a workflow; None where it does not run."""
    running, status = view.fleet.running.get(workflow), view.status(workflow)
    if running is None or status is None:
        return None
    plan = view.fleet.plans[running.plan].plan
    live = {r.id: r for r in status.replicas}
    return _board(view, plan, running, live, status)


def planned_board(view: View, plan: Plan) -> Board:
    """The board of a plan that does not run."""
    return _board(view, plan, None, {}, None)


def _board(
    view: View,
    plan: Plan,
    running: RunningPlan | None,
    live: Mapping[str, ReplicaStatus],
    status: WorkflowStatus | None,
) -> Board:
    columns, column_of = _columns(view, plan)
    lost = {c.key: c.why for c in columns if c.state is DeviceState.FAILED}
    catalogue = running.catalogue if running is not None else None
    cells: dict[tuple[str, str], list[Card]] = defaultdict(list)
    card_of: dict[str, str] = {}
    for replica in plan.replicas:
        key = column_of[replica.device]
        card = _card(view, replica, key, live.get(replica.id), _variant(catalogue, replica))
        card = replace(card, lost=lost.get(key, ""))
        _add(cells[replica.stage, key], card, card_of)
    digest = running.workflow_digest if running is not None else plan.made_for.workflow
    rows = _rows(view.fleet, digest, plan)
    measured = status.throughput_rps if status is not None else None
    return Board(
        workflow=plan.workflow,
        generation=running.generation if running is not None else None,
        columns=columns,
        rows=rows,
        cells=cells,
        links=_links(plan, _edges(view.fleet, digest, rows), card_of, measured),
    )


# --- columns -----------------------------------------------------------------------------------------------------


def _columns(view: View, plan: Plan) -> tuple[list[PlacementColumn], dict[str, str]]:
    """The columns, and the column of each device of the plan by name."""
    by_name = {d.name: d for d in view.fleet.devices.values()}
    busy: defaultdict[str, float] = defaultdict(float)
    for replica in plan.replicas:
        busy[replica.device] += replica.utilization
    of_tier: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(r.device for r in plan.replicas):
        device = by_name.get(name)
        of_tier[device.description.tier if device is not None else "gone"].append(name)
    columns: list[PlacementColumn] = []
    column_of: dict[str, str] = {}
    for tier in sorted(of_tier, key=view.tier_order):
        names = sorted(of_tier[tier])
        own = set(names)
        if len(names) > MOST_COLUMNS:
            own = set(sorted(names, key=lambda n: (-busy[n], n))[: MOST_COLUMNS - 1])
        columns += [_column(view, name, tier) for name in names if name in own]
        others = [name for name in names if name not in own]
        if others:
            columns.append(_others(view, others, tier))
        column_of |= {n: n if n in own else f"{tier}/others" for n in names}
    return columns, column_of


def _column(view: View, name: str, tier: str) -> PlacementColumn:
    device = view.fleet.named(name)
    if device is None:
        return PlacementColumn(name, tier, name, DeviceState.FAILED, "it is not part of the mesh")
    why = device.why or view.telemetry.of(device.id).why_silent
    emulated = device.description.fingerprint.emulated
    note = f"÷{emulated.slowdown:g}" if emulated else ""
    return PlacementColumn(name, tier, name, device.state, why, note)


def _others(view: View, names: list[str], tier: str) -> PlacementColumn:
    devices = [d for n in names if (d := view.fleet.named(n)) is not None]
    bad = [d for d in devices if d.state is not DeviceState.READY]
    state = bad[0].state if len(bad) == len(names) else DeviceState.READY
    why = f"{len(bad)} of {len(names)} are not ready" if bad else ""
    return PlacementColumn(f"{tier}/others", tier, f"{len(names)} more", state, why)


# --- rows and cards ----------------------------------------------------------------------------------------------


def _rows(fleet: Fleet, digest: str | None, plan: Plan) -> list[StageRow]:
    source = fleet.workflows.get(digest or "")
    if source is None:
        return [StageRow(name, "") for name in dict.fromkeys(r.stage for r in plan.replicas)]
    workflow = parsed(source.text)
    used = {r.stage for r in plan.replicas}
    return [
        StageRow(name, stage.kind, str(getattr(stage, "model", "")))
        for name, stage in workflow.stages.items()
        if name in used
    ]


def _variant(catalogue: Catalogue | None, replica: Replica) -> Variant | None:
    """The variant that a replica serves, where it is known."""
    of_stage = catalogue.variants.get(replica.stage, {}) if catalogue is not None else {}
    return of_stage.get(replica.variant or "")


def _card(
    view: View, replica: Replica, column: str, live: ReplicaStatus | None, variant: Variant | None
) -> Card:
    return Card(
        id=replica.id,
        stage=replica.stage,
        column=column,
        variant=replica.variant or "",
        precision=variant.precision if variant is not None else "",
        batch_size=(live.batch_size if live is not None else None) or replica.batch_size,
        items_per_second=live.items_per_second if live is not None else None,
        predicted_items_per_second=replica.items_per_second,
        busy=live.busy if live is not None else None,
        predicted_busy=replica.utilization,
        device_time=live.device_time if live is not None else EMPTY,
        predicted_p95_ms=_profiled_p95_ms(view, replica, variant),
        waiting=(live.waiting if live is not None else None) or 0,
        errors=(live.errors if live is not None else None) or 0,
    )


def _profiled_p95_ms(view: View, replica: Replica, variant: Variant | None) -> float | None:
    """What 95 % of its batches took when they were measured on its device, in milliseconds."""
    device = view.fleet.named(replica.device)
    if device is None or variant is None:
        return None
    profile = view.fleet.profile(device, variant.digest)
    points = profile.points if profile is not None else ()
    of_size = [p for p in points if p.batch_size == replica.batch_size]
    point = max(of_size, key=lambda p: p.threads, default=None)
    return 1_000 * point.seconds.p95 if point is not None else None


def _add(cell: list[Card], card: Card, card_of: dict[str, str]) -> None:
    """Put a card into its cell; in a column of several devices it joins the card of its variant."""
    if card.column.endswith("/others"):
        for i, other in enumerate(cell):
            if other.variant == card.variant:
                cell[i] = _joined(other, card)
                card_of[card.id] = other.id
                return
    cell.append(card)
    card_of[card.id] = card.id


def _joined(a: Card, b: Card) -> Card:
    count = a.replicas + 1
    known = a.items_per_second is not None or b.items_per_second is not None
    return Card(
        id=a.id,
        stage=a.stage,
        column=a.column,
        variant=a.variant,
        precision=a.precision,
        batch_size=max(a.batch_size, b.batch_size),
        items_per_second=(a.items_per_second or 0) + (b.items_per_second or 0) if known else None,
        predicted_items_per_second=a.predicted_items_per_second + b.predicted_items_per_second,
        busy=_mean(a.busy, b.busy, count),
        predicted_busy=_mean(a.predicted_busy, b.predicted_busy, count) or 0.0,
        device_time=merged((a.device_time, b.device_time)),
        predicted_p95_ms=max(
            (p for p in (a.predicted_p95_ms, b.predicted_p95_ms) if p is not None), default=None
        ),
        waiting=a.waiting + b.waiting,
        errors=a.errors + b.errors,
        replicas=count,
    )


def _mean(of_others: float | None, one: float | None, count: int) -> float | None:
    if of_others is None or one is None:
        return of_others if one is None else one
    return (of_others * (count - 1) + one) / count


# --- links -------------------------------------------------------------------------------------------------------


def _edges(fleet: Fleet, digest: str | None, rows: Sequence[StageRow]) -> list[tuple[str, str]]:
    source = fleet.workflows.get(digest or "")
    if source is None:
        names = [row.name for row in rows]
        return list(pairwise(names))
    return parsed(source.text).edges


def _links(
    plan: Plan,
    edges: Iterable[tuple[str, str]],
    card_of: Mapping[str, str],
    throughput_rps: float | None,
) -> list[CardLink]:
    edges = list(edges)
    shares: defaultdict[tuple[str, str], float] = defaultdict(float)
    for lane in plan.lanes:
        for before, after in edges:
            ends = card_of.get(lane.path.get(before, "")), card_of.get(lane.path.get(after, ""))
            if ends[0] is not None and ends[1] is not None:
                shares[ends[0], ends[1]] += lane.share
    return [
        CardLink(a, b, share, None if throughput_rps is None else throughput_rps * share)
        for (a, b), share in sorted(shares.items())
    ]
