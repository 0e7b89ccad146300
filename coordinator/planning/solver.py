"""The one module that knows the solver: a mixed-integer program in, its best solution and bound out.

PuLP builds the model and HiGHS solves it; CBC, bundled with PuLP, takes over where HiGHS is not installed. Both are
asked for what PuLP's status hides: whether a time limit stopped them, and the bound that they had proved by then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import pulp

from coordinator.planning.search_progress import UNWATCHED, SearchBounds, SearchObserver

Terms = Sequence[tuple[int, float]]

SNAP: Final = 1e-6
"""How far from an integer a solver's integer value may be."""


def engine_name() -> str:
    """The engine that `solve` uses here."""
    return "highs" if _Highs(msg=False).available() else "cbc"


class Termination(StrEnum):
    """Why the search ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Solution:
    """What the solver found. `values` by column, empty where nothing was found; `bound` is None where unknown.

    `duals` by row (of a linear program): by how much the objective rises per unit of the row's bound.
    """

    termination: Termination
    values: tuple[float, ...] = ()
    objective: float = math.nan
    bound: float | None = None
    duals: tuple[float, ...] = ()

    @property
    def found(self) -> bool:
        """Whether there is a solution at all."""
        return bool(self.values)


@dataclass(frozen=True, slots=True)
class Effort:
    """When to stop: seconds, relative gap, and how many threads may work. `watch` follows an integer program."""

    time_limit_s: float = math.inf
    gap: float = 0.0
    threads: int = 1
    watch: SearchObserver = UNWATCHED


@dataclass(slots=True)
class Program:
    """Minimise a linear function of columns within bounds, subject to rows; some columns are integers."""

    lower: list[float] = field(default_factory=list[float])
    upper: list[float] = field(default_factory=list[float])
    cost: list[float] = field(default_factory=list[float])
    integer: list[bool] = field(default_factory=list[bool])
    rows: list[tuple[Terms, float, float]] = field(default_factory=list[tuple[Terms, float, float]])

    def column(
        self,
        *,
        lower: float = 0.0,
        upper: float = math.inf,
        cost: float = 0.0,
        integer: bool = False,
    ) -> int:
        """Add a column; returns its index."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.cost.append(cost)
        self.integer.append(integer)
        return len(self.cost) - 1

    def row(self, terms: Terms, *, lower: float = -math.inf, upper: float = math.inf) -> int:
        """Add `lower <= sum of coefficient x column <= upper`; returns the row's index."""
        self.rows.append((terms, lower, upper))
        return len(self.rows) - 1

    def equal(self, terms: Terms, value: float = 0.0) -> int:
        """Add a row whose two bounds are equal."""
        return self.row(terms, lower=value, upper=value)

    def fix(self, values: Mapping[int, float]) -> Program:
        """A copy in which the columns given have the values given, and need not be integers any more."""
        copy = Program(
            list(self.lower), list(self.upper), list(self.cost), list(self.integer), list(self.rows)
        )
        for column, value in values.items():
            copy.lower[column] = copy.upper[column] = value
            copy.integer[column] = False
        return copy

    def relax(self) -> Program:
        """A copy in which no column need be an integer."""
        return Program(self.lower, self.upper, self.cost, [False] * len(self.cost), self.rows)

    def integers(self, values: Sequence[float]) -> dict[int, float]:
        """The values of the integer columns, rounded to integers."""
        return {i: float(round(values[i])) for i, whole in enumerate(self.integer) if whole}


def solve(
    program: Program, effort: Effort | None = None, start: Mapping[int, float] | None = None
) -> Solution:
    """Solve `program`; `start` gives values of (some) columns of a known solution.

    Raises:
        Stopped: by `effort.watch`. HiGHS is stopped within; CBC only before it begins.
    """
    effort = effort or Effort()
    watch, mip = effort.watch, any(program.integer)
    watch.check()
    model, columns = _to_pulp(program)
    engine = _engine(effort, dict(start or {}), mip=mip)
    model.solve(engine)  # pyright: ignore[reportUnknownMemberType]
    watch.check()
    solution = _read(model, columns, engine, program)
    if mip:
        watch.know(solution.objective if solution.found else None, solution.bound)
    return solution


