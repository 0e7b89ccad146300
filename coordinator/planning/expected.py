"""What a plan's requests would see if batches take what was measured lately, not what was profiled. Pure.

Profiles are measured alone, minutes or months before a plan serves. What replicas take just before they serve, or
while they do, corrects the prediction; the plan stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec.structs import replace

from coordinator.planning.simulate import Load, simulate
from tiermesh.documents.plan import Plan, Predicted
from tiermesh.documents.problem import Problem, ProblemProfile

DRAWS: Final = 4
REQUESTS: Final = 3_000

Key: TypeAlias = tuple[str, str | None, str]
"""A stage, its variant and its device, by name."""


def ratios(problem: Problem, plan: Plan, batch_seconds: Mapping[str, float]) -> dict[Key, float]:
    """Measured over profiled device time of the replicas that were measured.

    `batch_seconds` are mean device seconds of a batch of the planned size, by replica id.
    """
    profiles = {(p.stage, p.variant, p.device): p for p in problem.profiles}
    found: dict[Key, float] = {}
    for replica in plan.replicas:
        key = (replica.stage, replica.variant, replica.device)
        seconds, profile = batch_seconds.get(replica.id), profiles.get(key)
        planned = _mean_s(profile, replica.batch_size) if profile is not None else None
        if seconds is not None and planned:
            found[key] = seconds / planned
    return found


def expected(problem: Problem, plan: Plan, slower: Mapping[Key, float]) -> Predicted:
    """The plan's prediction with device times multiplied by `slower` where that is known.

    Latencies are those of the plan played through, the mean of `DRAWS` draws of `REQUESTS` requests.
    """
    scaled = replace(
        problem,
        profiles=[
            _scaled(p, slower.get((p.stage, p.variant, p.device), 1.0)) for p in problem.profiles
        ],
    )
    outcomes = [
        simulate(scaled, plan, Load(requests=REQUESTS, seed=seed + 1)) for seed in range(DRAWS)
    ]
    latency = {
        name: sum(outcome.latency_ms[name] for outcome in outcomes) / DRAWS
        for name in outcomes[0].latency_ms
    }
    return replace(plan.predicted, latency_ms=latency)


def _mean_s(profile: ProblemProfile, size: int) -> float | None:
    return next((b.mean for b in profile.batches if b.batch_size == size), None)


def _scaled(profile: ProblemProfile, factor: float) -> ProblemProfile:
    batches = [
        replace(
            batch,
            mean=batch.mean * factor,
            percentiles={name: seconds * factor for name, seconds in batch.percentiles.items()},
        )
        for batch in profile.batches
    ]
    return replace(profile, batches=batches)
