"""From pieces to the plan that people read: replicas, lanes with backups, cost and predictions.

All figures are computed here from the replicas and lanes themselves, not taken from the solver: a plan says what it
is, whatever the model that found it left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coordinator.planning.draft import Draft
from coordinator.planning.figures import Figures
from coordinator.planning.instance import Candidate, Instance
from coordinator.planning.lanes import Piece, Spot
from coordinator.planning.latency import (
    SAMPLES,
    Seconds,
    quantiles,
    spread_points,
)
from coordinator.planning.network import FREE, NetworkLink, gib_per_hour
from coordinator.planning.options import Options, PlanObjective
from tiermesh import limits
from tiermesh.documents.plan import Cost, Function, Lane, Predicted, Replica, Room
from tiermesh.documents.problem import BatchTime
from tiermesh.errors import LimitExceeded

Lanes: TypeAlias = NDArray[np.int64]
"""Per request, the index of its lane."""
Serving: TypeAlias = tuple[str, Spot]
"""A stage, and the spot that serves it."""

BACKUP_TRIES: Final = 8


def replica_id(stage: str, spot: Spot) -> str:
    """``stage@device``, or ``stage@device/variant``."""
    variant = spot.candidate.variant
    return f"{stage}@{spot.device}" + (f"/{variant}" if variant else "")


def replicas(draft: Draft) -> list[Replica]:
    """Every replica of the plan."""
    figures = draft.figures
    return [
        _replica(draft, stage, spot, rate, figures.get((stage, spot)))
        for (stage, spot), rate in draft.rates().items()
    ]


def _replica(draft: Draft, stage: str, spot: Spot, rate: float, figures: Figures | None) -> Replica:
    c = spot.candidate
    serverless = draft.instance.classes[c.device_class].serverless
    size = c.batch.batch_size if c.batch else 1
    timeout_s = figures.timeout_s if figures is not None else c.timeout_s or 0.0
    seconds = figures.seconds if figures is not None else c.seconds
    return Replica(
        id=replica_id(stage, spot),
        stage=stage,
        variant=c.variant,
        device=spot.device,
        items_per_second=rate,
        batch_size=size,
        batch_timeout_ms=timeout_s * 1e3,
        utilization=0.0 if serverless else rate * seconds,
        memory_mb=c.memory_mb or None,
        room=None if serverless or figures is None else _room(draft.instance, c, figures),
        function=_function(c, rate, figures) if serverless else None,
    )


def _function(c: Candidate, rate: float, figures: Figures | None) -> Function:
    if figures is None:
        return Function(memory_mb=c.memory_mb, usd_per_item=c.usd_per_item, mean_servers=0.0)
    return Function(
        memory_mb=c.memory_mb,
        usd_per_item=figures.usd_per_item,
        mean_servers=rate * figures.seconds,
    )


def _room(instance: Instance, c: Candidate, figures: Figures) -> Room | None:
    """Batches as large as were measured, and so fit in memory, while 95 % of the requests are as quick as expected."""
    if c.variant is None:
        return None
    batches = instance.batches(c)
    largest = max(batch.batch_size for batch in batches)
    if largest == 1:
        return None
    return Room(
        batch_size_max=largest,
        batch_timeout_ms_max=figures.timeout_s * 1e3,
        latency_p95_ms=1e3 * float(figures.sojourn.at(np.array([0.95]))[0]),
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


def link(instance: Instance, source: str, target: str) -> NetworkLink:
    """The link between two devices of the plan; free within one."""
    if source == target:
        return FREE
    entry_of = instance.entry_of
    return instance.network.between(entry_of[source], entry_of[target])


def busy(draft: Draft) -> dict[str, float]:
    """The share of its time that each used device needs, in batches that are always full: what it must have."""
    found: defaultdict[str, float] = defaultdict(float)
    for (_, spot), rate in draft.rates().items():
        found[spot.device] += rate * spot.candidate.seconds
    return found


def cost(draft: Draft) -> Cost:
    """What the plan costs: every used device in full, every call of a function, and every charged byte."""
    devices = {spot.device for piece in draft.pieces for spot in piece.spots.values()}
    compute = sum(draft.instance.class_of[d].like.price_per_hour for d in sorted(devices))
    network, functions = _network_cost(draft), _functions_cost(draft)
    return Cost(
        compute_per_hour=compute,
        network_per_hour=network,
        serverless_per_hour=functions,
        total_per_hour=compute + network + functions,
    )


def _functions_cost(draft: Draft) -> float:
    """At the true mean price of an item, which depends on how full batches get."""
    if not draft.instance.serverless:
        return 0.0
    rates = draft.rates()
    return math.fsum(3600 * rates[s] * f.usd_per_item for s, f in draft.figures.items())


def _network_cost(draft: Draft) -> float:
    instance, total = draft.instance, 0.0
    for edge in instance.edges:
        for piece in draft.pieces:
            price = _edge_link(instance, piece, edge.source, edge.target).price_per_gib
            if price:
                rate = instance.bytes_per_second(edge, piece.branch) * piece.share * draft.scale
                total += price * gib_per_hour(rate)
    return total


def _edge_link(instance: Instance, piece: Piece, source: str, target: str) -> NetworkLink:
    here, there = piece.spots.get(source), piece.spots.get(target)
    if here is None and there is not None:
        return instance.network.entering(source, instance.entry_of[there.device])
    if there is None and here is not None:
        return instance.network.leaving(instance.entry_of[here.device], target)
    return link(instance, here.device, there.device) if here and there else FREE


def watts(draft: Draft) -> float:
    """The power of the devices used, at the load planned."""
    total = 0.0
    taken: defaultdict[str, float] = defaultdict(float)
    for serving, rate in draft.rates().items():
        figures = draft.figures.get(serving)
        taken[serving[1].device] += rate * figures.seconds if figures is not None else 0.0
    for device, share in taken.items():
        like = draft.instance.class_of[device].like
        total += like.watts_idle + max(like.watts_busy - like.watts_idle, 0.0) * share
    return total


def objective(draft: Draft, options: Options) -> float:
    """The objective of a draft, computed from its replicas and lanes; of latency, what its budget buys: the cost."""
    match options.objective:
        case PlanObjective.THROUGHPUT:
            return draft.instance.request_rate * draft.scale
        case PlanObjective.ACCURACY:
            return accuracy(draft) or 0.0
        case PlanObjective.POWER:
            return watts(draft)
        case _:
            energy = watts(draft) / 1000 * draft.instance.problem.terms.price_per_kwh
            return cost(draft).total_per_hour + energy


def accuracy(draft: Draft) -> float | None:
    """The mean accuracy over requests."""
    parts: list[float] = []
    for piece in draft.pieces:
        if piece.branch.combo.accuracy is None:
            return None
        parts.append(piece.share * piece.branch.combo.accuracy)
    return round(math.fsum(parts), 12)


def predicted(draft: Draft) -> Predicted:
    """What the plan promises: throughput, accuracy, and latency from end to end."""
    end_to_end = latency(draft)
    return Predicted(
        throughput_rps=draft.instance.request_rate * draft.scale,
        accuracy=accuracy(draft),
        latency_ms={name: value * 1e3 for name, value in quantiles(end_to_end).items()},  # pyright: ignore[reportArgumentType]
    )


def latency(draft: Draft) -> Seconds:
    """End-to-end seconds of evenly drawn requests: each takes a lane, and each stage its own quantile."""
    instance = draft.instance
    points = spread_points(SAMPLES, len(instance.placed) + 1)
    ends = np.cumsum([piece.share for piece in draft.pieces])
    lane: Lanes = np.minimum(np.searchsorted(ends, points[:, -1], side="right"), len(ends) - 1)
    total = np.zeros(SAMPLES)
    times: dict[str, Seconds] = {}
    for column, stage in enumerate(instance.placed):
        arrived = _arrivals(draft, times, stage, lane)
        times[stage] = arrived + _stays(draft, stage, lane, points[:, column])
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


def _stays(draft: Draft, stage: str, lane: Lanes, at: Seconds) -> Seconds:
    """Per request, the seconds at its lane's replica of a stage, at its own quantile."""
    seconds = np.zeros(len(at))
    spots = [piece.spots[stage] for piece in draft.pieces]
    used = [spots[i] for i in sorted({int(i) for i in lane})]
    index = {spot: i for i, spot in enumerate(dict.fromkeys(used))}
    which = np.array([index.get(spot, -1) for spot in spots])[lane]
    for spot, i in index.items():
        figures = draft.figures.get((stage, spot))
        if figures is not None:
            mask = which == i
            seconds[mask] = figures.sojourn.at(at[mask])
    return seconds


def saturated(draft: Draft, level: float) -> Sequence[str]:
    """The devices that the plan keeps busier than `level`."""
    return [device for device, share in sorted(busy(draft).items()) if share > level]
