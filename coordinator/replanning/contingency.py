"""Contingency plans: what to do when a device of the running plan is lost, found before one is. Pure.

A plan that was found ahead is used where the mesh is as it was thought to be then: for the same problem, or for one on
the same devices that still have the time for it. While nothing is lost it is looked at again and again, and replaced
once it no longer meets every ask. All that its devices would have to load stands by, as far as there is
memory for it, so that neither a search nor a model keeps a lost device's requests waiting.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from msgspec import structs

from coordinator.replanning.search import Finding
from coordinator.replanning.switching import overloads, shortfalls
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, RunningReplica

STANDING_BY = frozenset({"model", "map", "filter", "join"})
"""The kinds of stages whose replicas can stand by: they have neither files nor state of which there is only one."""


@dataclass(frozen=True, slots=True)
class Contingency:
    """What was found for the loss of a device (by name), and the problem that it was found for."""

    device: str
    problem: Problem
    finding: Finding


def at_risk(plan: Plan, at_most: int, ends: Collection[str] = ()) -> list[str]:
    """The devices that a plan uses, by name, those with most to do first, and last those of sources and sinks.

    `ends` are the stages that are sources or sinks: what begins or ends at a device is lost with it in any case.
    """
    busy: Counter[str] = Counter()
    for replica in plan.replicas:
        busy[replica.device] += replica.utilization or 0.0  # pyright: ignore[reportArgumentType]
    at_ends = {replica.device for replica in plan.replicas if replica.stage in ends}
    return sorted(busy, key=lambda device: (device in at_ends, -busy[device], device))[:at_most]


def found_ahead(contingencies: Iterable[Contingency], problem: Problem) -> Finding | None:
    """What was found ahead for the problem of now, or still serves it; None where it must be searched.

    Latency is not played through again: that takes as long as a search may.
    """
    for known in contingencies:
        if known.problem.digest == problem.digest:
            return _told(known)
    for known in contingencies:
        plan, then = known.finding.plan, known.problem
        same = (then.fleet_digest, then.workflow_digest) == (
            problem.fleet_digest,
            problem.workflow_digest,
        )
        if same and plan is not None and not known.finding.degraded:
            return _told(known) if not overloads(problem, plan) else None
    return None


def holds(known: Contingency, problem: Problem) -> bool:
    """Whether there is no need to search again for the problem that a loss would make now."""
    plan = known.finding.plan
    if plan is None or known.problem.digest == problem.digest:
        return plan is not None
    return found_ahead([known], problem) is not None and not shortfalls(problem, plan)


def _told(known: Contingency) -> Finding:
    verdict = known.finding.verdict
    why = f"{verdict.why}; planned before {known.device} was lost"
    return replace(known.finding, verdict=replace(verdict, why=why))


@dataclass(frozen=True, slots=True)
class Memory:
    """What devices (by name) have, in megabytes, and what replicas need, by (stage, variant, device)."""

    of_devices: Mapping[str, float]
    of_replicas: Mapping[tuple[str, str | None, str], float]

    @classmethod
    def of(cls, problem: Problem) -> Memory:
        """As a problem has it; a device of unknown memory is taken to have none to spare."""
        return cls(
            {d.name: d.memory_mb or 0.0 for d in problem.devices},
            {(p.stage, p.variant, p.device): p.memory_mb for p in problem.profiles},
        )


def standing_by(
    running: Plan, plans: Iterable[Plan], memory: Memory
) -> dict[str, list[tuple[str, str]]]:
    """The replicas that stand by on each device: what `plans` need there, while memory lasts.

    By device name: (digest of the plan, replica id). The plans that are named first are served first. What `running`
    has there takes no more memory, and is there still when another plan runs.
    """
    there = {(r.stage, r.variant, r.device) for r in running.replicas}
    named: set[tuple[str, str | None, str]] = set()
    left = dict(memory.of_devices)
    for spot in there:
        if spot[2] in left:
            left[spot[2]] -= memory.of_replicas.get(spot, 0.0)
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for plan in plans:
        for replica in plan.replicas:
            spot = (replica.stage, replica.variant, replica.device)
            needed = 0.0 if spot in there else memory.of_replicas.get(spot, 0.0)
            # A device that is lost just now has no memory here, and may be in a plan that was found before.
            if spot in named or replica.device not in left or left[replica.device] < needed:
                continue
            named.add(spot)
            left[replica.device] -= needed
            found[replica.device].append((plan.digest, replica.id))
    return dict(found)


def with_loaded(problem: Problem, loaded: Iterable[RunningReplica]) -> Problem:
    """The problem in which these replicas cost no start, since they stand by: of equal plans, theirs is chosen."""
    running = [*problem.running, *(r for r in loaded if r not in problem.running)]
    return structs.replace(problem, running=running)


def running_in(plan: Plan) -> list[RunningReplica]:
    """A plan's replicas, as a problem names what runs."""
    return [
        RunningReplica(stage=r.stage, variant=r.variant, device=r.device) for r in plan.replicas
    ]


def standby_of(
    parts: Mapping[str, Assignment], chosen: Iterable[tuple[str, str]]
) -> Assignment | None:
    """An assignment of the `chosen` replicas alone, of a device's parts of plans (by digest); None without a part."""
    if not parts:
        return None
    like = next(iter(parts.values()))
    specs = {(plan, r.id): r for plan, part in parts.items() for r in part.replicas}
    # Two plans may name replicas alike that differ in their batches; what is loaded is the same.
    able = {
        spec.id: spec
        for key in chosen
        if (spec := specs[key]) and like.stages[spec.stage].kind in STANDING_BY
    }
    return structs.replace(
        like,
        replicas=list(able.values()),
        lanes=[],
        replica_devices=dict.fromkeys(able, like.device),
        peers={like.device: like.peers[like.device]},
        formers={},
        lost=[],
    )
