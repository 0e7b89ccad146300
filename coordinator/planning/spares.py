"""Cheaper variants held ready as headroom: on devices that are used anyhow, in memory that is free. Pure.

A plan without them answers an overload by waiting. With them sources move requests to lanes that are quicker and less
accurate, as far as the accuracy floor allows, and back. Readiness costs memory, and nothing else: no device is opened
and no lane is planned. Source: Proteus (ASPLOS'24) and Loki (HPDC'24) scale accuracy in the same way, in datacenters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from coordinator.planning.accuracy import combinations
from coordinator.planning.checking import members
from tiermesh.documents.plan import Lane, Plan, Replica, Room, Spare
from tiermesh.documents.problem import Problem, ProblemDevice, ProblemProfile

QUICKER: Final = 0.8
"""A spare variant takes at most this part of the device time of the one that it stands in for."""
LANES_MOST: Final = 32
_SAME: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Choice:
    """A variant that could stand in for a replica's: its profile, and what part of the work it could take away."""

    profile: ProblemProfile
    relief: float


def with_spares(plan: Plan, problem: Problem) -> Plan:
    """The plan with spare replicas and lanes, where the accuracy floor leaves slack and devices have memory left.

    Without a floor there are none: nobody has said how much accuracy may be given up.
    """
    floor = problem.asks.accuracy_at_least
    mean = plan.predicted.accuracy
    if floor is None or mean is None or mean - floor <= _SAME or len(plan.lanes) > LANES_MOST:
        return plan
    finder = _Finder(plan, problem, mean - floor)
    replicas: dict[str, Replica] = {}
    lanes: list[Spare] = []
    for replica in plan.replicas:
        made = finder.stand_in(replica)
        if made is None or made.id in replicas:
            continue
        spare = list(finder.lanes(replica, made))
        if spare and len(lanes) + len(spare) <= LANES_MOST:
            replicas[made.id] = made
            lanes += spare
            finder.take(made)
    return replace(plan, replicas=[*plan.replicas, *replicas.values()], spares=lanes)


class _Finder:
    def __init__(self, plan: Plan, problem: Problem, slack: float) -> None:
        self._plan = plan
        self._slack = slack
        self._floor = problem.asks.accuracy_at_least or 0.0
        self._every = problem.asks.every_request
        self._entry: dict[str, ProblemDevice] = {n: d for d in problem.devices for n in members(d)}
        self._profiles: defaultdict[tuple[str, str], list[ProblemProfile]] = defaultdict(list)
        for profile in problem.profiles:
            self._profiles[profile.stage, profile.device].append(profile)
        self._accuracy = [(c.variants, c.accuracy) for c in combinations(problem)]
        self._variants = {r.id: r.variant for r in plan.replicas}
        self._free = {
            name: entry.memory_mb
            for name, entry in self._entry.items()
            if entry.memory_mb is not None
        }
        for replica in plan.replicas:
            self.take(replica)

    def take(self, replica: Replica) -> None:
        """A replica needs its memory."""
        if replica.device in self._free:
            self._free[replica.device] -= replica.memory_mb or 0.0

    def stand_in(self, replica: Replica) -> Replica | None:
        """The spare replica that could take most of a replica's work away; None: there is none."""
        if replica.variant is None or replica.function is not None or replica.items_per_second <= 0:
            return None
        best = max(self._choices(replica), key=lambda choice: choice.relief, default=None)
        if best is None:
            return None
        profile = best.profile
        fits = [b for b in profile.batches if b.batch_size <= replica.batch_size]
        batch = max(fits, key=lambda b: b.batch_size)
        return Replica(
            id=f"{replica.stage}@{replica.device}/{profile.variant}",
            stage=replica.stage,
            variant=profile.variant,
            device=replica.device,
            items_per_second=0.0,
            batch_size=batch.batch_size,
            batch_timeout_ms=replica.batch_timeout_ms,
            memory_mb=profile.memory_mb or None,
            room=Room(
                batch_size_max=batch.batch_size,
                batch_timeout_ms_max=replica.batch_timeout_ms,
                batches=profile.batches,
            ),
        )

    def _choices(self, replica: Replica) -> Iterator[_Choice]:
        profiles = self._profiles[replica.stage, self._entry[replica.device].name]
        there = {
            r.variant
            for r in self._plan.replicas
            if r.stage == replica.stage and r.device == replica.device
        }
        mine = next((p for p in profiles if p.variant == replica.variant), None)
        before = self._mean_accuracy(replica, replica.variant)
        for profile in profiles:
            if (
                mine is None
                or before is None
                or profile.variant is None
                or profile.variant in there
            ):
                continue
            after = self._mean_accuracy(replica, profile.variant)
            now, then = (_seconds(p, replica.batch_size) for p in (mine, profile))
            has_memory = profile.memory_mb <= self._free.get(replica.device, profile.memory_mb)
            if (
                after is None
                or now is None
                or then is None
                or then > QUICKER * now
                or not has_memory
            ):
                continue
            if self._every and after < self._floor - _SAME:
                continue
            movable = min(self._slack / max(before - after, _SAME), 1.0)
            yield _Choice(profile, movable * (1 - then / now))

    def _mean_accuracy(self, replica: Replica, variant: str | None) -> float | None:
        """The mean accuracy of the lanes through a replica if it served another variant."""
        lanes = [lane for lane in self._plan.lanes if replica.id in lane.path.values()]
        found = [
            (lane.share, self._lane_accuracy(lane, {replica.stage: variant})) for lane in lanes
        ]
        if not found or any(accuracy is None for _, accuracy in found):
            return None
        total = sum(share for share, _ in found)
        return sum(share * (accuracy or 0.0) for share, accuracy in found) / total

    def _lane_accuracy(self, lane: Lane, changed: Mapping[str, str | None]) -> float | None:
        chosen = {stage: self._variants[name] for stage, name in lane.path.items()} | dict(changed)
        for variants, accuracy in self._accuracy:
            if all(chosen.get(stage) == variant for stage, variant in variants.items()):
                return accuracy
        return None

    def lanes(self, replica: Replica, spare: Replica) -> Iterator[Spare]:
        """The lanes through a replica, led through its spare one instead."""
        for lane in self._plan.lanes:
            if lane.path.get(replica.stage) != replica.id:
                continue
            accuracy = self._lane_accuracy(lane, {replica.stage: spare.variant})
            if accuracy is not None:
                path = {**lane.path, replica.stage: spare.id}
                yield Spare(path=path, backup=lane.backup, accuracy=accuracy)


def _seconds(profile: ProblemProfile, batch_size: int) -> float | None:
    """Device time of an item in batches up to a size; None: none so small was measured."""
    fits = [b.mean / b.batch_size for b in profile.batches if b.batch_size <= batch_size]
    return min(fits, default=None)
