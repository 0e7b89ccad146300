"""What the running plan is expected to do now: played through with device times as they are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coordinator.drift import Drift, Key, Ratio, corrected_problem, key_of
from coordinator.replanning.situation import asked_rate
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem

REQUESTS: Final = 2_000
CLOSE: Final = 0.1
"""Corrections that are nearer to each other than this make no difference worth telling."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A corrected prediction: latencies in milliseconds, and by replica what its profile was multiplied by."""

    latency_ms: Mapping[str, float]
    rate_rps: float
    corrections: Mapping[str, Ratio]

    def __str__(self) -> str:
        """As people are told."""
        latencies = ", ".join(f"{name} {ms:.0f} ms" for name, ms in self.latency_ms.items())
        times = ", ".join(f"{replica} {ratio}" for replica, ratio in self.corrections.items())
        return f"expected now {latencies}; measured over profiled device time: {times or 'as profiled'}"


def expected(problem: Problem, plan: Plan, drifts: Mapping[Key, Drift]) -> Expected:
    """The prediction of a plan for a problem, corrected by what its replicas are measured to take.

    Plays `REQUESTS` requests through, which takes tenths of a second: not for an event loop.
    """
    from coordinator.planning.simulate import Load, Served, simulate

    corrected = corrected_problem(problem, worth_correcting(drifts))
    rate = asked_rate(problem)
    served = Served(replicas=plan.replicas, lanes=plan.lanes, rate_rps=rate)
    found = simulate(corrected, served, Load(requests=REQUESTS))
    return Expected(found.latency_ms, rate, corrections_of(plan, drifts))


def worth_correcting(drifts: Mapping[Key, Drift]) -> dict[Key, Drift]:
    """Those that are off their profile for sure."""
    return {k: d for k, d in drifts.items() if d.overall is not None and d.overall.differs()}


def corrections_of(plan: Plan, drifts: Mapping[Key, Drift]) -> dict[str, Ratio]:
    """By replica, what its device times are corrected by."""
    worth = worth_correcting(drifts)
    found = {r.id: worth[key_of(r)].overall for r in plan.replicas if key_of(r) in worth}
    return {replica: ratio for replica, ratio in found.items() if ratio is not None}


def is_close(one: Mapping[str, Ratio], other: Mapping[str, Ratio]) -> bool:
    """Whether two sets of corrections say the same, but for what nobody would notice."""
    if one.keys() != other.keys():
        return False
    return all(abs(one[r].ratio / other[r].ratio - 1) < CLOSE for r in one)
