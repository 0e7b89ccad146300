"""The plans of the systems, for a multiple of the rate or as JellyBean makes them; what they cost and load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from msgspec.structs import replace

from bench.attainment.settings import Setting
from bench.attainment.systems import System
from coordinator.planning import Options, solve
from coordinator.replanning.current_problem import with_rate
from tiermesh.documents.plan import Lane, Plan, Replica
from tiermesh.documents.problem import Problem, ProblemStage
from tiermesh.errors import Infeasible

_made: dict[tuple[str, Options], Plan | None] = {}


def best(problem: Problem, options: Options) -> Plan | None:
    """The plan for a problem, made once; None where there is none."""
    key = (problem.digest, options)
    if key not in _made:
        try:
            _made[key] = solve(problem, options, explain=False)
        except Infeasible:
            _made[key] = None
    return _made[key]


def first(setting: Setting, system: System, scale: float) -> Plan | None:
    """What a system begins with, for `scale` times the rate."""
    problem = with_rate(setting.problem, setting.rate_rps * scale)
    if not system.jellybean:
        return best(problem, system.options)
    outside = replace(
        problem,
        stages=[_outside(stage) for stage in problem.stages],
        asks=replace(problem.asks, latency_s={}),
    )
    plan = best(outside, system.options)
    return completed(problem, plan) if plan is not None else None


def _outside(stage: ProblemStage) -> ProblemStage:
    if stage.kind not in ("source", "sink"):
        return stage
    return replace(stage, external=True, pinned={}, devices=[])


def completed(problem: Problem, plan: Plan) -> Plan:
    """A plan with the sources and the sink that it was made without, and what their devices cost."""
    source, sink = (next(s for s in problem.stages if s.kind == k) for k in ("source", "sink"))
    at = sink.devices[0]
    used = {r.device for r in plan.replicas}
    prices = {d.name: d.price_per_hour for d in problem.devices}
    more = sum(prices[d] for d in {*source.pinned, at} - used)
    rate = plan.predicted.throughput_rps
    ends = [_end(source.name, d, rate * share) for d, share in source.pinned.items()]
    ends.append(_end(sink.name, at, rate))
    lanes = [
        Lane(
            share=lane.share * share,
            path={source.name: f"{source.name}@{d}", **lane.path, sink.name: f"{sink.name}@{at}"},
            accuracy=lane.accuracy,
        )
        for lane in plan.lanes
        for d, share in source.pinned.items()
    ]
    cost = replace(
        plan.cost,
        compute_per_hour=plan.cost.compute_per_hour + more,
        total_per_hour=plan.cost.total_per_hour + more,
    )
    return replace(plan, replicas=[*plan.replicas, *ends], lanes=lanes, cost=cost)


def _end(stage: str, device: str, rate_rps: float) -> Replica:
    return Replica(id=f"{stage}@{device}", stage=stage, device=device, items_per_second=rate_rps)


def busiest(plan: Plan, count: int, but: Collection[str] = ()) -> frozenset[str]:
    """The devices that a plan gives most to do."""
    busy: Counter[str] = Counter()
    for replica in plan.replicas:
        if replica.device not in but:
            busy[replica.device] += replica.utilization
    return frozenset(device for device, share in busy.most_common(count) if share > 0)


def ends(problem: Problem) -> set[str]:
    """The devices of sources and sinks: without them there is nothing to serve."""
    return {
        d for s in problem.stages if s.kind in ("source", "sink") for d in (*s.pinned, *s.devices)
    }


def cost_of(plans: list[tuple[float, Plan]], begin: float, end: float) -> float:
    """US dollars per hour of what served from `begin` to `end` (seconds), by time."""
    total = 0.0
    until = [since for since, _ in plans[1:]] + [end]
    for (since, plan), to in zip(plans, until, strict=True):
        total += max(min(to, end) - max(since, begin), 0.0) * plan.cost.total_per_hour
    return total / (end - begin)
