"""From pieces to the plan that people read: replicas, lanes with backups, cost and predictions.

All figures are computed here from the replicas and lanes themselves, not taken from the solver: a plan says what it
is, whatever the model that found it left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.planning.instance import Candidate, Instance
from coordinator.planning.lanes import Piece, Spot
from coordinator.planning.latency import (
    SAMPLES,
    Estimator,
    Load,
    QueueingEstimate,
    Seconds,
    quantiles,
    spread_points,
)
from coordinator.planning.network import FREE, Link, gib_per_hour
from tiermesh import limits
from tiermesh.documents.plan import Cost, Lane, Predicted, Replica, Room
from tiermesh.documents.problem import BatchTime
from tiermesh.errors import LimitExceeded

Lanes: TypeAlias = NDArray[np.int64]
"""Per request, the index of its lane."""
Serving: TypeAlias = tuple[str, Spot]
"""A stage, and the spot that serves it."""

BACKUP_TRIES: Final = 8


@dataclass(frozen=True)
class Draft:
    """A plan's content before its proof: pieces at `scale` times the asked rates, and replicas held ready."""

    instance: Instance
    pieces: list[Piece]
    scale: float = 1.0
    standby: tuple[Spot, ...] = ()

    def rates(self) -> dict[Serving, float]:
        """Items per second of every replica, in the order of the workflow."""
        found: dict[Serving, float] = {}
        for stage in self.instance.placed:
            for piece in self.pieces:
                key = (stage, piece.spots[stage])
                rate = piece.share * piece.branch.rates[stage] * self.scale
                found[key] = found.get(key, 0.0) + rate
        for spot in self.standby:
            found.setdefault((spot.candidate.stage, spot), 0.0)
        return found


def replica_id(stage: str, spot: Spot) -> str:
    """``stage@device``, or ``stage@device/variant``."""
    variant = spot.candidate.variant
    return f"{stage}@{spot.device}" + (f"/{variant}" if variant else "")


def replicas(draft: Draft) -> list[Replica]:
    """Every replica of the plan."""
    found: list[Replica] = []
    on = loads(draft)
    rooms: dict[tuple[Candidate, Load | None], Room | None] = {}
    for (stage, spot), rate in draft.rates().items():
        c = spot.candidate
        load = on.get(spot.device)
        if (c, load) not in rooms:
            rooms[c, load] = _room(draft.instance, c, load)
        found.append(
            Replica(
                id=replica_id(stage, spot),
                stage=stage,
                variant=c.variant,
                device=spot.device,
                rate_rps=rate,
                batch_size=c.batch.batch_size if c.batch else 1,
                utilization=rate * c.seconds,
                memory_mb=c.memory_mb or None,
                room=rooms[c, load],
            )
        )
    return found


def _room(instance: Instance, c: Candidate, load: Load | None) -> Room | None:
    """Batches as large as were measured, and so fit in memory, while 95 % of the requests are as quick as expected."""
    if c.variant is None or c.batch is None or load is None:
        return None
    device = instance.classes[c.device_class].like.name
    batches = instance.profile_of[c.stage, c.variant, device].batches
    largest = max(batch.batch_size for batch in batches)
    if largest == 1:
        return None
    expected = QueueingEstimate().seconds(c.batch, load, np.array([0.95]))
    return Room(
        batch_size_max=largest,
        latency_p95_ms=1e3 * float(expected[0]),
        batches=[BatchTime(batch_size=b.batch_size, mean=b.mean) for b in batches],
    )


def lanes(draft: Draft) -> list[Lane]:
    """Every lane of the plan, with a backup for each stage that has another replica it can use.

    Raises:
        LimitExceeded: more lanes than `limits.LANES`.
    """
    if len(draft.pieces) > limits.LANES:
        raise LimitExceeded(
            f"the plan has {len(draft.pieces)} lanes",
            why=f"the limit is {limits.LANES}",
            limit="LANES",
        )
    spare = _Spare(draft)
    return [
        Lane(
            share=min(piece.share, 1.0),
            path={stage: replica_id(stage, piece.spots[stage]) for stage in draft.instance.placed},
            backup=spare.backups(piece),
            accuracy=piece.branch.combo.accuracy,
        )
        for piece in draft.pieces
    ]