def _to_pulp(program: Program) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
    model = pulp.LpProblem("plan", pulp.LpMinimize)
    columns = [
        model.add_variable(
            f"x{i:07d}",
            None if math.isinf(low) else low,
            None if math.isinf(high) else high,
            pulp.LpInteger if whole else pulp.LpContinuous,
        )
        for i, (low, high, whole) in enumerate(
            zip(program.lower, program.upper, program.integer, strict=True)
        )
    ]
    priced = [(columns[i], c) for i, c in enumerate(program.cost) if c]
    model.setObjective(  # pyright: ignore[reportUnknownMemberType]
        pulp.LpAffineExpression(priced)
    )
    for number, row in enumerate(program.rows):
        _add_row(model, columns, f"r{number:07d}", row)
    return model, columns


def _add_row(
    model: pulp.LpProblem,
    columns: list[pulp.LpVariable],
    name: str,
    row: tuple[Terms, float, float],
) -> None:
    terms, low, high = row
    total: dict[pulp.LpVariable, float] = {}
    for i, coefficient in terms:
        total[columns[i]] = total.get(columns[i], 0.0) + coefficient
    expression = pulp.LpAffineExpression(total)
    sides = {"": (pulp.LpConstraintEQ, low)}
    if low != high:
        sides = {"": (pulp.LpConstraintGE, low), "u": (pulp.LpConstraintLE, high)}
    for suffix, (sense, bound) in sides.items():
        if not math.isinf(bound):
            model.addConstraint(  # pyright: ignore[reportUnknownMemberType]
                pulp.LpConstraint(expression, sense, name + suffix, bound)
            )


class _Highs(pulp.HiGHS):
    """PuLP's HiGHS with a start, a fixed seed, and one run whatever the machine's load; it can be followed."""

    start: dict[int, float]
    watch: SearchObserver

    def callSolver(self, lp: Any) -> None:  # noqa: N802 - PuLP's name
        if self.start:
            order = {int(variable.name[1:]): variable.index for variable in lp.variables()}
            known = [(order[i], value) for i, value in self.start.items() if i in order]
            columns, values = [i for i, _ in known], [value for _, value in known]
            lp.solverModel.setSolution(len(columns), columns, values)
        following = _Following(self.watch)
        if self.watch != UNWATCHED:
            following.follow(lp.solverModel)
        super().callSolver(lp)  # pyright: ignore[reportUnknownMemberType]
        if following.raised is not None:
            raise following.raised


class _Following:
    """Passes on what HiGHS says while it works, and stops it. Nothing may be raised through its C++."""

    def __init__(self, watch: SearchObserver) -> None:
        self._watch = watch
        self._told = SearchBounds()
        self.raised: BaseException | None = None

    def follow(self, model: Any) -> None:
        """Have HiGHS call often enough: it looks for interruptions at every node, and every few iterations."""
        callbacks: Any = pulp.HiGHS.hscb
        kinds = callbacks.HighsCallbackType
        model.setCallback(self._called, None)
        for kind in (
            kinds.kCallbackMipInterrupt,
            kinds.kCallbackSimplexInterrupt,
            kinds.kCallbackIpmInterrupt,
        ):
            model.startCallback(kind)
        self._mip = kinds.kCallbackMipInterrupt

    def _called(self, kind: Any, _message: str, said: Any, answer: Any, _data: object) -> None:
        try:
            self._watch.check()
            if kind == self._mip:
                self._tell(said.mip_primal_bound, said.mip_dual_bound)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C, too; raised again below HiGHS
            self.raised = self.raised or error
            answer.user_interrupt = True

    def _tell(self, objective: float, bound: float) -> None:
        known = SearchBounds(_finite(objective), _finite(bound))
        if known != self._told:
            self._told = known
            self._watch.know(known.objective, known.bound)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _engine(effort: Effort, start: dict[int, float], *, mip: bool) -> Any:
    limit = None if math.isinf(effort.time_limit_s) else max(effort.time_limit_s, 0.05)
    if not _Highs(msg=False).available():
        return _cbc(effort, limit, mip=mip)
    engine = _Highs(
        msg=False,
        timeLimit=limit,
        gapRel=effort.gap,
        threads=effort.threads,
        mip=mip,
        random_seed=1,
        mip_feasibility_tolerance=1e-7,
    )
    engine.start, engine.watch = start, effort.watch
    return engine


