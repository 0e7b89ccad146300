"""How much slower devices must be for a plan to miss its SLO as it does, where nothing measured explains it. Pure."""

from __future__ import annotations

from typing import Final

from coordinator.replanning.current_problem import slower
from coordinator.replanning.switching import shortfalls
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem

FACTORS: Final = (1.0, 1.15, 1.3, 1.6, 2.0, 2.5, 4.0, 6.0, 10.0)


def inflation(problem: Problem, plan: Plan) -> float:
    """The least factor on the device times of a plan's devices with which it falls short of what is asked.

    1 where `problem`, with all that is measured, explains the miss. It may take a second: not for an event loop.
    """
    return next(
        (f for f in FACTORS if shortfalls(slower(problem, devices_of(plan), f), plan)), FACTORS[-1]
    )


def devices_of(plan: Plan) -> frozenset[str]:
    """The devices that a plan uses, by name."""
    return frozenset(replica.device for replica in plan.replicas)
