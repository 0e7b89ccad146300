"""Looking for a plan for the problem of now: as it is asked, or else at the highest rate that can be reached."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from coordinator.planning import Objective, Options, solve
from coordinator.replanning.reasons import Policy
from coordinator.replanning.situation import asked_rate
from coordinator.replanning.worth import Verdict, worth
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.errors import Infeasible


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do with it. `degraded` says how the plan falls short of what is asked."""

    plan: Plan | None
    verdict: Verdict
    degraded: str = ""


def search(
    problem: Problem,
    running: Plan | None,
    options: Options,
    policy: Policy,
    *,
    stale: Collection[str] = (),
) -> Finding:
    """The best plan for a problem, and whether it replaces the running one.

    Where no plan meets every ask, the rate is what gives way: what comes late is still served, by and by, while a
    wrong answer, or raw data in the wrong place, cannot be made good. `stale` are devices that serve another
    generation than the running plan's, so that it must be rolled out again in any case.
    """
    found, degraded = _best(problem, options)
    if found is None:
        return Finding(None, Verdict(False, "these devices cannot serve it at any rate"))
    verdict = worth(problem, running, found, policy)
    if stale and running is not None and not verdict.replace:
        told = f"{', '.join(sorted(stale))} must be brought to the running plan's generation"
        return Finding(found, Verdict(True, told), degraded)
    return Finding(found, verdict, degraded)


def _best(problem: Problem, options: Options) -> tuple[Plan | None, str]:
    try:
        return solve(problem, options, explain=False), ""
    except Infeasible:
        pass
    try:
        plan = solve(problem, replace(options, objective=Objective.THROUGHPUT), explain=False)
    except Infeasible:
        return None, ""
    served, asked = plan.predicted.throughput_rps, asked_rate(problem)
    return plan, f"{served:.4g} of the {asked:.4g} requests a second that are asked"
