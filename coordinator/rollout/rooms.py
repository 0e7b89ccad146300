"""What sources may do with shares by themselves: the room of each lane, and spare lanes over what is loaded. Pure.

A lane has room for as much more as the fullest of its devices has time left for, by the plan's own figures. Several
lanes may count on the same time: sources see it when a lane falls behind, and go back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Final

from tiermesh.documents.plan import Plan, Replica, Spare

_WHOLE: Final = 1e-9
SPARES_MOST: Final = 32
"""Spare lanes are for plans of few lanes: where there are more, others have room as a rule."""


def spares(plan: Plan, fixed: Collection[str]) -> list[Spare]:
    """Lanes through the backups of the plan's lanes, one stage at a time; stages of `fixed` stay where they are.

    A spare lane has the accuracy of a lane with the same variants, where there is one.
    """
    variants = {r.id: r.variant for r in plan.replicas}

    def chosen(path: Mapping[str, str]) -> tuple[tuple[str, str | None], ...]:
        return tuple(sorted((stage, variants[replica]) for stage, replica in path.items()))

    accuracies = {chosen(lane.path): lane.accuracy for lane in plan.lanes}
    known = {tuple(sorted(lane.path.items())) for lane in plan.lanes}
    found: list[Spare] = []
    for lane in plan.lanes:
        for stage, backup in lane.backup.items():
            path = {**lane.path, stage: backup}
            key = tuple(sorted(path.items()))
            if stage in fixed or key in known or len(found) >= SPARES_MOST:
                continue
            known.add(key)
            others = {**lane.backup, stage: lane.path[stage]}
            found.append(Spare(path=path, backup=others, accuracy=accuracies.get(chosen(path))))
    return found


def shares_most(plan: Plan, spare: Collection[Spare], usable: Mapping[str, float]) -> list[float]:
    """The most that each lane, and then each spare, may get of the requests; `usable` is by device, 0 to 1.

    A lane over a replica of which it is not known how much time it takes has no room.
    """
    seconds = _device_time(plan)
    where = {r.id: r.device for r in plan.replicas}
    left = dict(usable)
    for replica in plan.replicas:
        left[replica.device] = left.get(replica.device, 0.0) - replica.utilization

    def room(path: Mapping[str, str]) -> float:
        needed: defaultdict[str, float] = defaultdict(float)
        for replica in path.values():
            time = seconds(replica)
            if time is None:
                return 0.0
            needed[where[replica]] += time
        rooms = (max(left[d], 0.0) / time for d, time in needed.items() if time > 0)
        return min(rooms, default=1.0)

    lanes = [lane.share + room(lane.path) for lane in plan.lanes]
    return [min(most, 1.0) for most in (*lanes, *(room(one.path) for one in spare))]


def _device_time(plan: Plan) -> Callable[[str], float | None]:
    """By how much of its device's time a replica is busier if all requests are moved to it; None: not known."""
    replicas = {r.id: r for r in plan.replicas}
    shares: defaultdict[str, float] = defaultdict(float)
    rates: defaultdict[str, float] = defaultdict(float)
    for lane in plan.lanes:
        for replica in lane.path.values():
            shares[replica] += lane.share
    for replica in plan.replicas:
        rates[replica.stage] += replica.items_per_second
    computing = {r.stage for r in plan.replicas if r.utilization > 0 or r.variant is not None}

    def time(name: str) -> float | None:
        replica = replicas[name]
        if shares[name] > 1 - _WHOLE:
            # All requests come here, whatever lane they are on.
            return 0.0
        if shares[name] > 0 and (replica.utilization > 0 or replica.stage not in computing):
            return replica.utilization / shares[name]
        per_item = _seconds_per_item(replica)
        return rates[replica.stage] * per_item if per_item is not None else None

    return time


def _seconds_per_item(replica: Replica) -> float | None:
    """Device time of an item in batches of the planned size; None: not measured."""
    if replica.items_per_second > 0 and replica.utilization > 0:
        return replica.utilization / replica.items_per_second
    batches = replica.room.batches if replica.room is not None else []
    fits = [b for b in batches if b.batch_size <= replica.batch_size]
    return min((b.mean / b.batch_size for b in fits), default=None)
