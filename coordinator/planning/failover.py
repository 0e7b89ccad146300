"""Plans that go on when any one device is lost (N-1).

For each device class that a plan uses there is a scenario: one device of it is gone, the others are those that the
plan pays for and what it has loaded, and the degraded asks hold with rates and flows of the scenario's own. Scenarios
are added as plans are found to need them, since few of them decide. What only a scenario uses is part of the plan as
a replica on standby.

A device to which a source is pinned is not lost alone: the requests that begin there are lost with it. A provider's
functions are not lost: they may take over, and are paid for then. The latency asked holds while nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from coordinator.planning.draft import Draft
from coordinator.planning.exact import Found, read_off
from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Instance
from coordinator.planning.lanes import Spot
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.solver import Effort, Program, Solution, solve
from tiermesh.documents.problem import Asks, Degraded

NEEDED: Final = 1e-7


def search(instance: Instance, options: Options) -> Found | None:
    """The best plan that survives the loss of any one device; None where there is none."""
    effort = Effort(options.time_limit_s, options.gap, options.threads, options.watch)
    solved = solve_surviving(lambda: Formulation(instance, options), effort)
    if solved is None:
        return None
    formulation, solution = solved
    draft = with_standby(read_off(formulation, solution), formulation, solution)
    return Found(draft, solution.objective, solution.bound, solution.termination)


def solve_surviving(
    make: Callable[[], Formulation], effort: Effort
) -> tuple[Formulation, Solution] | None:
    """Solve what `make` makes, scenarios added as they are needed; None where there is no solution.

    Without `any_device_lost` among the asks there are no scenarios.
    """
    lost: list[int] = []
    while True:
        formulation = make()
        if not formulation.strands:
            return None
        degraded = formulation.asks.any_device_lost
        for index in lost:
            _embed(formulation, index, degraded or Degraded())
        watch = effort.watch.for_bounds() if degraded else effort.watch
        solution = solve(formulation.program, replace(effort, watch=watch))
        if not solution.found:
            return None
        missing = _not_survived(formulation, solution, degraded, lost) if degraded else []
        if not missing:
            effort.watch.know(objective=solution.objective)
            return formulation, solution
        lost += missing


def with_standby(draft: Draft, formulation: Formulation, solution: Solution) -> Draft:
    """The draft with the replicas that only the loss of a device calls upon."""
    degraded = formulation.asks.any_device_lost
    if degraded is None:
        return draft
    serving = {(s.candidate.stage, s.candidate.variant, s.device) for _, s in draft.rates()}
    ready: dict[tuple[str, str | None, str], Spot] = {}
    for spot in _standby(formulation, solution, degraded):
        key = (spot.candidate.stage, spot.candidate.variant, spot.device)
        if key not in serving:
            ready.setdefault(key, spot)
    return replace(draft, standby=tuple(ready.values()))


def _losable(formulation: Formulation, solution: Solution) -> list[int]:
    """The classes of which the plan uses a device that may be lost."""
    used: dict[int, float] = {}
    for (index, _), column in formulation.columns.used.items():
        used[index] = used.get(index, 0.0) + solution.values[column]
    classes = formulation.instance.classes
    return [
        i
        for i, n in used.items()
        if n > 0.5 and not classes[i].serverless and not formulation.instance.pinned_to(classes[i])
    ]


def _not_survived(
    formulation: Formulation, solution: Solution, degraded: Degraded, known: Sequence[int]
) -> list[int]:
    return [
        index
        for index in _losable(formulation, solution)
        if index not in known and not _alone(formulation, solution, index, degraded).found
    ]


def _scenario(formulation: Formulation, degraded: Degraded) -> Formulation:
    """The program of what must hold afterwards; nothing of it is paid for."""
    asks = formulation.asks
    least = degraded.accuracy_at_least
    after = Asks(
        accuracy_at_least=asks.accuracy_at_least if least is None else least,
        every_request=asks.every_request,
    )
    rules = replace(formulation.options, objective=PlanObjective.COST)
    free = msgspec.structs.replace(formulation.instance.problem.terms, churn_per_start=0.0)
    problem = msgspec.structs.replace(formulation.instance.problem, terms=free)
    scenario = Formulation(replace(formulation.instance, problem=problem), rules, asks=after)
    program, theta = scenario.program, scenario.columns.theta
    program.lower[theta] = program.upper[theta] = degraded.rate_share
    program.cost = [0.0] * len(program.cost)
    for column in scenario.columns.used.values():
        program.integer[column] = False
    for column in (*scenario.columns.loaded.values(), *scenario.columns.present.values()):
        program.integer[column] = False
    return scenario


def _alone(formulation: Formulation, solution: Solution, lost: int, degraded: Degraded) -> Solution:
    """The scenario with the devices and what they have loaded as a solution has them."""
    scenario = _scenario(formulation, degraded)
    values, program = solution.values, scenario.program
    for key, column in scenario.columns.used.items():
        count = round(values[formulation.columns.used[key]])
        program.lower[column] = 0.0
        program.upper[column] = max(count - (key[0] == lost and count > 0), 0)
    for name in ("loaded", "present"):
        mine: dict[int, int] = getattr(scenario.columns, name)
        theirs: dict[int, int] = getattr(formulation.columns, name)
        for i, column in mine.items():
            if i in theirs:
                program.upper[column] = round(values[theirs[i]])
    return solve(program, Effort(watch=formulation.options.watch.for_nothing()))


def _embed(formulation: Formulation, lost: int, degraded: Degraded) -> None:
    """Add a scenario's program to the plan's, tied by the devices and by what they have loaded."""
    scenario = _scenario(formulation, degraded)
    program, offset = formulation.program, len(formulation.program.cost)
    _append(program, scenario.program, offset)
    for key, column in scenario.columns.used.items():
        paid = formulation.columns.used[key]
        program.lower[column + offset] = 0.0
        gone = _gone(formulation, paid) if key[0] == lost else []
        program.row([(column + offset, 1.0), (paid, -1.0), *gone], upper=0.0)
    for i, column in scenario.columns.loaded.items():
        program.row([(column + offset, 1.0), (formulation.load(i), -1.0)], upper=0.0)
    for i, column in scenario.columns.present.items():
        program.row([(column + offset, 1.0), (formulation.present(i), -1.0)], upper=0.0)


def _gone(formulation: Formulation, paid: int) -> list[tuple[int, float]]:
    """A column that is 1 where any device is used, so that one of them is gone."""
    program = formulation.program
    any_used = program.column(upper=1.0, integer=True)
    program.row([(paid, 1.0), (any_used, -program.upper[paid])], upper=0.0)
    return [(any_used, 1.0)]


def _append(program: Program, other: Program, offset: int) -> None:
    program.lower += other.lower
    program.upper += other.upper
    program.cost += other.cost
    program.integer += other.integer
    program.rows += [
        ([(i + offset, coefficient) for i, coefficient in terms], low, high)
        for terms, low, high in other.rows
    ]


def _standby(formulation: Formulation, solution: Solution, degraded: Degraded) -> tuple[Spot, ...]:
    """What scenarios serve with: every used device of a candidate's class holds it ready."""
    instance, found = formulation.instance, dict[Spot, None]()
    for lost in _losable(formulation, solution):
        outcome = _alone(formulation, solution, lost, degraded)
        for number, candidate in enumerate(instance.candidates):
            rate = outcome.values[formulation.columns.rate[number]] if outcome.found else 0.0
            if rate <= NEEDED:
                continue
            key = (candidate.device_class, formulation.slot(candidate))
            count = round(solution.values[formulation.columns.used[key]])
            for name in instance.classes[candidate.device_class].members[:count]:
                found[Spot(name, candidate)] = None
    return tuple(found)
