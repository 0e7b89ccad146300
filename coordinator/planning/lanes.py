"""Lanes from flows: a plan by class and site becomes replicas on devices and paths through them.

[0, 1) is cut along the DAG. Each strand gets its share; each stage cuts the pieces further by site, following the
flows from the neighbour that is cut already (the flows' graph is a forest, so there is at most one); at last each
site's pieces are dealt to its devices. Every cut keeps all marginals, so rates, accuracy and traffic are those of the
solution, and each lane has one replica per stage: inputs of a join meet. A cut adds at most one piece per quota.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from coordinator.planning.formulation import Formulation
from coordinator.planning.instance import Branch, Candidate, DeviceClass, Site

DUST: Final = 1e-10
"""Shares below this are rounding of ours."""
SPECK: Final = 1e-6
"""Shares below this are a solver's tolerance: no lane is made for them, and no device opened."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A device, and the candidate that it serves there."""

    device: str
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of [0, 1): its share and branch, the sites and the spots of its stages so far."""

    share: float
    branch: Branch
    sites: Mapping[str, int] = field(default_factory=dict[str, int])
    spots: Mapping[str, Spot] = field(default_factory=dict[str, Spot])


def cut(formulation: Formulation, values: Sequence[float]) -> list[Piece]:
    """The pieces of a solution, one per lane: each stage has its spot, and the shares sum to 1."""
    theta = values[formulation.columns.theta]
    pieces = [
        piece
        for number in range(len(formulation.strands))
        for piece in _by_site(formulation, values, number, theta)
    ]
    pieces = _by_device(formulation, values, pieces)
    total = sum(p.share for p in pieces)
    return [Piece(p.share / total, p.branch, p.sites, p.spots) for p in _merged(pieces)]


def deal(
    pieces: Iterable[Piece],
    quotas: Sequence[float],
    weight: Callable[[Piece], float],
) -> list[tuple[Piece, int]]:
    """Cut pieces in order so that the `i`-th quota's part of the total weight goes to `i`."""
    items = list(pieces)
    total, asked = sum(weight(p) for p in items), sum(quotas)
    if not items:
        return []
    if total <= 0 or asked <= 0:
        return [(p, 0) for p in items]
    ends = [q / asked * total for q in quotas]
    last = max(i for i, end in enumerate(ends) if end > 0)
    dealt: list[tuple[Piece, int]] = []
    at, room = 0, ends[0]
    for piece in items:
        left, whole = weight(piece), weight(piece)
        while at < last and left > room + DUST * total:
            if room > DUST * total:
                dealt.append((_part(piece, room / whole), at))
                left -= room
            at += 1
            room = ends[at]
        dealt.append((_part(piece, left / whole) if whole > 0 else piece, at))
        room -= left
    return dealt


def _part(piece: Piece, part: float) -> Piece:
    return Piece(piece.share * part, piece.branch, piece.sites, piece.spots)


# --- sites -------------------------------------------------------------------------------------------------------


def _by_site(
    formulation: Formulation, values: Sequence[float], number: int, theta: float
) -> list[Piece]:
    strand = formulation.strands[number]
    share = values[formulation.columns.share[number]] / theta
    if share <= SPECK:
        return []
    pieces = [Piece(share, strand.branch)]
    for stage, neighbour, edge, forward in _walk(formulation, number):
        sites = [site for site, _ in formulation.stage_sites(number, stage)]
        if neighbour is None:
            columns = [column for _, column in formulation.stage_sites(number, stage)]
            pieces = _cut_stage(pieces, stage, sites, [values[c] for c in columns])
            continue
        done: list[Piece] = []
        for here in dict.fromkeys(p.sites[neighbour] for p in pieces):
            keys = [(here, s) if forward else (s, here) for s in sites]
            columns = [formulation.columns.flow.get((number, edge, *key)) for key in keys]
            quotas = _flowing(values, columns)
            mine = [p for p in pieces if p.sites[neighbour] == here]
            done += _cut_stage(mine, stage, sites, quotas)
        pieces = done
    return pieces


def _flowing(values: Sequence[float], columns: Sequence[int | None]) -> list[float]:
    """The flows to each site; where all are lost in rounding, the first one that is allowed."""
    quotas = [values[c] if c is not None else 0.0 for c in columns]
    if sum(quotas) > DUST:
        return quotas
    first = next((i for i, c in enumerate(columns) if c is not None), 0)
    return [float(i == first) for i in range(len(columns))]


