"""The end-to-end accuracy of each combination of variants: from a table, or composed of operators' profiles.

Composition follows JellyBean (arXiv 2205.04713, section 4): the accuracy of an operator's output is a function of
the accuracies of its inputs, known at samples. Between samples it is interpolated linearly; beyond them nothing is
known, and the combination is not used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from tiermesh.documents.problem import (
    Accuracy,
    AccuracySample,
    OperatorAccuracy,
    Problem,
    ProblemEdge,
)
from tiermesh.errors import LimitExceeded

COMBINATIONS: Final = 20_000
SAME: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Combo:
    """A choice of variants for the stages on which accuracy, rates or bytes depend, and its accuracy."""

    variants: dict[str, str]
    accuracy: float | None = None


def combinations(problem: Problem) -> list[Combo]:
    """All combinations whose accuracy is known, each with the variants of every stage that decides something."""
    known = _known(problem)
    named = set(known[0].variants) if known else set[str]()
    ladders = {s.name: s.variants for s in problem.stages if len(s.variants) > 1}
    free = [name for edge in problem.edges for name in _deciding(edge) if name in ladders]
    extra = [name for name in dict.fromkeys(free) if name not in named]
    count = len(known) * math.prod(len(ladders[name]) for name in extra)
    if count > COMBINATIONS:
        raise LimitExceeded(
            f"the problem has {count} combinations of variants",
            why=f"the limit is {COMBINATIONS}",
            fix="Offer fewer variants of the stages whose accuracy, ratio or bytes differ by variant",
        )
    choices = [
        dict(zip(extra, c, strict=True)) for c in itertools.product(*(ladders[n] for n in extra))
    ]
    return [Combo(row.variants | choice, row.accuracy) for row in known for choice in choices]


def _deciding(edge: ProblemEdge) -> list[str]:
    """The stages of an edge whose variant changes what it carries."""
    source = edge.ratio_by_variant or edge.bytes_by_variant
    source = source or any(row.source_variant is not None for row in edge.by_variants)
    target = any(row.target_variant is not None for row in edge.by_variants)
    return [name for name, here in ((edge.source, source), (edge.target, target)) if here]


def _known(problem: Problem) -> list[Combo]:
    if problem.accuracy is None:
        return [Combo({})]
    offered = {s.name: set(s.variants) for s in problem.stages}
    rows = [
        Combo(dict(row.variants), row.accuracy)
        for row in problem.accuracy.table
        if all(v in offered[s] for s, v in row.variants.items())
    ]
    return rows if problem.accuracy.table else compose(problem.accuracy)


def compose(accuracy: Accuracy) -> list[Combo]:
    """The accuracy of every combination that the operators' samples reach."""
    if not accuracy.operators:
        return [Combo({})]
    ladders = [(op, list(op.samples)) for op in accuracy.operators]
    count = math.prod(len(variants) for _, variants in ladders)
    if count > COMBINATIONS:
        raise LimitExceeded(
            f"the operators have {count} combinations of variants",
            why=f"the limit is {COMBINATIONS}",
        )
    combos: list[Combo] = []
    for choice in itertools.product(*(variants for _, variants in ladders)):
        value = _end_to_end(accuracy.operators, choice)
        if value is not None:
            chosen = {op.stage: v for op, v in zip(accuracy.operators, choice, strict=True)}
            combos.append(Combo(chosen, value))
    return combos


def _end_to_end(operators: Sequence[OperatorAccuracy], choice: Sequence[str]) -> float | None:
    values: dict[str, float] = {}
    for operator, variant in zip(operators, choice, strict=True):
        inputs = [values[name] for name in operator.inputs]
        value = interpolate(operator.samples[variant], inputs)
        if value is None:
            return None
        values[operator.stage] = value
    return values[operators[-1].stage]


def interpolate(samples: Sequence[AccuracySample], at: Sequence[float]) -> float | None:
    """The samples' piecewise linear interpolation `at` a point; None outside their convex hull."""
    for sample in samples:
        if all(abs(a - b) <= SAME * (1 + abs(b)) for a, b in zip(at, sample.inputs, strict=True)):
            return sample.output
    if len(at) == 1:
        return _between(samples, at[0])
    return _in_hull(samples, at) if at else samples[0].output


def _between(samples: Sequence[AccuracySample], at: float) -> float | None:
    points = sorted((s.inputs[0], s.output) for s in samples)
    if not points[0][0] <= at <= points[-1][0]:
        return None
    return float(np.interp(at, [x for x, _ in points], [y for _, y in points]))


def _in_hull(samples: Sequence[AccuracySample], at: Sequence[float]) -> float | None:
    from scipy import interpolate as scipy_interpolate
    from scipy.spatial import QhullError

    points = np.array([s.inputs for s in samples])
    outputs = np.array([s.output for s in samples])
    try:
        surface: Any = cast(Any, scipy_interpolate).LinearNDInterpolator(
            points, outputs, rescale=True
        )
        value = float(surface(np.array([at]))[0])
    except (QhullError, ValueError):
        return None
    return None if math.isnan(value) else value
