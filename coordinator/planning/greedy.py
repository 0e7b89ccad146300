"""The greedy strategy: beam search over variants, then stage by stage, tier by tier, the cheapest device next.

It is our own form of what JellyBean does (arXiv 2205.04713, section 5): quick, and as good as its order of choices.
It serves as the baseline, and as the plan to fall back on when the exact search is stopped early.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Branch, Candidate, Instance
from coordinator.planning.network import gib_per_hour
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.solver import Effort, Solution, solve

BEAM: Final = 10
EPSILON: Final = 1e-9


class Order(Enum):
    """Which tiers a stage tries first."""

    CHEAPEST = 0
    LOWEST = 1
    HIGHEST = -1


@dataclass
class _Opened:
    """Devices opened so far: how many of each class and slot, and the device time left on them."""

    counts: defaultdict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    spare: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    sites: dict[str, set[int]] = field(default_factory=dict[str, set[int]])


def search(
    instance: Instance, options: Options, effort: Effort
) -> tuple[Formulation, Solution] | None:
    """The best greedy plan over the beam and the orders, as a solution of its program; None where all fail."""
    best: tuple[Formulation, Solution] | None = None
    for branch in beam(instance, options):
        formulation = Formulation(instance, options, [branch])
        seen: set[tuple[tuple[tuple[int, str], int], ...]] = set()
        for order in Order:
            counts = allocate(formulation, branch, order)
            key = tuple(sorted(counts.items())) if counts is not None else ()
            if counts is None or key in seen:
                continue
            seen.add(key)
            solution = _settle(formulation, counts, effort)
            if solution.found and (
                best is None or solution.objective < best[1].objective - EPSILON
            ):
                best = (formulation, solution)
                effort.watch.know(objective=solution.objective)
    return best


def _settle(
    formulation: Formulation, counts: dict[tuple[int, str], int], effort: Effort
) -> Solution:
    """The best rates and flows on the devices opened."""
    lower = formulation.program.lower
    fixed = {
        column: max(float(counts.get(key, 0)), lower[column])
        for key, column in formulation.columns.used.items()
    }
    return solve(formulation.program.fix(fixed), effort)


# --- variants ----------------------------------------------------------------------------------------------------


def beam(instance: Instance, options: Options) -> list[Branch]:
    """Up to `BEAM` combinations that meet the accuracy asked, the cheapest to compute first.

    Stages are decided one after the other; a partial choice stays while some combination that meets the accuracy
    extends it, and while it is among the cheapest.
    """
    asked = instance.problem.asks.accuracy_at_least
    left = [b for b in instance.branches if _meets(b, asked)]
    if options.objective is PlanObjective.ACCURACY:
        return sorted(left, key=lambda b: -(b.combo.accuracy or 0.0))[:BEAM]
    stages = list(instance.branches[0].combo.variants) if instance.branches else []
    partial: dict[tuple[str, ...], list[Branch]] = {(): left}
    for stage in stages:
        grown: defaultdict[tuple[str, ...], list[Branch]] = defaultdict(list)
        for chosen, branches in partial.items():
            for branch in branches:
                grown[*chosen, branch.combo.variants[stage]].append(branch)
        decided = stages[: stages.index(stage) + 1]
        ranked = sorted(grown.items(), key=lambda item: _least_cost(instance, item[1][0], decided))
        partial = dict(ranked[:BEAM])
    return [branch for branches in partial.values() for branch in branches][:BEAM]


def _meets(branch: Branch, asked: float | None) -> bool:
    return asked is None or (branch.combo.accuracy is not None and branch.combo.accuracy >= asked)


def _least_cost(instance: Instance, branch: Branch, stages: Iterable[str]) -> float:
    """What the stages would cost on the device class that is cheapest per item for each."""
    total = 0.0
    for stage in stages:
        if stage not in instance.by_stage:
            continue
        prices = [
            _price_per_second(instance, c) * c.seconds + c.usd_per_item * 3600
            for c in _candidates(instance, branch, stage)
        ]
        total += branch.rates[stage] * min(prices, default=math.inf)
    return total


def _price_per_second(instance: Instance, candidate: Candidate) -> float:
    like = instance.classes[candidate.device_class].like
    return (like.price_per_hour + EPSILON) / max(like.usable_share, EPSILON)


def _candidates(instance: Instance, branch: Branch, stage: str) -> Iterator[Candidate]:
    variant = instance.variant_in(branch, stage)
    for candidate in instance.by_stage[stage]:
        if variant is None or candidate.variant == variant:
            yield candidate


# --- devices -----------------------------------------------------------------------------------------------------


def allocate(
    formulation: Formulation, branch: Branch, order: Order
) -> dict[tuple[int, str], int] | None:
    """How many devices of each class and slot to open; None where a stage's rate cannot be met."""
    opened = _Opened()
    for stage in formulation.instance.placed:
        if not _place(formulation, branch, stage, order, opened):
            return None
    return dict(opened.counts)


