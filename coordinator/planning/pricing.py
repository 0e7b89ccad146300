"""What a plan's margin costs: the plan without any, and those with other confidences."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from msgspec.structs import replace as changed

from coordinator.planning.margin import LADDER
from coordinator.planning.options import Options
from tiermesh.documents.plan import ConfidencePrice, Plan
from tiermesh.documents.problem import Problem
from tiermesh.errors import Infeasible

EFFORT_S: Final = 5.0
"""For all prices together; those that are left then are left out."""
GAP: Final = 1e-3


def priced(problem: Problem, plan: Plan, options: Options) -> Plan:
    """The plan with the price of its margin, and of its neighbours on the ladder of confidences.

    A plan without margin stays as it is.
    """
    margin = plan.margin
    if margin is None:
        return plan
    until = time.perf_counter() + EFFORT_S
    frontier: list[ConfidencePrice] = []
    for confidence in neighbours(margin.confidence):
        left = until - time.perf_counter()
        if left <= 0:
            break
        cost = plan.cost.total_per_hour
        if confidence != margin.confidence:
            cost = _cost(problem, options, confidence, left)
        frontier.append(ConfidencePrice(confidence=confidence, total_per_hour=cost))
    without = next((p.total_per_hour for p in frontier if p.confidence is None), None)
    price = None if without is None else plan.cost.total_per_hour - without
    return changed(plan, margin=changed(margin, price_per_hour=price, frontier=_ordered(frontier)))


def neighbours(confidence: float) -> list[float | None]:
    """None at all, then the confidence itself and the next ones above and below it."""
    above = [c for c in LADDER if c > confidence][:1]
    below = [c for c in LADDER if 0.5 < c < confidence][-1:]
    return [None, confidence, *above, *below]


def _cost(
    problem: Problem, options: Options, confidence: float | None, limit_s: float
) -> float | None:
    from coordinator.planning import planner

    asked = replace(
        options,
        confidence=confidence,
        margin=confidence is not None,
        frontier=False,
        intervals=False,
        gap=max(options.gap, GAP),
        time_limit_s=min(options.time_limit_s, limit_s),
        watch=options.watch.for_nothing(),
    )
    try:
        return planner.solve(problem, asked, explain=False).cost.total_per_hour
    except Infeasible:
        return None


def _ordered(frontier: Sequence[ConfidencePrice]) -> list[ConfidencePrice]:
    return sorted(frontier, key=lambda p: p.confidence or 0.0)