class _Spare:
    """Deals backups so that what a lost device leaves is spread over those with room."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._by_stage: defaultdict[str, list[Spot]] = defaultdict(list)
        self._busy = busy(draft)
        for stage, spot in draft.rates():
            self._by_stage[stage].append(spot)
        self._turn: defaultdict[str, int] = defaultdict(int)
        self._extra: defaultdict[tuple[str, str], float] = defaultdict(float)

    def backups(self, piece: Piece) -> dict[str, str]:
        """Per stage, the replica that takes over; stages that have no other are left out."""
        found: dict[str, str] = {}
        for stage in self._draft.instance.placed:
            spot = self._backup(piece, stage)
            if spot is not None:
                found[stage] = replica_id(stage, spot)
        return found

    def _backup(self, piece: Piece, stage: str) -> Spot | None:
        here = piece.spots[stage]
        others = self._by_stage[stage]
        rules = self._draft.instance.stages[stage]
        if len(others) < 2 or rules.stateful or rules.pinned or rules.kind == "source":
            return None
        start = self._turn[stage]
        self._turn[stage] += 1
        tries = len(others) if self._draft.standby else min(len(others), BACKUP_TRIES)
        nearby = [others[(start + i) % len(others)] for i in range(tries)]
        fits = [s for s in nearby if s.device != here.device and self._reaches(piece, stage, s)]
        same = [s for s in fits if s.candidate.variant == here.candidate.variant]
        rate = piece.share * piece.branch.rates[stage] * self._draft.scale

        def room(spot: Spot) -> float:
            """The device's time left once it also does this, if `here` is the device that is lost."""
            share = self._draft.instance.class_of[spot.device].like.usable_share
            taken = self._busy.get(spot.device, 0.0) + self._extra[here.device, spot.device]
            return share - taken - rate * spot.candidate.seconds

        best = max(same, key=room, default=None)
        if best is None or room(best) < 0:
            best = max(fits, key=room, default=None)
        if best is not None:
            self._extra[here.device, best.device] += rate * best.candidate.seconds
        return best

    def _reaches(self, piece: Piece, stage: str, spot: Spot) -> bool:
        for edge in self._draft.instance.edges:
            if edge.target == stage and edge.source in piece.spots:
                pair = (piece.spots[edge.source].device, spot.device)
            elif edge.source == stage and edge.target in piece.spots:
                pair = (spot.device, piece.spots[edge.target].device)
            else:
                continue
            if not link(self._draft.instance, *pair).allowed:
                return False
        return True


def link(instance: Instance, source: str, target: str) -> Link:
    """The link between two devices of the plan; free within one."""
    if source == target:
        return FREE
    entry_of = instance.entry_of
    return instance.network.between(entry_of[source], entry_of[target])


def busy(draft: Draft) -> dict[str, float]:
    """The share of its time that each used device works."""
    found: defaultdict[str, float] = defaultdict(float)
    for (_, spot), rate in draft.rates().items():
        found[spot.device] += rate * spot.candidate.seconds
    return found


def cost(draft: Draft) -> Cost:
    """What the plan costs: every used device in full, and every charged byte."""
    devices = {spot.device for piece in draft.pieces for spot in piece.spots.values()}
    compute = sum(draft.instance.class_of[d].like.price_per_hour for d in sorted(devices))
    network = _network_cost(draft)
    return Cost(
        compute_per_hour=compute, network_per_hour=network, total_per_hour=compute + network
    )


def _network_cost(draft: Draft) -> float:
    instance, total = draft.instance, 0.0
    for edge in instance.edges:
        for piece in draft.pieces:
            price = _edge_link(instance, piece, edge.source, edge.target).price_per_gib
            if price:
                rate = instance.bytes_per_second(edge, piece.branch) * piece.share * draft.scale
                total += price * gib_per_hour(rate)
    return total


def _edge_link(instance: Instance, piece: Piece, source: str, target: str) -> Link:
    here, there = piece.spots.get(source), piece.spots.get(target)
    if here is None and there is not None:
        return instance.network.entering(source, instance.entry_of[there.device])
    if there is None and here is not None:
        return instance.network.leaving(instance.entry_of[here.device], target)
    return link(instance, here.device, there.device) if here and there else FREE