def _cbc(effort: Effort, limit: float | None, *, mip: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PuLP 4 drops it; we stay below 4
        return pulp.PULP_CBC_CMD(
            msg=False, mip=mip, timeLimit=limit, gapRel=effort.gap, threads=effort.threads
        )


_TERMINATIONS: Final = {
    pulp.LpSolutionOptimal: Termination.OPTIMAL,
    pulp.LpSolutionIntegerFeasible: Termination.FEASIBLE,
    pulp.LpSolutionInfeasible: Termination.INFEASIBLE,
    pulp.LpSolutionUnbounded: Termination.UNBOUNDED,
    pulp.LpSolutionNoSolutionFound: Termination.UNKNOWN,
}


def _read(
    model: pulp.LpProblem, columns: list[pulp.LpVariable], engine: Any, program: Program
) -> Solution:
    status: int = model.sol_status  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    termination = _TERMINATIONS[status]
    bound = _bound(model, engine, mip=any(program.integer))
    if termination not in (Termination.OPTIMAL, Termination.FEASIBLE):
        return Solution(termination, bound=bound)
    values = tuple(_snap(c.varValue or 0.0, i, program) for i, c in enumerate(columns))
    if termination is Termination.FEASIBLE and not _holds(program, values):
        return Solution(Termination.UNKNOWN, bound=bound)
    objective = math.fsum(c * v for c, v in zip(program.cost, values, strict=True))
    if bound is None and termination is Termination.OPTIMAL:
        bound = objective - engine.optionsDict.get("gapRel", 0.0) * abs(objective)
    return Solution(termination, values, objective, bound, _duals(model, program))


def _duals(model: pulp.LpProblem, program: Program) -> tuple[float, ...]:
    prices = {c.name: float(c.pi or 0.0) for c in model.constraints()}
    names = (f"r{number:07d}" for number in range(len(program.rows)))
    return tuple(prices.get(name, prices.get(name + "u", 0.0)) for name in names)


def _snap(value: float, column: int, program: Program) -> float:
    if program.integer[column] and abs(value - round(value)) <= SNAP:
        return float(round(value))
    return min(max(value, program.lower[column]), program.upper[column])


def _bound(model: pulp.LpProblem, engine: Any, *, mip: bool) -> float | None:
    """The proved lower bound; PuLP does not pass it on, so HiGHS itself is asked."""
    if not isinstance(engine, _Highs):
        return None
    if not mip:
        return None
    highs: Any = model.solverModel
    bound = float(highs.getInfo().mip_dual_bound)
    return bound if math.isfinite(bound) else None


def _holds(program: Program, values: Sequence[float]) -> bool:
    """Whether values satisfy the rows: a solver that was stopped may hold none and leave numbers behind."""
    for terms, low, high in program.rows:
        total = math.fsum(coefficient * values[i] for i, coefficient in terms)
        slack = 1e-5 * (1.0 + max((abs(c * values[i]) for i, c in terms), default=0.0))
        if not low - slack <= total <= high + slack:
            return False
    return all(
        abs(v - round(v)) <= 10 * SNAP
        for v, whole in zip(values, program.integer, strict=True)
        if whole
    )
