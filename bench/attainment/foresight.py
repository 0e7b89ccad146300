"""What could be had: the cheapest plan for each phase, knowing it in advance and how fast devices really are."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Final

from msgspec.structs import replace

from bench.attainment.plans import best
from bench.attainment.scenes import Scene, Segment
from bench.attainment.settings import SLO_S, Setting
from bench.attainment.systems import EXACT, SYSTEMS
from bench.attainment.timeline import Timeline
from bench.attainment.truth import Truth
from bench.attainment.world import World, restricted
from coordinator.planning import PlanObjective
from coordinator.replanning.current_problem import with_rate
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, ProblemProfile
from tiermesh.errors import Infeasible

TIME_LIMIT_S: Final = 60.0
TIGHTER: Final = (1.0, 0.8, 0.6, 0.4, 0.25)
"""What is asked for, in parts of the SLO, until a plan keeps the SLO when it is played through."""
UNPACED_RPS: Final = 1e6
PLAYED_S: Final = 200.0
KEPT: Final = 0.95
_kept: dict[tuple[str, str], bool] = {}


def foreseen(setting: Setting, truth: Truth, segment: Segment, seconds: float) -> tuple[Plan, bool]:
    """The cheapest plan for what is true in a segment, and whether it keeps the SLO.

    Where none does, it is the one that does most.
    """
    problem = _true(setting, truth, segment, segment.begin / seconds)
    options = changed(EXACT, time_limit_s=TIME_LIMIT_S)
    for tighter in TIGHTER:
        asks = replace(problem.asks, latency_s={"p95": SLO_S * tighter})
        plan = _unpaced(best(replace(problem, asks=asks), options))
        if plan is not None and _keeps(setting, truth, segment, problem, plan):
            return plan, True
    most = best(problem, changed(options, objective=PlanObjective.THROUGHPUT))
    if most is None:
        raise Infeasible("no plan serves anything")
    return most, False


def _unpaced(plan: Plan | None) -> Plan | None:
    """A plan for less than the workflow's rate would hold its sources back to what it was made for."""
    if plan is None:
        return None
    return replace(plan, predicted=replace(plan.predicted, throughput_rps=UNPACED_RPS))


def _keeps(setting: Setting, truth: Truth, segment: Segment, problem: Problem, plan: Plan) -> bool:
    """Whether a plan keeps the SLO while a segment lasts forever."""
    key = f"{problem.digest}/{truth.seed}", plan.digest
    if key not in _kept:
        scene = Scene("forever", (changed(segment.phase, begin=0.0, load=segment.load),))
        _kept[key] = _attained(setting, truth, scene, plan) >= KEPT
    return _kept[key]


def _attained(setting: Setting, truth: Truth, scene: Scene, plan: Plan) -> float:
    timeline = Timeline()
    played = Truth(setting, scene, timeline, PLAYED_S, truth.seed)
    played.victims = truth.victims
    world = World(setting, SYSTEMS["clairvoyant"], timeline, played, 0.0)
    world.wires.speed = scene.phases[0].link
    world.begin(plan)
    timeline.advance(PLAYED_S + 2 * SLO_S, lambda: False)
    made = sum(len(due) for due in played.due.values())
    kept = sum(s.is_result and (s.ended or 0.0) - s.due <= SLO_S for s in played.by_id.values())
    return kept / made


def _true(setting: Setting, truth: Truth, segment: Segment, part: float) -> Problem:
    phase, problem = segment.phase, with_rate(setting.problem, setting.rate_rps * segment.load)
    lost = truth.victims if phase.lost else frozenset[str]()
    problem = restricted(problem, {d.name for d in problem.devices} - lost)
    return replace(
        problem,
        profiles=[_slower(p, truth.slower(p.device, part)) for p in problem.profiles],
        links=[
            replace(link, capacity_mbps=link.capacity_mbps * phase.link)
            if link.capacity_mbps is not None
            else link
            for link in problem.links
        ],
    )


def _slower(profile: ProblemProfile, factor: float) -> ProblemProfile:
    batches = [
        replace(
            b, mean=b.mean * factor, percentiles={k: s * factor for k, s in b.percentiles.items()}
        )
        for b in profile.batches
    ]
    return replace(profile, batches=batches)
