"""The problem as it is now: the load as it is offered, device times as they are measured, and what runs already."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec.structs import replace

from coordinator.replanning.reasons import Policy
from coordinator.telemetry.drift import scaled
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, ProblemProfile, ProblemStage, RunningReplica


def with_rate(problem: Problem, rate_rps: float) -> Problem:
    """The problem when its sources together offer `rate_rps` requests a second, in proportion to what they say."""
    asked = asked_rate(problem)
    if asked <= 0 or rate_rps <= 0:
        return problem
    return _stages(problem, lambda s: _scaled(s, rate_rps / asked))


def asked_rate(problem: Problem) -> float:
    """What the sources offer: each request enters at every one of them."""
    return max((s.rate_rps or 0.0 for s in problem.stages if s.kind == "source"), default=0.0)


def with_running(problem: Problem, running: Plan | None, policy: Policy) -> Problem:
    """The problem with the price of leaving what runs.

    Each replica that must start costs a share of what the running plan costs. Where nothing costs anything, churn
    costs nothing either, and `switching` decides alone.
    """
    if running is None:
        return problem
    price = policy.start_price_share * running.cost.total_per_hour
    return replace(
        problem,
        terms=replace(problem.terms, churn_per_start=price),
        running=[
            RunningReplica(stage=r.stage, variant=r.variant, device=r.device)
            for r in running.replicas
        ],
    )


def slower(problem: Problem, devices: Collection[str], factor: float) -> Problem:
    """The problem when batches on some devices (by name) take `factor` times as long."""

    def of(profile: ProblemProfile) -> ProblemProfile:
        if profile.device not in devices:
            return profile
        return replace(profile, batches=[scaled(batch, factor) for batch in profile.batches])

    return replace(problem, profiles=[of(profile) for profile in problem.profiles])


def _stages(problem: Problem, change: Callable[[ProblemStage], ProblemStage]) -> Problem:
    return replace(problem, stages=[change(stage) for stage in problem.stages])


def _scaled(stage: ProblemStage, factor: float) -> ProblemStage:
    if stage.rate_rps is None:
        return stage
    return replace(stage, rate_rps=stage.rate_rps * factor)
