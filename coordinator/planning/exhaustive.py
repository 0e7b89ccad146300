"""The exhaustive strategy: every choice of devices and variants, one linear program each.

For small problems only, as an oracle: devices are kept apart, so neither the grouping into classes and sites nor the
solver's branching is trusted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Branch, Instance
from coordinator.planning.options import Options
from coordinator.planning.solver import Effort, Solution, solve
from tiermesh.errors import LimitExceeded

CASES: Final = 1 << 14


def search(instance: Instance, options: Options) -> tuple[Formulation, Solution] | None:
    """The best solution over all cases; None where no case has one.

    Raises:
        LimitExceeded: more than `CASES` cases.
    """
    best: tuple[Formulation, Solution] | None = None
    effort = Effort(watch=options.watch.for_nothing())
    for branches in _groups(instance, options):
        formulation = Formulation(instance, options, branches)
        for fixed in _cases(formulation):
            solution = solve(formulation.program.fix(fixed), effort)
            if solution.found and (best is None or solution.objective < best[1].objective):
                best = (formulation, solution)
    return best


def _groups(instance: Instance, options: Options) -> Iterator[Sequence[Branch]]:
    if options.single_variant:
        yield from ([branch] for branch in instance.branches)
    else:
        yield instance.branches


def _cases(formulation: Formulation) -> Iterator[dict[int, float]]:
    """Every value of every integer column."""
    program = formulation.program
    columns = [i for i, whole in enumerate(program.integer) if whole]
    spans = [range(int(program.lower[i]), int(program.upper[i]) + 1) for i in columns]
    count = math.prod(len(span) for span in spans)
    if count > CASES:
        raise LimitExceeded(
            f"there are {count} cases to go through",
            why=f"the limit is {CASES}",
            fix="Use the exact strategy: it proves the same optimum without looking at each case",
        )
    for values in itertools.product(*spans):
        yield dict(zip(columns, map(float, values), strict=True))
