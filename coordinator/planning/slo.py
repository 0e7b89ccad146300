"""Plans that keep end-to-end percentiles.

Percentiles do not add, so no linear program holds them. The program is given a budget for the longest way and a load
that no device may exceed; the plan that comes out is checked, by the estimate and then by simulation; where it
misses, the budget is cut and the program solved again. Lower loads are tried in turn, since a dearer fleet that
queues less may be the only one that is quick enough. The bound is the optimum without the latency asked, which no
plan can beat. With a margin, percentiles are checked with device times at its quantile, all at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from msgspec import structs

from coordinator.planning import assemble, overflow
from coordinator.planning.building import build
from coordinator.planning.candidates import Choosing
from coordinator.planning.delay import bound_delay
from coordinator.planning.draft import Draft
from coordinator.planning.exact import Found, read_off
from coordinator.planning.failover import solve_surviving, with_standby
from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Instance
from coordinator.planning.lanes import Spot
from coordinator.planning.margin import DeviceTimeMargin
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.search_progress import SearchObserver
from coordinator.planning.simulate import PlayedPlan, SimulatedLoad, simulate
from coordinator.planning.solver import Effort, Termination
from tiermesh.documents.problem import Problem

LEVELS: Final = (0.9, 0.75, 0.6, 0.45, 0.3, 0.15)
"""How busy a device may be, the cheapest first."""
CUTS: Final = 5
HALVINGS: Final = 3
LEAST_CUT: Final = 1.1
MOST_CUT: Final = 1.7
SIMULATED: Final = 200
"""Plans with more replicas than this are checked by the estimate alone."""
REQUESTS: Final = 3000
BRIEFLY: Final = 400
"""Requests that tell whether a plan with margin misses by far."""
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
    quickest = options.objective is PlanObjective.LATENCY
    watch = options.watch.for_nothing() if quickest else options.watch
    within = _within(options.objective)
    loose = overflow.search(problem, replace(options, objective=within, watch=watch.for_bounds()))
    if loose is None:
        return None
    searching = _Search(problem, replace(options, watch=watch.for_nothing()), loose, watch)
    if not quickest and searching.loosely():
        return searching.best
    searching.through(levels)
    best = searching.best
    if best is None:
        return None
    if quickest:
        seconds = best.latency_s[_aimed_at(problem)]
        return replace(best, found=replace(best.found, objective=seconds))
    return replace(best, found=replace(best.found, bound=loose.bound))


def _within(objective: PlanObjective) -> PlanObjective:
    return PlanObjective.COST if objective is PlanObjective.LATENCY else objective


class _Search:
    """Goes through levels of load; `best` is the best plan that kept what is asked, `loose` the one without the ask.

    `watch` is told of each best plan; what programs find on the way there need not be one.
    """

    def __init__(
        self, problem: Problem, options: Options, loose: Found, watch: SearchObserver
    ) -> None:
        self.best: Checked | None = None
        self._problem, self._options, self._loose = problem, options, loose
        self._watch = watch
        self._asked = problem.asks.latency_s
        self._quickest = options.objective is PlanObjective.LATENCY
        self._shares = overflow.shares_of(loose.draft)
        self._known: dict[object, Checked] = {}
        self._margin = DeviceTimeMargin.of(problem, options)

    def loosely(self) -> bool:
        """Whether the plan without the ask keeps it, and nothing can be better."""
        checked = self._check(self._loose)
        if checked.worst > 1:
            return False
        self._keep(checked)
        return self._loose.proved or not self._shares

    def through(self, levels: Sequence[float]) -> None:
        """Try the levels, the highest first, until none can be better; where functions help, those in between."""
        reached = None
        for busy in levels:
            before = self.best
            self._at(busy)
            reached = busy if self.best is not before else reached
            if (
                self.best is not None
                and self._loose.objective > 0
                and not self._may_win(self._loose)
            ):
                break
        if reached is not None and self._loose.draft.instance.serverless:
            self._between(reached, min((x for x in levels if x > reached), default=1.0))

    def _between(self, low: float, high: float) -> None:
        """How much functions take follows from the level, so that one in between may be cheaper."""
        for _ in range(HALVINGS):
            busy, before = (low + high) / 2, self.best
            self._at(busy)
            low, high = (low, busy) if self.best is before else (busy, high)

    def _at(self, busy: float) -> None:
        """What devices that are at most `busy` can do, within a budget that is cut while percentiles miss."""
        instance, priced = self._instance(busy), self._shares
        budget = min(self._asked.values(), default=LONGEST_S)
        for _ in range(CUTS):
            found = _within_budget(instance, self._options, busy, budget)
            if found is None or not (self._quickest or self._may_win(found)):
                return
            known = len(self._known)
            checked = self._check(overflow.truly_priced(found, self._options))
            if checked.worst <= 1 and (self.best is None or self._wins(checked, self.best)):
                self._keep(checked)
            seen = overflow.shares_of(found.draft)
            if overflow.agree(priced, seen):
                if checked.worst <= 1:
                    return
            else:
                self._shares = priced = {**priced, **seen}
                instance = self._instance(busy)
            if checked.worst > 1:
                least = LEAST_CUT if len(self._known) > known else MOST_CUT
                budget = min(budget, _longest(found)) / min(max(checked.worst, least), MOST_CUT)

    def _keep(self, best: Checked) -> None:
        self.best = best
        self._watch.know(objective=best.found.objective)

    def _instance(self, busy: float) -> Instance:
        choosing = Choosing(busy=busy, shares=self._shares)
        return build(
            self._problem,
            exclusive=self._options.exclusive,
            delays=True,
            choosing=choosing,
            margin=self._margin,
        )

    def _check(self, found: Found) -> Checked:
        """Check a plan, or remember one that serves the same requests with the same settings."""
        self._watch.check()
        lanes = sorted(
            (round(p.share, 4), *((s, x.device, *_setting(x)) for s, x in sorted(p.spots.items())))
            for p in found.draft.pieces
        )
        key = (tuple(lanes), found.draft.scale)
        if key not in self._known:
            self._known[key] = check(found, self._asked, margin=self._margin)
        return replace(self._known[key], found=found)

    def _may_win(self, found: Found) -> bool:
        return self.best is None or _better(found, self.best.found)

    def _wins(self, checked: Checked, best: Checked) -> bool:
        return _quicker(checked, best) if self._quickest else _better(checked.found, best.found)


def _setting(spot: Spot) -> tuple[str, int, float, float]:
    c = spot.candidate
    return c.variant or "", c.batch.batch_size if c.batch else 1, c.timeout_s or 0.0, c.memory_mb


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
        longest[formulation] = column = bound_delay(formulation, budget)
        program = formulation.program
        if options.objective is PlanObjective.LATENCY:
            program.cost = [0.0] * len(program.cost)
        if not any(program.cost):
            program.cost[column] = 1.0
        return formulation

    limit = options.time_limit_s / len(LEVELS)
    effort = Effort(limit, max(options.gap, LEAST_GAP), options.threads, options.watch)
    solved = solve_surviving(make, effort)
    if solved is None:
        return None
    formulation, solution = solved
    draft = with_standby(read_off(formulation, solution), formulation, solution)
    way = solution.values[longest[formulation]]
    return Found(draft, solution.objective, None, Termination.FEASIBLE, way)


def check(
    found: Found, asked: Mapping[Any, float], *, margin: DeviceTimeMargin | None = None
) -> Checked:
    """Estimate a plan's percentiles; where it is small, settles, and may keep what is asked, simulate them.

    The burstier requests come, the longer it is played. Then the estimate, over other arrivals, must keep it as well.
    With a `margin`, all of it with device times at its quantile.
    """
    draft = found.draft
    slow = draft if margin is None else _slowed(draft, margin)
    uneven = draft.requests.unevenness
    plays = len(draft.rates()) <= SIMULATED and not assemble.saturated(draft, OVERLOADED)
    latency_ms: Mapping[str, float] = {}
    estimated = 0.0
    if uneven > 1 or not plays:
        latency_ms = assemble.predicted(slow).latency_ms  # pyright: ignore[reportAssignmentType]
        estimated = _worst(latency_ms, asked)
    if plays and (uneven == 1 or estimated <= HOPELESS):
        latency_ms = _played(slow.instance.problem, served(draft), uneven, asked if margin else {})
    seconds = {name: ms / 1e3 for name, ms in latency_ms.items()}
    return Checked(found, seconds, max(_worst(latency_ms, asked), estimated))


def _played(
    problem: Problem, plan: PlayedPlan, uneven: int, asked: Mapping[Any, float]
) -> Mapping[str, float]:
    """Percentiles in milliseconds; those of a few requests where they miss what is asked by far."""
    if asked:
        brief = simulate(problem, plan, SimulatedLoad(requests=BRIEFLY * uneven)).latency_ms
        if _worst(brief, asked) > HOPELESS:
            return brief
    return simulate(problem, plan, SimulatedLoad(requests=REQUESTS * uneven)).latency_ms


def served(draft: Draft) -> PlayedPlan:
    """The part of a draft that is played."""
    return PlayedPlan(
        replicas=assemble.replicas(draft),
        lanes=assemble.lanes(draft),
        rate_rps=draft.instance.request_rate * draft.scale,
    )


def _slowed(draft: Draft, margin: DeviceTimeMargin) -> Draft:
    """The same plan on devices that are as slow as it allows for; its timeouts are settled already."""
    classes = tuple(
        replace(c, like=structs.replace(c.like, usable_share=1.0)) for c in draft.instance.classes
    )
    instance = replace(draft.instance, problem=margin.slowed, classes=classes)
    return replace(draft, instance=instance, frugal=False)


def _worst(latency_ms: Mapping[str, float], asked: Mapping[Any, float]) -> float:
    return max((latency_ms.get(n, 0.0) / 1e3 / limit for n, limit in asked.items()), default=0.0)


HOPELESS: Final = 1.3
"""A plan that is estimated to miss by so much is not played, or not to the end."""
OVERLOADED: Final = 0.97
"""A device this busy settles too slowly for a short simulation: the estimate's long tail is the safer figure."""