def watts(draft: Draft) -> float:
    """The power of the devices used, at the load planned."""
    total = 0.0
    for device, share in busy(draft).items():
        like = draft.instance.class_of[device].like
        total += like.watts_idle + max(like.watts_busy - like.watts_idle, 0.0) * share
    return total


def accuracy(draft: Draft) -> float | None:
    """The mean accuracy over requests."""
    parts: list[float] = []
    for piece in draft.pieces:
        if piece.branch.combo.accuracy is None:
            return None
        parts.append(piece.share * piece.branch.combo.accuracy)
    return round(math.fsum(parts), 12)


def predicted(draft: Draft, estimator: Estimator | None = None) -> Predicted:
    """What the plan promises: throughput, accuracy, and latency from end to end."""
    end_to_end = latency(draft, estimator or QueueingEstimate())
    return Predicted(
        throughput_rps=draft.instance.request_rate * draft.scale,
        accuracy=accuracy(draft),
        latency_ms={name: value * 1e3 for name, value in quantiles(end_to_end).items()},  # pyright: ignore[reportArgumentType]
    )


def loads(draft: Draft) -> dict[str, Load]:
    """What each device's compute lane is asked to do."""
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for (_, spot), rate in draft.rates().items():
        batch = spot.candidate.batch
        if batch is None or rate <= 0:
            continue
        per_second = rate / batch.batch_size
        total = sums[spot.device]
        total[0] += rate * spot.candidate.seconds
        total[1] += per_second
        total[2] += per_second * batch.mean**2
    return {
        device: Load(busy=b, batches_per_second=n, second_moment=square / n)
        for device, (b, n, square) in sums.items()
    }


def latency(draft: Draft, estimator: Estimator) -> Seconds:
    """End-to-end seconds of evenly drawn requests: each takes a lane, and each stage its own quantile."""
    instance = draft.instance
    points = spread_points(SAMPLES, len(instance.placed) + 1)
    ends = np.cumsum([piece.share for piece in draft.pieces])
    lane: Lanes = np.minimum(np.searchsorted(ends, points[:, -1], side="right"), len(ends) - 1)
    at_spot = _Sojourns(loads(draft), estimator)
    total = np.zeros(SAMPLES)
    times: dict[str, Seconds] = {}
    for column, stage in enumerate(instance.placed):
        arrived = _arrivals(draft, times, stage, lane)
        times[stage] = arrived + at_spot.draw(draft, stage, lane, points[:, column])
        total = np.maximum(total, times[stage])
    return total


def _arrivals(draft: Draft, times: Mapping[str, Seconds], stage: str, lane: Lanes) -> Seconds:
    """When a request's items are all at a stage: the latest of its inputs, each with its way."""
    instance, latest = draft.instance, np.zeros(SAMPLES)
    for edge in instance.edges:
        if edge.target != stage:
            continue
        delays = [_edge_link(instance, p, edge.source, stage).rtt_ms / 2e3 for p in draft.pieces]
        start = times.get(edge.source, np.zeros(SAMPLES))
        latest = np.maximum(latest, start + np.array(delays)[lane])
    return latest


@dataclass(frozen=True)
class _Sojourns:
    """What replicas add to requests, on devices under their loads."""

    loads: Mapping[str, Load]
    estimator: Estimator

    def draw(self, draft: Draft, stage: str, lane: Lanes, at: Seconds) -> Seconds:
        """Per request, the seconds at its lane's replica of a stage, at its own quantile."""
        seconds = np.zeros(len(at))
        spots = [piece.spots[stage] for piece in draft.pieces]
        used = [spots[i] for i in sorted({int(i) for i in lane})]
        index = {spot: i for i, spot in enumerate(dict.fromkeys(used))}
        which = np.array([index.get(spot, -1) for spot in spots])[lane]
        for spot, i in index.items():
            batch = spot.candidate.batch
            if batch is not None and spot.device in self.loads:
                mask = which == i
                seconds[mask] = self.estimator.seconds(batch, self.loads[spot.device], at[mask])
        return seconds


def saturated(draft: Draft, level: float) -> Sequence[str]:
    """The devices that the plan keeps busier than `level`."""
    return [device for device, share in sorted(busy(draft).items()) if share > level]
