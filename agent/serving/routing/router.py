"""Where frames go: the lane of a request, and the next hop of a lane. Pure; one router per generation.

A request's lane follows from its id alone, so that the inputs of a join meet at the same replica. A lane names a
replica for every stage, and for some stages a backup, taken when the device of the first cannot be reached.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import accumulate

from agent.serving.routing.graph import Graph
from tiermesh import ids
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import InvalidDocument


@dataclass(frozen=True, slots=True)
class Hop:
    """A replica of a stage, and the device that serves it."""

    stage: str
    replica: str
    device: str


class Router:
    """The lanes of one assignment, as its device sees them.

    Raises:
        InvalidDocument: a lane names a replica that is on no device, or a replica here is of no stage.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.lanes = assignment.routes
        self.graph = Graph(assignment.stages)
        self.here = {spec.id: spec for spec in assignment.replicas}
        self._check()
        self._cuts: dict[str, tuple[list[int], list[float]]] = {}
        self._hops: dict[tuple[int, str], tuple[Hop, ...]] = {}

    def _check(self) -> None:
        devices, stages = self.assignment.replica_devices, self.assignment.stages
        named = [(s, r) for lane in self.lanes for s, r in (lane.path | lane.backup).items()]
        for lane in self.lanes:
            missing = sorted(stages.keys() - lane.path.keys())
            if missing:
                raise self._refused(f"a lane has no replica of {', '.join(missing)}")
        named += [(spec.stage, spec.id) for spec in self.assignment.replicas]
        for stage, replica in named:
            if stage not in stages:
                raise self._refused(f"there is no stage {stage}")
            if replica not in devices:
                raise self._refused(f"the replica {replica} of {stage} is on no device")

    def _refused(self, why: str) -> InvalidDocument:
        return InvalidDocument(
            f"the assignment of {self.assignment.workflow} does not hold together", why=why
        )

    def share(self, source_replica: str, stage: str) -> tuple[float, float]:
        """From where to where in [0, 1) a source's replica makes the requests of its stage."""
        shares: dict[str, float] = {}
        for lane in self.assignment.lanes:
            replica = lane.path[stage]
            shares[replica] = shares.get(replica, 0.0) + lane.share
        total = sum(shares.values())
        ends = dict(zip(shares, accumulate(shares.values()), strict=True))
        end = ends.get(source_replica, 0.0)
        return (end - shares.get(source_replica, 0.0)) / total, end / total

    def run_of(self, stage: str, device: str) -> str:
        """The run that a source's request ids follow from: equal for sources whose requests meet in a join.

        Sources that never meet in one, or that make a part of the requests each, must not make equal ids.
        """
        run = self.assignment.run + self.graph.run_suffix(stage)
        is_split = len({lane.path[stage] for lane in self.assignment.lanes}) > 1
        return f"{run}@{device}" if is_split else run

    def lane_of(
        self,
        request: str,
        source_replica: str,
        stage: str,
        attempt: int,
        lost: Collection[str],
        *,
        shares: Iterable[float] | None = None,
    ) -> int:
        """The lane of a request that was accepted by a source here.

        The first attempt takes the lane that the id falls into; `shares` are those of `own_lanes`, where they are not
        as planned. Further attempts go round the lanes that end at the same sinks, so that no request ends at two of
        them, and leave out those with a device in `lost` if they can.
        """
        lanes, cuts = self._cut(source_replica, stage)
        cuts = cuts if shares is None else list(accumulate(shares))
        first = min(bisect_right(cuts, ids.position(request) * cuts[-1]), len(lanes) - 1)
        if attempt == 1 and self._is_usable(lanes[first], lost):
            return lanes[first]
        ends = self.ends(lanes[first])
        same = [lane for lane in lanes[first:] + lanes[:first] if self.ends(lane) == ends]
        usable = [lane for lane in same if self._is_usable(lane, lost)] or same
        usable = [lane for lane in usable if self.lanes[lane].share] or usable
        return usable[(attempt - 1) % len(usable)]

    def own_lanes(self, source_replica: str, stage: str) -> list[int]:
        """The lanes of a source, those that end at the same sinks side by side: shares that move stay among these."""
        return self._cut(source_replica, stage)[0]

    def has_way(self, source_replica: str, stage: str, lost: Collection[str]) -> bool:
        """Whether a lane of a source avoids the devices in `lost`, if need be by backups."""
        lanes, _ = self._cut(source_replica, stage)
        return any(self._is_usable(lane, lost) for lane in lanes)

    def _cut(self, source_replica: str, stage: str) -> tuple[list[int], list[float]]:
        key = source_replica
        if key not in self._cuts:
            own = [i for i, lane in enumerate(self.lanes) if lane.path[stage] == key]
            # A source that the plan has moved away still brings its requests in flight to an end.
            own = own or list(range(len(self.assignment.lanes)))
            order = list(dict.fromkeys(self.ends(i) for i in own))
            own.sort(key=lambda i: order.index(self.ends(i)))
            self._cuts[key] = own, list(accumulate(self.lanes[i].share for i in own))
        return self._cuts[key]

    def ends(self, lane: int) -> tuple[str, ...]:
        """The replicas of sinks at which a lane ends."""
        path = self.lanes[lane].path
        return tuple(path[s] for s in sorted(path) if self.assignment.stages[s].kind == "sink")

    def _is_usable(self, lane: int, lost: Collection[str]) -> bool:
        if not lost:
            return True
        given, devices = self.lanes[lane], self.assignment.replica_devices
        return all(
            devices[replica] not in lost
            or (stage in given.backup and devices[given.backup[stage]] not in lost)
            for stage, replica in given.path.items()
            if self.assignment.stages[stage].kind != "source"
        )

    def sink_devices(self, source: str) -> dict[str, str]:
        """The device of each sink below a source that is on one device only, in all lanes."""
        devices = self.assignment.replica_devices
        found = {
            sink: {devices[lane.path[sink]] for lane in self.assignment.lanes}
            for sink in self.graph.sinks_below(source)
        }
        return {sink: next(iter(at)) for sink, at in found.items() if len(at) == 1}

    def devices_of(self, lane: int) -> frozenset[str]:
        """The devices that a lane's requests may be on, backups included."""
        given = self.lanes[lane]
        devices = self.assignment.replica_devices
        return frozenset(devices[r] for r in (*given.path.values(), *given.backup.values()))

    def hop(self, lane: int, stage: str, is_lost: Callable[[str], bool]) -> Hop | None:
        """Where a lane's frames for a stage go; None: neither the replica nor a backup can be reached.

        Sinks have no backup: a request must not end at two.
        """
        hops = self._hops.get((lane, stage))
        if hops is None:
            hops = self._hops[lane, stage] = self._find_hops(lane, stage)
        for hop in hops:
            if not is_lost(hop.device):
                return hop
        return None

    def _find_hops(self, lane: int, stage: str) -> tuple[Hop, ...]:
        given, devices = self.lanes[lane], self.assignment.replica_devices
        replicas = [given.path[stage]]
        if stage in given.backup and self.assignment.stages[stage].kind != "sink":
            replicas.append(given.backup[stage])
        return tuple(Hop(stage, replica, devices[replica]) for replica in replicas)

    def device_of(self, lane: int, stage: str) -> str:
        """The device of a lane's first choice for a stage."""
        return self.assignment.replica_devices[self.lanes[lane].path[stage]]

    def replica_here(self, lane: int, stage: str) -> str | None:
        """The replica of a stage that serves a lane on this device, as its first choice or as its backup."""
        if lane >= len(self.lanes):
            return None
        given = self.lanes[lane]
        for replica in (given.path.get(stage), given.backup.get(stage)):
            if replica is not None and replica in self.here:
                return replica
        return None
