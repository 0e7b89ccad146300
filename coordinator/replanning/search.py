"""Looking for a plan for the problem of now: as it is asked, or else with less confidence, or else at a lower rate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from coordinator.planning import Options, PlanObjective, solve
from coordinator.planning.margin import most_confident
from coordinator.replanning.current_problem import asked_rate
from coordinator.replanning.reasons import Policy
from coordinator.replanning.switching import SwitchDecision, worth
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.errors import Infeasible

CONFIDENCES: Final = (0.6, 0.8, 0.9)
"""Those that are tried where the one asked is out of reach: two of them, since time is short."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do with it. `degraded` says how the plan falls short of what is asked."""

    plan: Plan | None
    verdict: SwitchDecision
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

    Where no plan meets every ask, confidence gives way first: a smaller margin may do. Then the rate does: what comes
    late is still served, by and by, while a wrong answer, or raw data in the wrong place, cannot be made good. `stale`
    are devices that serve another generation than the running plan's, so that it must be rolled out again in any case.
    """
    found, degraded = _best(problem, options)
    if found is None:
        return Finding(None, SwitchDecision(False, "these devices cannot serve it at any rate"))
    verdict = worth(problem, running, found, policy)
    if verdict.replace and not degraded and (told := _less_confident(problem, options, found)):
        verdict = SwitchDecision(True, f"{verdict.why}; {told}")
    if stale and running is not None and not verdict.replace:
        told = f"{', '.join(sorted(stale))} must be brought to the running plan's generation"
        return Finding(found, SwitchDecision(True, told), degraded)
    return Finding(found, verdict, degraded)


def _best(problem: Problem, options: Options) -> tuple[Plan | None, str]:
    plan = _feasible(problem, options)
    if plan is not None:
        return plan, ""
    careless = replace(options, margin=False)
    asked = options.confidence or problem.asks.confidence
    if asked is not None and options.margin:
        plan = _feasible(problem, careless)
        if plan is not None:
            found = most_confident(
                lambda c: _feasible(problem, replace(options, confidence=c)), asked, CONFIDENCES
            )
            return (found[1] if found is not None else plan), ""
    plan = _feasible(problem, replace(careless, objective=PlanObjective.THROUGHPUT))
    if plan is None:
        return None, ""
    served, offered = plan.predicted.throughput_rps, asked_rate(problem)
    return plan, f"{served:.4g} of the {offered:.4g} requests a second that are asked"


def _feasible(problem: Problem, options: Options) -> Plan | None:
    try:
        return solve(problem, options, explain=False)
    except Infeasible:
        return None


def _less_confident(problem: Problem, options: Options, plan: Plan) -> str:
    """That a plan has less confidence than is asked; empty where it has not."""
    asked = options.confidence or problem.asks.confidence
    if asked is None or not options.margin or (plan.margin and plan.margin.confidence >= asked):
        return ""
    reached = f"{plan.margin.confidence:.0%}" if plan.margin is not None else "no margin"
    return f"with {reached} instead of {asked:.0%} confidence: no plan meets the SLO with more"