def _place(
    formulation: Formulation, branch: Branch, stage: str, order: Order, opened: _Opened
) -> bool:
    left = branch.rates[stage]
    opened.sites[stage] = set()
    for candidate in _ranked(formulation, branch, stage, order, opened):
        left -= _take(formulation, candidate, left, opened)
        if left <= EPSILON * (1 + branch.rates[stage]):
            return True
    return left <= EPSILON


def _ranked(
    formulation: Formulation, branch: Branch, stage: str, order: Order, opened: _Opened
) -> list[Candidate]:
    instance = formulation.instance
    reachable = [
        c
        for c in _candidates(instance, branch, stage)
        if _reached(instance, stage, instance.classes[c.device_class].site, opened)
    ]

    def key(candidate: Candidate) -> tuple[float, float]:
        tier = instance.problem.tiers.index(instance.classes[candidate.device_class].like.tier)
        free = opened.spare[candidate.device_class, formulation.slot(candidate)] > EPSILON
        work = 0.0 if free else _price_per_second(instance, candidate) * candidate.seconds
        work += candidate.usd_per_item * 3600
        return order.value * tier, work + _traffic(instance, branch, candidate, opened)

    return sorted(reachable, key=key)


def _reached(instance: Instance, stage: str, site: int, opened: _Opened) -> bool:
    return all(
        instance.link(instance.sites[here], instance.sites[site]).allowed
        for edge in instance.edges
        if edge.target == stage
        for here in opened.sites.get(edge.source, set())
    )


def _traffic(instance: Instance, branch: Branch, candidate: Candidate, opened: _Opened) -> float:
    """The price of the traffic that an item at the candidate's site draws, per item."""
    total = 0.0
    site = instance.sites[instance.classes[candidate.device_class].site]
    for edge in instance.edges:
        if edge.target != candidate.stage:
            continue
        volume = gib_per_hour(instance.bytes_per_second(edge, branch))
        here = opened.sites.get(edge.source)
        if here is None:
            prices = [instance.network.entering(edge.source, site.like).price_per_gib]
        else:
            prices = [instance.link(instance.sites[i], site).price_per_gib for i in here]
        total += volume * sum(prices) / max(len(prices), 1)
    return total / max(branch.rates[candidate.stage], EPSILON)


def _take(formulation: Formulation, candidate: Candidate, wanted: float, opened: _Opened) -> float:
    """Serve up to `wanted` items per second at a candidate, opening devices; returns what it serves."""
    instance = formulation.instance
    device_class = instance.classes[candidate.device_class]
    key = (device_class.index, formulation.slot(candidate))
    share = device_class.like.usable_share
    room = device_class.count - sum(n for (i, _), n in opened.counts.items() if i == key[0])
    needed = max(wanted * candidate.booked_s - opened.spare[key], 0.0)
    more = min(math.ceil(needed / share - EPSILON) if share > 0 else 0, room)
    if candidate.seconds == 0 and opened.counts[key] == 0:
        more = min(1, room)
    opened.counts[key] += more
    opened.spare[key] += more * share
    served = wanted
    if candidate.seconds > 0:
        served = min(wanted, opened.spare[key] / candidate.booked_s)
    elif opened.counts[key] == 0:
        served = 0.0
    opened.spare[key] -= served * candidate.booked_s
    if served > 0:
        opened.sites[candidate.stage].add(device_class.site)
    return served
