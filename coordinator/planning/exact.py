"""The exact strategy: solve the program, settle the continuous part, read the plan off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from coordinator.planning import exhaustive, greedy, lanes
from coordinator.planning.building import build
from coordinator.planning.candidates import PLAINLY, Choosing
from coordinator.planning.continuous import settle
from coordinator.planning.draft import Draft
from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Instance
from coordinator.planning.margin import DeviceTimeMargin
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.relaxation import Relaxation, applies
from coordinator.planning.solver import Effort, Solution, Termination, solve
from tiermesh.documents.problem import Problem
from tiermesh.errors import LimitExceeded

PROVED: Final = 1e-6
GREEDY_S: Final = 5.0
"""Seconds for each linear program of the greedy plan that an early stop falls back on."""
MANY: Final = 64
"""With more combinations than this, those worth the full program are found by the relaxation first."""


@dataclass(frozen=True)
class Found:
    """A draft with its proof: a bound on the objective (minimised) and why the search ended.

    `longest_s` is the mean time of the longest way, where the search counted it.
    """

    draft: Draft
    objective: float
    bound: float | None
    termination: Termination
    longest_s: float | None = None

    @property
    def gap(self) -> float:
        """The relative gap; infinite without a bound."""
        if self.bound is None:
            return math.inf
        return (self.objective - self.bound) / max(abs(self.objective), PROVED)

    @property
    def proved(self) -> bool:
        """Whether nothing better can be left."""
        tolerance = PROVED * (1 + abs(self.objective))
        return self.bound is not None and self.objective - self.bound <= tolerance


def search(instance: Instance, options: Options) -> Found | None:
    """The best plan within the time limit; None where there is none, or none was found."""
    if not instance.branches:
        return None
    effort = Effort(options.time_limit_s, options.gap, options.threads, options.watch)
    if len(instance.branches) > MANY and applies(instance):
        found = _narrow(instance, options, effort)
    else:
        formulation = Formulation(instance, options)
        solution = solve(formulation.program, effort)
        found = _found(formulation, solution, solution.bound, solution.termination)
    if found is not None and found.proved:
        return found
    return _no_worse_than_greedy(instance, options, found)


def _no_worse_than_greedy(
    instance: Instance, options: Options, found: Found | None
) -> Found | None:
    """What was found when the search was stopped, unless the greedy plan is better."""
    greedily = greedy.search(instance, options, _greedy_effort(options, GREEDY_S))
    if greedily is None:
        return found
    formulation, solution = greedily
    if found is None:
        return Found(
            read_off(formulation, solution), solution.objective, None, Termination.FEASIBLE
        )
    if solution.objective >= found.objective:
        return found
    return replace(found, draft=read_off(formulation, solution), objective=solution.objective)


def search_greedily(instance: Instance, options: Options) -> Found | None:
    """The greedy plan, with the bound of the program without integers."""
    if not instance.branches:
        return None
    effort = _greedy_effort(options, options.time_limit_s)
    greedily = greedy.search(instance, options, effort)
    if greedily is None:
        return None
    program = Relaxation if len(instance.branches) > MANY and applies(instance) else Formulation
    relaxed = solve(program(instance, options).program.relax(), effort)
    bound = relaxed.objective if relaxed.found else None
    options.watch.know(bound=bound)
    formulation, solution = greedily
    draft = read_off(formulation, solution)
    return Found(draft, solution.objective, bound, Termination.FEASIBLE)


def _greedy_effort(options: Options, time_limit_s: float) -> Effort:
    return Effort(time_limit_s, 0.0, options.threads, options.watch.for_plans())


def search_exhaustively(problem: Problem, options: Options) -> Found | None:
    """The best of all cases, devices kept apart; of functions, at their settings for all requests."""
    found = _exhausted(problem, options, PLAINLY)
    if found is None or not found.draft.instance.serverless:
        return found
    floor = _exhausted(problem, options, Choosing(floor=True))
    return replace(found, bound=floor.objective if floor is not None else None)


def _exhausted(problem: Problem, options: Options, choosing: Choosing) -> Found | None:
    margin = DeviceTimeMargin.of(problem, options)
    instance = build(
        problem, exclusive=options.exclusive, apart=True, choosing=choosing, margin=margin
    )
    best = exhaustive.search(instance, options)
    if best is None:
        return None
    formulation, solution = best
    draft = read_off(formulation, solution)
    return Found(draft, solution.objective, solution.objective, Termination.OPTIMAL)


def _found(
    formulation: Formulation, solution: Solution, bound: float | None, termination: Termination
) -> Found | None:
    if not solution.found:
        return None
    return Found(read_off(formulation, solution), solution.objective, bound, termination)


def _narrow(instance: Instance, options: Options, effort: Effort) -> Found | None:
    """Bound by the relaxation, then solve for the combinations that it uses; all of them where that falls short."""
    relaxation = Relaxation(instance, options)
    watch = effort.watch
    part = Effort(effort.time_limit_s / 3, effort.gap / 2, effort.threads, watch)
    loose = solve(relaxation.program, replace(part, watch=watch.for_bounds()))
    if loose.termination is Termination.INFEASIBLE:
        return None
    found, counts = None, dict[tuple[int, str], float]()
    if loose.found:
        formulation = Formulation(instance, options, relaxation.used(loose.values))
        solution = solve(formulation.program, replace(part, watch=watch.for_plans()))
        found = _found(formulation, solution, loose.bound, solution.termination)
        if solution.found:
            counts = {key: solution.values[c] for key, c in formulation.columns.used.items()}
    if found is not None and found.gap <= max(effort.gap, PROVED):
        return found
    try:
        formulation = Formulation(instance, options)
    except LimitExceeded:
        if found is None:
            raise
        return found
    start = {c: counts[key] for key, c in formulation.columns.used.items() if counts}
    return _better(found, formulation, solve(formulation.program, part, start))


def _better(found: Found | None, formulation: Formulation, solution: Solution) -> Found | None:
    """The better plan of the two, with the better bound."""
    bounds = [b for b in (solution.bound, found.bound if found else None) if b is not None]
    bound = max(bounds, default=None)
    if found is not None and not (solution.found and solution.objective < found.objective):
        return replace(found, bound=bound)
    return _found(formulation, solution, bound, solution.termination)


def read_off(formulation: Formulation, solution: Solution) -> Draft:
    """The draft of a solution."""
    values = settle(formulation, solution)
    scale = values[formulation.columns.theta]
    return Draft(
        formulation.instance, lanes.cut(formulation, values), scale, frugal=_frugal(formulation)
    )


def _frugal(formulation: Formulation) -> bool:
    """Whether it is the time that devices work that counts, and not only that they have enough of it."""
    asked = formulation.asks.watts_at_most is not None
    priced = formulation.instance.problem.terms.price_per_kwh > 0
    return asked or priced or formulation.options.objective is PlanObjective.POWER
