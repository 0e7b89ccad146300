"""What changes from one plan to another: what starts, stops and moves, and for which share of the requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tiermesh.documents.plan import Lane, Plan, Replica


@dataclass(frozen=True, kw_only=True)
class Retuned:
    """A replica that stays and changes."""

    id: str
    items_per_second: tuple[float, float]
    batch_size: tuple[int, int]
    batch_timeout_ms: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """From the plan before to the plan after.

    `moved` are (stage, variant, from, to). `rerouted_share` is the share of requests whose replicas change;
    `loads_mb` the memory of all that must be loaded. Costs are the plan after less the plan before, per hour.
    """

    started: list[str]
    stopped: list[str]
    moved: list[tuple[str, str | None, str, str]]
    retuned: list[Retuned]
    rerouted_share: float
    loads_mb: float
    cost_per_hour: float
    accuracy: float | None
    churn_cost_per_hour: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        changed = self.started or self.stopped or self.moved or self.retuned
        return not changed and self.rerouted_share == 0.0


def difference(before: Plan, after: Plan, *, churn_per_start: float = 0.0) -> Difference:
    """Compare two plans. `churn_per_start` prices each replica that must start, in dollars per hour."""
    old, new = ({r.id: r for r in plan.replicas} for plan in (before, after))
    gone = [r for name, r in old.items() if name not in new]
    fresh = [r for name, r in new.items() if name not in old]
    moved, started, stopped = _moves(gone, fresh)
    known = (before.predicted.accuracy, after.predicted.accuracy)
    return Difference(
        started=[r.id for r in started],
        stopped=[r.id for r in stopped],
        moved=moved,
        retuned=[_retuned(old[n], new[n]) for n in new if n in old and _changed(old[n], new[n])],
        rerouted_share=_rerouted(before.lanes, after.lanes),
        loads_mb=sum(r.memory_mb or 0.0 for r in fresh),
        cost_per_hour=after.cost.total_per_hour - before.cost.total_per_hour,
        accuracy=None if known[0] is None or known[1] is None else known[1] - known[0],
        churn_cost_per_hour=len(fresh) * churn_per_start,
    )


def _moves(
    gone: Sequence[Replica], fresh: Sequence[Replica]
) -> tuple[list[tuple[str, str | None, str, str]], list[Replica], list[Replica]]:
    """Pair what stops with what starts of the same stage and variant; the rest starts or stops for good."""
    leaving: defaultdict[tuple[str, str | None], list[Replica]] = defaultdict(list)
    for replica in gone:
        leaving[replica.stage, replica.variant].append(replica)
    moved: list[tuple[str, str | None, str, str]] = []
    started: list[Replica] = []
    for replica in fresh:
        partners = leaving[replica.stage, replica.variant]
        if partners:
            partner = partners.pop(0)
            moved.append((replica.stage, replica.variant, partner.device, replica.device))
        else:
            started.append(replica)
    return moved, started, [r for rest in leaving.values() for r in rest]


RATE_CHANGE = 0.01


def _changed(old: Replica, new: Replica) -> bool:
    rate = abs(new.items_per_second - old.items_per_second) > RATE_CHANGE * max(
        old.items_per_second, new.items_per_second
    )
    batch = (old.batch_size, old.batch_timeout_ms) != (new.batch_size, new.batch_timeout_ms)
    return rate or batch


def _retuned(old: Replica, new: Replica) -> Retuned:
    return Retuned(
        id=new.id,
        items_per_second=(old.items_per_second, new.items_per_second),
        batch_size=(old.batch_size, new.batch_size),
        batch_timeout_ms=(old.batch_timeout_ms, new.batch_timeout_ms),
    )


def _rerouted(before: Sequence[Lane], after: Sequence[Lane]) -> float:
    """The part of [0, 1) whose requests take other replicas: both plans cut it in the order of their lanes."""
    cuts = sorted({*_ends(before), *_ends(after)})
    changed, start = 0.0, 0.0
    for end in cuts:
        middle = (start + end) / 2
        if _at(before, middle) != _at(after, middle):
            changed += end - start
        start = end
    return min(changed, 1.0)


def _ends(lanes: Sequence[Lane]) -> list[float]:
    total, ends = 0.0, list[float]()
    for lane in lanes:
        total += lane.share
        ends.append(round(total, 12))
    return ends


def _at(lanes: Sequence[Lane], position: float) -> dict[str, str]:
    total = 0.0
    for lane in lanes:
        total += lane.share
        if position < total:
            return lane.path
    return lanes[-1].path if lanes else {}