def _cut_stage(
    pieces: list[Piece], stage: str, sites: list[int], quotas: list[float]
) -> list[Piece]:
    total = sum(quotas)
    clean = [q if q > SPECK * total else 0.0 for q in quotas]
    dealt = deal(pieces, clean, lambda p: p.share)
    return [
        Piece(p.share, p.branch, {**p.sites, stage: sites[i]}, p.spots)
        for p, i in dealt
        if p.share > SPECK / 10
    ]


def _walk(formulation: Formulation, number: int) -> list[tuple[str, str | None, int, bool]]:
    """Stages, each after the neighbour whose flow it follows: (stage, neighbour, edge, neighbour is its input)."""
    fixed = formulation.strands[number].fixed
    joined: defaultdict[str, list[tuple[str, int, bool]]] = defaultdict(list)
    with_flow = {edge for strand, edge, _, _ in formulation.columns.flow if strand == number}
    for index in sorted(with_flow):
        edge = formulation.instance.edges[index]
        if edge.source not in fixed and edge.target not in fixed:
            joined[edge.source].append((edge.target, index, True))
            joined[edge.target].append((edge.source, index, False))
    order: list[tuple[str, str | None, int, bool]] = []
    seen: set[str] = set()
    for root in formulation.instance.placed:
        waiting: list[tuple[str, str | None, int, bool]] = [(root, None, -1, True)]
        while waiting:
            step = waiting.pop(0)
            if step[0] in seen:
                continue
            seen.add(step[0])
            order.append(step)
            waiting += [(s, step[0], e, f) for s, e, f in joined[step[0]]]
    return order


# --- devices -----------------------------------------------------------------------------------------------------


def _by_device(
    formulation: Formulation, values: Sequence[float], pieces: list[Piece]
) -> list[Piece]:
    instance = formulation.instance
    pieces = _split_local(formulation, values, pieces)
    quotas = _quotas(formulation, values)
    for stage in instance.placed:
        groups: defaultdict[tuple[str | None, int], list[Piece]] = defaultdict(list)
        for piece in pieces:
            if stage not in piece.spots:
                variant = piece.branch.combo.variants.get(stage)
                groups[variant, piece.sites[stage]].append(piece)
        done = [p for p in pieces if stage in p.spots]
        for (variant, site), mine in groups.items():
            done += _deal_spots(mine, stage, quotas[stage, variant, site])
        pieces = done
    return pieces


def _deal_spots(pieces: list[Piece], stage: str, quotas: list[tuple[Spot, float]]) -> list[Piece]:
    def weight(piece: Piece) -> float:
        return piece.share * piece.branch.rates[stage]

    def share(piece: Piece) -> float:
        return piece.share

    by = weight if any(weight(p) > 0 for p in pieces) else share
    dealt = deal(pieces, [q for _, q in quotas], by)
    return [Piece(p.share, p.branch, p.sites, {**p.spots, stage: quotas[i][0]}) for p, i in dealt]


def _quotas(
    formulation: Formulation, values: Sequence[float]
) -> dict[tuple[str, str | None, int], list[tuple[Spot, float]]]:
    """Per stage, variant (where combinations name it) and site: the spots there and the rate of each."""
    instance = formulation.instance
    found: defaultdict[tuple[str, str | None, int], list[tuple[Spot, float]]] = defaultdict(list)
    for device_class in instance.classes:
        for spot, rate in _spread(formulation, values, device_class):
            stage = spot.candidate.stage
            variant = spot.candidate.variant if instance.deciding(stage) else None
            found[stage, variant, device_class.site].append((spot, rate))
    used = formulation.columns.used
    for candidate in sorted(
        instance.candidates,
        key=lambda c: values[used[c.device_class, formulation.slot(c)]] < 0.5,
    ):
        variant = candidate.variant if instance.deciding(candidate.stage) else None
        device_class = instance.classes[candidate.device_class]
        key = (candidate.stage, variant, device_class.site)
        if key not in found:
            found[key] = [(Spot(device_class.members[0], candidate), 1.0)]
    return found


