"""What the running plan is expected to do now: played through with device times as they are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

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
from tiermesh.documents.plan import Plan, Predicted
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


def before_serving(
    problem: Problem, plan: Plan, batch_seconds: Mapping[str, float]
) -> dict[Key, Drift]:
    """Measured over profiled device time of the replicas that were measured just before they served.

    `batch_seconds` are mean device seconds of a batch of the planned size, by replica id.
    """
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


def told_before_serving(now: Predicted, measured: Mapping[Key, Drift]) -> str:
    """What a plan is expected to do by what was measured before it served, for people."""
    shown = [f"{name} {now.latency_ms[name]:.0f} ms" for name in SHOWN if name in now.latency_ms]
    times = [
        f"{stage}@{device} {drift.overall.ratio:.2f}"
        for (stage, _, device), drift in measured.items()
        if drift.overall is not None
    ]
    return (
        f"expected {', '.join(shown)}; device time before serving over profiled: {', '.join(times)}"
    )


def predicted(problem: Problem, plan: Plan, drifts: Mapping[Key, Drift]) -> Predicted:
    """What a plan predicts, with all device times multiplied by what they are measured to be; with its interval."""
    from coordinator.planning.draws import intervals_ms
    from coordinator.planning.simulate import Load, Served, simulate

    corrected = corrected_problem(problem, drifts)
    rate = plan.predicted.throughput_rps
    served = Served(replicas=plan.replicas, lanes=plan.lanes, rate_rps=rate)
    found = [simulate(corrected, served, Load(requests=REQUESTS, seed=s)) for s in range(1, 4)]
    latency_ms = {
        name: sum(one.latency_ms[name] for one in found) / len(found)
        for name in found[0].latency_ms
    }
    interval_ms = intervals_ms(corrected, served) if problem.uncertainty is not None else {}
    return replace(plan.predicted, latency_ms=latency_ms, latency_interval_ms=interval_ms)


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
