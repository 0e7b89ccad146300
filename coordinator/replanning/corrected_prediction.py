"""A plan's prediction, corrected: played through with device times as they are measured. Pure.

`predicted` is what a plan says of itself, by profiles. It is corrected twice: before it serves, by what each replica
took in its self-test, and while it serves, by what batches take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from coordinator.fleet import events
from coordinator.replanning.current_problem import asked_rate
from coordinator.telemetry.drift import (
    Drift,
    Key,
    Ratio,
    corrected_problem,
    expected_s,
    key_of,
    means_of,
)
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.workflow import Percentile

REQUESTS: Final = 2_000
MEASURED_ERROR: Final = 0.05
"""Of the mean of some `MEASURED_BATCHES` batches, for a 95 % interval."""
MEASURED_BATCHES: Final = 40
ALIKE: Final = 0.2
"""Predictions that are nearer to each other than this are told once."""
SHOWN: Final[tuple[Percentile, ...]] = ("p50", "p95")
CLOSE: Final = 0.1
"""Corrections that are nearer to each other than this make no difference worth telling."""


@dataclass(frozen=True, slots=True)
class CorrectedPrediction:
    """What a plan is predicted to do with device times as they are measured; latencies in milliseconds, end to end.

    `corrections` is by replica what its profile was multiplied by. `latency_interval_ms` is where latencies lie with
    90 % probability; empty where that is not known.
    """

    latency_ms: Mapping[str, float]
    rate_rps: float
    corrections: Mapping[str, Ratio]
    text: str
    latency_interval_ms: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )

    def event(
        self, *, at: float, who: str, workflow: str, generation: int
    ) -> events.PredictionCorrected:
        """As it is recorded of a generation, at a time in Unix seconds."""
        return events.PredictionCorrected(
            at=at,
            who=who,
            workflow=workflow,
            generation=generation,
            latency_ms=dict(self.latency_ms),
            latency_interval_ms=dict(self.latency_interval_ms),
            text=self.text,
        )


def while_serving(problem: Problem, plan: Plan, drifts: Mapping[Key, Drift]) -> CorrectedPrediction:
    """The prediction of a plan for a problem, corrected by what its replicas are measured to take while they serve.

    Only what is off its profile for sure is corrected, and load is that of the problem. Plays `REQUESTS` requests
    through, which takes tenths of a second: not for an event loop.
    """
    from coordinator.planning.simulate import PlayedPlan, SimulatedLoad, simulate

    corrected, rate = corrected_problem(problem, worth_correcting(drifts)), asked_rate(problem)
    served = PlayedPlan(replicas=plan.replicas, lanes=plan.lanes, rate_rps=rate)
    found = simulate(corrected, served, SimulatedLoad(requests=REQUESTS))
    corrections = corrections_of(plan, drifts)
    latencies = ", ".join(f"{name} {ms:.0f} ms" for name, ms in found.latency_ms.items())
    times = ", ".join(f"{replica} {ratio}" for replica, ratio in corrections.items())
    text = f"expected now {latencies}; measured over profiled device time: {times or 'as profiled'}"
    return CorrectedPrediction(found.latency_ms, rate, corrections, text)


def before_serving(
    problem: Problem, plan: Plan, batch_seconds: Mapping[str, float]
) -> CorrectedPrediction:
    """The prediction of a plan, corrected by what its replicas took when they were measured just before they served.

    `batch_seconds` are mean device seconds of a batch of the planned size, by replica id. All of them correct it,
    since there is nothing better to go by, and it has an interval. Not for an event loop, as `while_serving`.
    """
    from coordinator.planning.draws import intervals_ms
    from coordinator.planning.simulate import PlayedPlan, SimulatedLoad, simulate

    measured = drifts_before_serving(problem, plan, batch_seconds)
    corrected, rate = corrected_problem(problem, measured), plan.predicted.throughput_rps
    served = PlayedPlan(replicas=plan.replicas, lanes=plan.lanes, rate_rps=rate)
    found = [
        simulate(corrected, served, SimulatedLoad(requests=REQUESTS, seed=s)) for s in range(1, 4)
    ]
    latency_ms = {
        name: sum(one.latency_ms[name] for one in found) / len(found)
        for name in found[0].latency_ms
    }
    interval_ms = intervals_ms(corrected, served) if problem.uncertainty is not None else {}
    shown = ", ".join(f"{name} {latency_ms[name]:.0f} ms" for name in SHOWN if name in latency_ms)
    times = ", ".join(_ratios_in_words(measured))
    text = f"expected {shown}; device time before serving over profiled: {times}"
    corrections = corrections_of(plan, measured)
    return CorrectedPrediction(latency_ms, rate, corrections, text, {**interval_ms})


def drifts_before_serving(
    problem: Problem, plan: Plan, batch_seconds: Mapping[str, float]
) -> dict[Key, Drift]:
    """Measured over profiled device time of the replicas that were measured just before they served."""
    profiles = {(p.stage, p.variant, p.device): p for p in problem.profiles}
    found: dict[Key, Drift] = {}
    for replica in plan.replicas:
        profile, seconds = profiles.get(key_of(replica)), batch_seconds.get(replica.id)
        if profile is None or seconds is None or replica.variant is None:
            continue
        planned = expected_s(means_of(profile.batches), replica.batch_size)
        ratio = seconds / planned
        low, high = ratio / (1 + MEASURED_ERROR), ratio * (1 + MEASURED_ERROR)
        found[key_of(replica)] = Drift(Ratio(ratio, low, high, MEASURED_BATCHES), {})
    return found


def _ratios_in_words(measured: Mapping[Key, Drift]) -> Iterator[str]:
    for (stage, _, device), drift in measured.items():
        if drift.overall is not None:
            yield f"{stage}@{device} {drift.overall.ratio:.2f}"


def worth_correcting(drifts: Mapping[Key, Drift]) -> dict[Key, Drift]:
    """Those that are off their profile for sure."""
    return {k: d for k, d in drifts.items() if d.overall is not None and d.overall.differs()}


def corrections_of(plan: Plan, drifts: Mapping[Key, Drift]) -> dict[str, Ratio]:
    """By replica, what its device times are corrected by."""
    worth = worth_correcting(drifts)
    found = {r.id: worth[key_of(r)].overall for r in plan.replicas if key_of(r) in worth}
    return {replica: ratio for replica, ratio in found.items() if ratio is not None}


def is_alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two predictions, in milliseconds by percentile, differ by less than is worth telling."""
    return all(
        abs(one[name] / other[name] - 1) < ALIKE for name in SHOWN if name in one and name in other
    )


def is_close(one: Mapping[str, Ratio], other: Mapping[str, Ratio]) -> bool:
    """Whether two sets of corrections say the same, but for what nobody would notice."""
    if one.keys() != other.keys():
        return False
    return all(abs(one[r].ratio / other[r].ratio - 1) < CLOSE for r in one)