def _spread(
    formulation: Formulation, values: Sequence[float], device_class: DeviceClass
) -> list[tuple[Spot, float]]:
    """Deal the rates of a class to its used devices, so that all are equally busy and each has few replicas."""
    columns = formulation.columns
    by_slot: defaultdict[str, list[tuple[Candidate, float]]] = defaultdict(list)
    spots: list[tuple[Spot, float]] = []
    for candidate, column in zip(formulation.instance.candidates, columns.rate, strict=True):
        if candidate.device_class != device_class.index:
            continue
        used = columns.used[device_class.index, formulation.slot(candidate)]
        if round(values[used]) == 0 or values[column] <= SPECK * formulation.top_rate(
            candidate.stage
        ):
            continue
        if formulation.instance.stages[candidate.stage].pinned:
            part = values[column] / device_class.count
            spots += [(Spot(name, candidate), part) for name in device_class.members]
        else:
            by_slot[formulation.slot(candidate)].append((candidate, values[column]))
    first = 0
    for slot in sorted(by_slot, reverse=True):
        count = round(values[columns.used[device_class.index, slot]])
        names = device_class.members[first : first + count] or device_class.members[:1]
        spots += wrap(by_slot[slot], names)
        first += count
    return spots


def wrap(
    loads: Sequence[tuple[Candidate, float]], names: Sequence[str]
) -> list[tuple[Spot, float]]:
    """Fill equal devices one after the other to the same level (McNaughton's wrap-around rule)."""
    level = sum(rate * candidate.booked_s for candidate, rate in loads) / len(names)
    spots: list[tuple[Spot, float]] = []
    at, room = 0, level
    for candidate, rate in loads:
        left = rate * candidate.booked_s
        if left <= 0:
            spots.append((Spot(names[0], candidate), rate))
        while left > DUST * level:
            if room <= DUST * level and at < len(names) - 1:
                at, room = at + 1, level
            part = left if at == len(names) - 1 else min(left, room)
            spots.append((Spot(names[at], candidate), part / candidate.booked_s))
            left, room = left - part, room - part
    return spots


def _split_local(
    formulation: Formulation, values: Sequence[float], pieces: list[Piece]
) -> list[Piece]:
    """Where traffic must not leave the device, or the device is bounded in it, each used one serves the same mix."""
    for site in formulation.instance.sites:
        device_class = formulation.instance.classes[site.classes[0]]
        alike = site.local or formulation.instance.has_radio(site)
        if alike and device_class.count > 1:
            pieces = [
                part for piece in pieces for part in _local_parts(formulation, values, piece, site)
            ]
    return pieces


def _local_parts(
    formulation: Formulation, values: Sequence[float], piece: Piece, site: Site
) -> list[Piece]:
    stages = [stage for stage, at in piece.sites.items() if at == site.index]
    if not stages:
        return [piece]
    instance = formulation.instance
    device_class = instance.classes[site.classes[0]]
    used = sum(
        round(values[c])
        for (i, _), c in formulation.columns.used.items()
        if i == device_class.index
    )
    parts = [piece]
    for stage in stages:
        parts = [p for part in parts for p in _by_candidate(formulation, values, part, stage, site)]
    count = max(used, 1)
    return [
        Piece(
            p.share / count,
            p.branch,
            p.sites,
            {**p.spots, **{s: Spot(name, p.spots[s].candidate) for s in stages}},
        )
        for p in parts
        for name in device_class.members[:count]
    ]


def _by_candidate(
    formulation: Formulation, values: Sequence[float], piece: Piece, stage: str, site: Site
) -> list[Piece]:
    variant = piece.branch.combo.variants.get(stage)
    name = formulation.instance.classes[site.classes[0]].members[0]
    pairs = zip(formulation.instance.candidates, formulation.columns.rate, strict=True)
    quotas = [
        (Spot(name, c), values[column])
        for c, column in pairs
        if c.stage == stage
        and c.device_class == site.classes[0]
        and (variant is None or c.variant == variant)
    ]
    return _deal_spots([piece], stage, quotas)


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """One piece per path, dust swept out."""
    shares: dict[tuple[object, ...], float] = {}
    first: dict[tuple[object, ...], Piece] = {}
    for piece in pieces:
        if piece.share <= SPECK / 10:
            continue
        spots = sorted(piece.spots.items())
        key = (piece.branch.index, *((s, x.device, x.candidate.variant) for s, x in spots))
        shares[key] = shares.get(key, 0.0) + piece.share
        first.setdefault(key, piece)
    return [Piece(s, first[k].branch, first[k].sites, first[k].spots) for k, s in shares.items()]
