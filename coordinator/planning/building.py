"""Makes an instance of a problem: classes and sites of devices, candidates, and combinations with their rates."""

from __future__ import annotations

import graphlib
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Final

from coordinator.planning.accuracy import combinations
from coordinator.planning.candidates import PLAINLY, Candidates, Choosing
from coordinator.planning.checking import check, members
from coordinator.planning.instance import Branch, DeviceClass, Instance, Site
from coordinator.planning.margin import DeviceTimeMargin
from coordinator.planning.network import Network, signatures
from tiermesh.documents.problem import Problem, ProblemDevice


def build(
    problem: Problem,
    *,
    exclusive: bool = False,
    apart: bool = False,
    delays: bool = False,
    choosing: Choosing = PLAINLY,
    margin: DeviceTimeMargin | None = None,
) -> Instance:
    """Check and index a problem.

    `exclusive`: no two stages share a device, so nothing stays on one. `apart`: every device is a class and a site
    of its own, which is slow and trusts nothing. `delays`: time matters, so links with a delay are told apart.
    `margin` is what device times are planned with.

    Raises:
        InvalidDocument: the problem makes no sense.
    """
    check(problem)
    network = Network(problem)
    stages = {stage.name: stage for stage in problem.stages}
    order = _order(problem)
    grouping = Grouping(exclusive=exclusive, apart=apart, delays=delays)
    classes, sites = _group(problem, network, grouping)
    instance = Instance(
        problem=problem,
        network=network,
        stages=stages,
        placed=tuple(name for name in order if not stages[name].external),
        edges=tuple(problem.edges),
        classes=classes,
        sites=sites,
        candidates=(),
        branches=(),
        delays=delays,
        margin=margin,
    )
    candidates = Candidates(instance, order, choosing)
    instance = replace(instance, candidates=tuple(candidates.all()))
    return replace(instance, branches=tuple(_branches(instance, order)))


def _order(problem: Problem) -> list[str]:
    inputs: dict[str, list[str]] = {stage.name: [] for stage in problem.stages}
    for edge in problem.edges:
        inputs[edge.target].append(edge.source)
    return list(graphlib.TopologicalSorter(inputs).static_order())


@dataclass(frozen=True, slots=True)
class Grouping:
    """What tells devices apart; see `build`."""

    exclusive: bool
    apart: bool
    delays: bool

    def closes(self, network: Network, device: ProblemDevice) -> bool:
        """Whether traffic among devices like this one is not free, so that their class is a site of its own."""
        inside = network.between(device.name, device.name)
        return _has_radio(device) or not inside.plain or (self.delays and inside.rtt_ms > 0)

    def tells_apart(self, device: ProblemDevice) -> bool:
        """Whether each device like this one is a class: where stages share no device, what one sends is its stage's."""
        return self.apart or (self.exclusive and _has_radio(device))


def _has_radio(device: ProblemDevice) -> bool:
    return device.uplink_mbps is not None or device.downlink_mbps is not None


def _group(
    problem: Problem, network: Network, grouping: Grouping
) -> tuple[tuple[DeviceClass, ...], tuple[Site, ...]]:
    marks = signatures(problem)
    keys = _device_keys(problem, marks)
    grouped: defaultdict[tuple[object, ...], list[ProblemDevice]] = defaultdict(list)
    for device in problem.devices:
        grouped[keys[device.name]].append(device)
    parts = [part for group in grouped.values() for part in _parts(problem, group)]
    parts = [
        (like, part)
        for like, names in parts
        for part in ([(n,) for n in names] if grouping.tells_apart(like) else [names])
    ]
    by_place: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, (like, _) in enumerate(parts):
        closed = grouping.apart or grouping.closes(network, like)
        by_place[("alone", i) if closed else ("among", like.tier, marks[like.name])].append(i)
    classes: list[DeviceClass] = []
    sites: list[Site] = []
    site_of: dict[int, int] = {}
    for index, group in enumerate(by_place.values()):
        like, names = parts[group[0]]
        closed = grouping.closes(network, like)
        alike = not grouping.exclusive and not _memory_binds(problem, like)
        local = len(group) == 1 and (len(names) == 1 or (closed and alike))
        sites.append(Site(index, tuple(group), like.name, local=local))
        site_of |= dict.fromkeys(group, index)
    for i, (like, names) in enumerate(parts):
        classes.append(DeviceClass(i, like, names, site_of[i]))
    return tuple(classes), tuple(sites)


def _device_keys(
    problem: Problem, marks: dict[str, tuple[object, ...]]
) -> dict[str, tuple[object, ...]]:
    profiles: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
    for p in problem.profiles:
        times = tuple(
            (b.batch_size, b.mean, tuple(sorted(b.percentiles.items()))) for b in p.batches
        )
        sure = (tuple(p.relative_errors), p.served)
        profiles[p.device].append((p.stage, p.variant or "", p.memory_mb, times, sure))
    return {
        d.name: (
            _facts(d),
            marks[d.name],
            tuple(sorted(profiles[d.name])),
            tuple(d.name in s.devices for s in problem.stages),
            d.name if d.serverless or any(d.name in s.pinned for s in problem.stages) else None,
        )
        for d in problem.devices
    }


def _facts(device: ProblemDevice) -> tuple[object, ...]:
    """All of a device but its name and count."""
    return (
        device.tier,
        device.price_per_hour,
        device.memory_mb,
        device.usable_share,
        device.watts_busy,
        device.watts_idle,
        device.uplink_mbps,
        device.downlink_mbps,
        device.contention,
    )


def _parts(
    problem: Problem, group: list[ProblemDevice]
) -> list[tuple[ProblemDevice, tuple[str, ...]]]:
    """A class, with one device split off for each stateful stage, which must be on a single device.

    Where not everything fits into memory, what is loaded is chosen for a part of the class at a time.
    """
    like = group[0]
    names = [name for device in group for name in members(device)]
    singles = min(sum(s.stateful for s in problem.stages), len(names) - 1)
    parts = [(like, (name,)) for name in names[:singles]]
    rest = names[singles:]
    size = math.ceil(len(rest) / MEMORY_PARTS) if _memory_binds(problem, like) else len(rest)
    return [
        *parts,
        *((like, tuple(part)) for part in (rest[i : i + size] for i in range(0, len(rest), size))),
    ]


MEMORY_PARTS: Final = 8


def _memory_binds(problem: Problem, device: ProblemDevice) -> bool:
    wanted = math.fsum(p.memory_mb for p in problem.profiles if p.device == device.name)
    return device.memory_mb is not None and wanted > device.memory_mb


def _branches(instance: Instance, order: list[str]) -> list[Branch]:
    offered = {(c.stage, c.variant) for c in instance.candidates}
    placed = set(instance.placed)
    branches: list[Branch] = []
    for combo in combinations(instance.problem):
        if any((s, v) not in offered for s, v in combo.variants.items() if s in placed):
            continue
        branch = Branch(len(branches), combo, {})
        for name in order:
            branch.rates[name] = _rate(instance, branch, name)
        branches.append(branch)
    return branches


def _rate(instance: Instance, branch: Branch, name: str) -> float:
    """A stage's rate: the least over its inputs of input rate x ratio; of a union, their sum."""
    stage = instance.stages[name]
    arriving = [
        branch.rates[edge.source] * instance.carried(edge, branch)[0]
        for edge in instance.edges
        if edge.target == name
    ]
    if not arriving:
        return stage.rate_rps or 0.0
    return sum(arriving) if stage.kind == "union" else min(arriving)
