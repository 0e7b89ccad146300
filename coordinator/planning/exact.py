"""The exact strategy: solve the program, settle the continuous part, read the plan off."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.planning import lanes
from coordinator.planning.assemble import Draft
from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Instance
from coordinator.planning.options import Options
from coordinator.planning.solver import Effort, Solution, Termination, solve


@dataclass(frozen=True)
class Found:
    """A draft with its proof: a bound on the objective (minimised) and why the search ended."""

    draft: Draft
    bound: float | None
    termination: Termination


def search(instance: Instance, options: Options) -> Found | None:
    """The best plan within the time limit; None where there is none, or none was found."""
    formulation = Formulation(instance, options)
    if not formulation.strands:
        return None
    effort = Effort(options.time_limit_s, options.gap, options.threads)
    solution = solve(formulation.program, effort)
    if not solution.found:
        return None
    return Found(read_off(formulation, solution), solution.bound, solution.termination)


def read_off(formulation: Formulation, solution: Solution) -> Draft:
    """The draft of a solution.

    Integers are rounded first and the rest solved again, so that nothing is a solver's tolerance off.
    """
    program = formulation.program
    settled = solve(program.fix(program.integers(solution.values)), Effort())
    values = (settled if settled.found else solution).values
    scale = values[formulation.columns.theta]
    return Draft(formulation.instance, lanes.cut(formulation, values), scale)
