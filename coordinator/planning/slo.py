"""Plans that keep end-to-end percentiles.

Percentiles do not add, so no linear program holds them. The program is given a budget for the longest way and a load
that no device may exceed; the plan that comes out is checked, by the estimate and then by simulation; where it
misses, the budget is cut and the program solved again. Lower loads are tried in turn, since a dearer fleet that
queues less may be the only one that is quick enough. The bound is the optimum without the latency asked, which no
plan can beat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from coordinator.planning import assemble, exact, survive
from coordinator.planning.delay import bound_delay
from coordinator.planning.exact import Found, read_off
from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Instance, build
from coordinator.planning.options import Objective, Options
from coordinator.planning.simulate import Load, Served, simulate
from coordinator.planning.solver import Effort, Termination
from coordinator.planning.survive import solve_surviving, with_standby
from tiermesh.documents.problem import Problem

LEVELS: Final = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
"""How busy a device may be, the cheapest first."""
CUTS: Final = 5
LEAST_CUT: Final = 1.1
MOST_CUT: Final = 1.7
SIMULATED: Final = 200
"""Plans with more replicas than this are checked by the estimate alone."""
REQUESTS: Final = 3000
BETTER: Final = 1e-6
LEAST_GAP: Final = 1e-4


@dataclass(frozen=True)
class Checked:
    """A plan found, with the percentiles (seconds) it was seen to have and its worst ratio to what is asked."""

    found: Found
    latency_s: Mapping[str, float]
    worst: float


def search(problem: Problem, options: Options, levels: Sequence[float] = LEVELS) -> Checked | None:
    """The best plan within the latency asked; the quickest one where that is the objective."""
    plain = build(problem, exclusive=options.exclusive)
    priced = replace(options, objective=_within(options.objective))
    lossless = problem.asks.any_device_lost is None
    loose = (exact if lossless else survive).search(plain, priced)
    if loose is None:
        return None
    if options.objective is not Objective.LATENCY:
        checked = check(loose, problem.asks.latency_s)
        if checked.worst <= 1:
            return checked
    instance = build(problem, exclusive=options.exclusive, delays=True)
    best: Checked | None = None
    for busy in levels:
        best = _at_level(instance, options, busy, best)
        if best is not None and loose.objective > 0 and not _better(loose, best.found):
            break
    if best is None:
        return None
    if options.objective is Objective.LATENCY:
        seconds = best.latency_s[_aimed_at(problem)]
        return replace(best, found=replace(best.found, objective=seconds))
    return replace(best, found=replace(best.found, bound=loose.bound))


def _within(objective: Objective) -> Objective:
    return Objective.COST if objective is Objective.LATENCY else objective


def _at_level(
    instance: Instance, options: Options, busy: float, best: Checked | None
) -> Checked | None:
    """The best of what is known and what devices that are at most `busy` can do."""
    asked = instance.problem.asks.latency_s
    quickest = options.objective is Objective.LATENCY
    budget = min(asked.values(), default=LONGEST_S)
    for _ in range(CUTS):
        found = _within_budget(instance, options, busy, budget)
        if found is None or (best is not None and not quickest and not _better(found, best.found)):
            return best
        checked = check(found, asked)
        if quickest and checked.worst <= 1:
            return checked if best is None or _quicker(checked, best) else best
        if checked.worst <= 1:
            return checked
        budget = min(budget, _longest(found)) / min(max(checked.worst, LEAST_CUT), MOST_CUT)
    return best


LONGEST_S: Final = 600.0


def _better(a: Found, b: Found) -> bool:
    return a.objective < b.objective - BETTER * (1 + abs(b.objective))


def _aimed_at(problem: Problem) -> str:
    """The percentile to make small: the one asked, or p95."""
    return next(iter(problem.asks.latency_s), "p95")


def _quicker(a: Checked, b: Checked) -> bool:
    name = _aimed_at(a.found.draft.instance.problem)
    return a.latency_s[name] < b.latency_s[name]


def _longest(found: Found) -> float:
    return found.longest_s if found.longest_s is not None else math.inf


def _within_budget(
    instance: Instance, options: Options, busy: float, budget: float
) -> Found | None:
    longest: dict[Formulation, int] = {}

    def make() -> Formulation:
        formulation = Formulation(instance, options, busy_at_most=busy)
        longest[formulation] = column = bound_delay(formulation, budget, busy)
        program = formulation.program
        if options.objective is Objective.LATENCY:
            program.cost = [0.0] * len(program.cost)
        if not any(program.cost):
            program.cost[column] = 1.0
        return formulation

    limit = options.time_limit_s / len(LEVELS)
    effort = Effort(limit, max(options.gap, LEAST_GAP), options.threads)
    solved = solve_surviving(make, effort)
    if solved is None:
        return None
    formulation, solution = solved
    draft = with_standby(read_off(formulation, solution), formulation, solution)
    way = solution.values[longest[formulation]]
    return Found(draft, solution.objective, None, Termination.FEASIBLE, way)


def check(found: Found, asked: Mapping[Any, float]) -> Checked:
    """Estimate a plan's percentiles; where it is small and has a steady state, simulate them."""
    draft = found.draft
    latency_ms: Mapping[str, float] = assemble.predicted(draft).latency_ms  # pyright: ignore[reportAssignmentType]
    replicas = assemble.replicas(draft)
    if len(replicas) <= SIMULATED and not assemble.saturated(draft, OVERLOADED):
        served = Served(
            replicas=replicas,
            lanes=assemble.lanes(draft),
            rate_rps=draft.instance.request_rate * draft.scale,
        )
        latency_ms = simulate(draft.instance.problem, served, Load(requests=REQUESTS)).latency_ms
    seconds = {name: ms / 1e3 for name, ms in latency_ms.items()}
    worst = max((seconds.get(name, 0.0) / limit for name, limit in asked.items()), default=0.0)
    return Checked(found, seconds, worst)


OVERLOADED: Final = 0.97
"""A device this busy settles too slowly for a short simulation: the estimate's long tail is the safer figure."""
