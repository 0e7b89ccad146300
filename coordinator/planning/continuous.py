"""The continuous part of a plan, once its integers are known.

Many plans cost the same. Among them the one is taken whose busiest device is least busy, and then the one that
needs the least time per request: queues are shorter, and where nothing costs anything this is what decides.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from coordinator.planning.formulation import Formulation
from coordinator.planning.solver import Effort, Program, Solution, solve

TOLERANCE: Final = 1e-9
LARGEST: Final = 20_000
"""Programs with more columns than this are not balanced: the second solve would take as long as the first."""
BALANCE: Final = Effort(time_limit_s=3.0, gap=0.01)


def settle(formulation: Formulation, solution: Solution) -> Sequence[float]:
    """The values of the plan to read off: integers exact, devices evenly busy."""
    program = formulation.program
    values = solution.values
    effort = Effort(watch=formulation.options.watch.for_nothing())
    fixed = solve(program.fix(program.integers(values)), effort)
    values = fixed.values if fixed.found else values
    if len(program.cost) > LARGEST:
        return values
    balanced = solve(_balancing(formulation, values), replace(BALANCE, watch=effort.watch))
    if not balanced.found:
        return values
    whole = program.integers(balanced.values)
    again = _balancing(formulation, balanced.values)
    final = solve(again.fix(whole), effort)
    return (final if final.found else balanced).values[: len(program.cost)]


def _balancing(formulation: Formulation, values: Sequence[float]) -> Program:
    """The program that asks for the same objective with the least busy devices."""
    program = formulation.program
    free = not any(program.cost)
    counts = {
        column: program.upper[column] if free else float(round(values[column]))
        for column in formulation.columns.used.values()
    }
    balance = program.fix(counts if free else program.integers(values))
    paid = [(i, c) for i, c in enumerate(program.cost) if c]
    if paid:
        reached = math.fsum(c * values[i] for i, c in paid)
        balance.row(paid, upper=reached + TOLERANCE * (1 + abs(reached)))
    theta = values[formulation.columns.theta]
    if balance.upper[formulation.columns.theta] > 1:
        balance.lower[formulation.columns.theta] = theta * (1 - TOLERANCE)
    balance.cost = [0.0] * len(balance.cost)
    _charge_time(formulation, balance, theta)
    _charge_fullest(formulation, balance, counts)
    return balance


def _charge_time(formulation: Formulation, balance: Program, theta: float) -> None:
    """Seconds per request: of devices, and on the way."""
    instance = formulation.instance
    requests = max(instance.request_rate * theta, TOLERANCE)
    for candidate, column in zip(instance.candidates, formulation.columns.rate, strict=True):
        balance.cost[column] += candidate.seconds / requests
    for (_, _, source, target), column in formulation.columns.flow.items():
        link = instance.link(instance.sites[source], instance.sites[target])
        balance.cost[column] += link.rtt_ms / 2e3 / max(theta, TOLERANCE)


def _charge_fullest(formulation: Formulation, balance: Program, counts: dict[int, float]) -> None:
    """A column above every device's part of its usable share, at the price of a typical request's time."""
    instance = formulation.instance
    typical = math.fsum(
        min((c.seconds for c in candidates), default=0.0)
        * max((b.rates[stage] for b in formulation.branches), default=0.0)
        for stage, candidates in instance.by_stage.items()
    )
    fullest = balance.column(cost=10 * typical / max(instance.request_rate, TOLERANCE))
    loads: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for candidate, rate in zip(instance.candidates, formulation.columns.rate, strict=True):
        if candidate.seconds > 0:
            key = (candidate.device_class, formulation.slot(candidate))
            loads[formulation.columns.used[key]].append((rate, candidate.booked_s))
    for (index, _), column in formulation.columns.used.items():
        share = instance.classes[index].like.usable_share
        if loads[column] and counts[column] > 0 and share > 0:
            balance.row([*loads[column], (fullest, -share * counts[column])], upper=0.0)
