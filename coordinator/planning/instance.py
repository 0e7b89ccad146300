"""A problem made ready for planning: device classes, sites, candidates, and the rates of every combination.

* A *device class* is the devices that are equal in all that a plan can see; the plan counts them.
* A *site* is the classes of one tier that the network does not tell apart, with free traffic among them. Flows run
  between sites; inside a site devices are interchangeable, which is what keeps a fleet of thousands small.
* Where traffic inside would not be free, every class is a site of its own, and what stays on one device is free.
"""

from __future__ import annotations

import graphlib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from coordinator.planning.accuracy import Combo, combinations
from coordinator.planning.checking import check, members
from coordinator.planning.network import FREE, Link, Network, signatures
from tiermesh.documents.problem import (
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
)


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """Devices equal in all that matters. `like` is the problem's entry for one of them."""

    index: int
    like: ProblemDevice
    members: tuple[str, ...]
    site: int

    @property
    def count(self) -> int:
        """How many devices there are."""
        return len(self.members)


@dataclass(frozen=True, slots=True)
class Site:
    """Classes that the network does not tell apart. `local`: what goes on inside stays on one device."""

    index: int
    classes: tuple[int, ...]
    like: str
    local: bool


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A stage's variant on a class, at a batch size: seconds of device time per item. Equal only to itself."""

    stage: str
    variant: str | None
    device_class: int
    seconds: float
    memory_mb: float
    batch: BatchTime | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A combination with the rates that follow from it: items per second of each stage when all requests take it."""

    index: int
    combo: Combo
    rates: dict[str, float]


@dataclass(frozen=True)
class Instance:
    """The problem, indexed. `placed` are the stages to place, inputs first; `delays`: time on links matters."""

    problem: Problem
    network: Network
    stages: dict[str, ProblemStage]
    placed: tuple[str, ...]
    edges: tuple[ProblemEdge, ...]
    classes: tuple[DeviceClass, ...]
    sites: tuple[Site, ...]
    candidates: tuple[Candidate, ...]
    branches: tuple[Branch, ...]
    delays: bool = False

    @cached_property
    def by_stage(self) -> dict[str, list[Candidate]]:
        """The candidates of each placed stage."""
        found: dict[str, list[Candidate]] = {stage: [] for stage in self.placed}
        for candidate in self.candidates:
            found[candidate.stage].append(candidate)
        return found

    @cached_property
    def class_of(self) -> dict[str, DeviceClass]:
        """The class of each device, by the device's own name."""
        return {name: c for c in self.classes for name in c.members}

    @cached_property
    def entry_of(self) -> dict[str, str]:
        """The name in the problem of each device."""
        return {name: d.name for d in self.problem.devices for name in members(d)}

    @cached_property
    def profile_of(self) -> dict[tuple[str, str | None, str], ProblemProfile]:
        """The profiles by stage, variant and the device's name in the problem."""
        return {(p.stage, p.variant, p.device): p for p in self.problem.profiles}

    @cached_property
    def request_rate(self) -> float:
        """Requests per second: the rate of the busiest source."""
        return max(s.rate_rps or 0.0 for s in self.stages.values() if s.kind == "source")

    def pinned_share(self, stage: str, device_class: DeviceClass) -> float:
        """The share of a pinned stage's requests that enter (or leave) at the devices of a class."""
        share = self.stages[stage].pinned.get(device_class.like.name, 0.0)
        return share * device_class.count / device_class.like.count

    def pinned_to(self, device_class: DeviceClass) -> bool:
        """Whether some stage must be on every device of the class."""
        return any(s.pinned.get(device_class.like.name) for s in self.stages.values())

    def deciding(self, stage: str) -> bool:
        """Whether combinations name the stage's variant."""
        return stage in self.branches[0].combo.variants if self.branches else False

    def variant_in(self, branch: Branch, stage: str) -> str | None:
        """The variant of a stage in a branch; None where any will do or there is none."""
        variants = self.stages[stage].variants
        only = variants[0] if len(variants) == 1 else None
        return branch.combo.variants.get(stage, only)

    def carried(self, edge: ProblemEdge, branch: Branch) -> tuple[float, float]:
        """(ratio, bytes per item written) of an edge in a branch."""
        return carried(
            edge, self.variant_in(branch, edge.source), self.variant_in(branch, edge.target)
        )

    def bytes_per_second(self, edge: ProblemEdge, branch: Branch) -> float:
        """What an edge carries when all requests take the branch."""
        return branch.rates[edge.source] * self.carried(edge, branch)[1]

    def link(self, source: Site, target: Site) -> Link:
        """The link between sites, or inside one."""
        if source.index == target.index and source.local:
            return FREE
        return self.network.between(source.like, target.like)

    def has_radio(self, site: Site) -> bool:
        """Whether what a device of the site sends or takes is bounded."""
        like = self.classes[site.classes[0]].like
        return like.uplink_mbps is not None or like.downlink_mbps is not None

    def plain(self, link: Link) -> bool:
        """Whether a link is free, unbounded and, where that matters, without delay."""
        return link.plain and not (self.delays and link.rtt_ms)

    def sites_of(self, stage: str, variant: str | None) -> list[Site]:
        """The sites with a candidate for the stage (and variant, where one is given)."""
        found = {
            self.classes[c.device_class].site
            for c in self.by_stage[stage]
            if variant is None or c.variant == variant
        }
        return [self.sites[i] for i in sorted(found)]


def carried(
    edge: ProblemEdge, source_variant: str | None, target_variant: str | None
) -> tuple[float, float]:
    """(ratio, bytes per item written) of an edge for a pair of variants."""
    ratio = edge.ratio_by_variant.get(source_variant or "", edge.ratio)
    size = edge.bytes_by_variant.get(source_variant or "", edge.bytes_per_item)
    matching = [
        row
        for row in edge.by_variants
        if row.source_variant in (None, source_variant)
        and row.target_variant in (None, target_variant)
    ]
    ratio = next((row.ratio for row in matching if row.ratio is not None), ratio)
    size = next((row.bytes_per_item for row in matching if row.bytes_per_item is not None), size)
    return ratio, size


def build(
    problem: Problem, *, exclusive: bool = False, apart: bool = False, delays: bool = False
) -> Instance:
    """Check and index a problem.

    `exclusive`: no two stages share a device, so nothing stays on one. `apart`: every device is a class and a site
    of its own, which is slow and trusts nothing. `delays`: time matters, so links with a delay are told apart, and
    each batch size measured is a candidate.

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
    )
    instance = replace(instance, candidates=tuple(_candidates(instance)))
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
        capped = device.uplink_mbps is not None or device.downlink_mbps is not None
        return capped or not inside.plain or (self.delays and inside.rtt_ms > 0)


def _group(
    problem: Problem, network: Network, grouping: Grouping
) -> tuple[tuple[DeviceClass, ...], tuple[Site, ...]]:
    marks = signatures(problem)
    keys = _device_keys(problem, marks)
    grouped: defaultdict[tuple[object, ...], list[ProblemDevice]] = defaultdict(list)
    for device in problem.devices:
        grouped[keys[device.name]].append(device)
    parts = [part for group in grouped.values() for part in _parts(problem, group)]
    if grouping.apart:
        parts = [(like, (name,)) for like, names in parts for name in names]
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
        profiles[p.device].append((p.stage, p.variant or "", p.memory_mb, times))
    return {
        d.name: (
            _facts(d),
            marks[d.name],
            tuple(sorted(profiles[d.name])),
            tuple(d.name in s.devices for s in problem.stages),
            d.name if any(d.name in s.pinned for s in problem.stages) else None,
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


def _candidates(instance: Instance) -> list[Candidate]:
    profiles: defaultdict[tuple[str, str], list[ProblemProfile]] = defaultdict(list)
    for profile in instance.problem.profiles:
        profiles[profile.stage, profile.device].append(profile)
    measured = {p.stage for p in instance.problem.profiles}
    found: list[Candidate] = []
    for name in instance.placed:
        stage = instance.stages[name]
        timeless = not stage.variants and name not in measured
        for c in instance.classes:
            if not _may_run(stage, c.like):
                continue
            if timeless:
                found.append(Candidate(name, None, c.index, 0.0, 0.0, None))
            found += [
                candidate
                for p in profiles[name, c.like.name]
                if c.like.memory_mb is None or p.memory_mb <= c.like.memory_mb
                for candidate in _of_profile(p, c, every_batch=instance.delays and c.count == 1)
            ]
    return found


def _of_profile(
    profile: ProblemProfile, device_class: DeviceClass, *, every_batch: bool
) -> Iterator[Candidate]:
    """A candidate for each batch size, or for the one that needs the least time per item."""
    best = min(profile.batches, key=lambda b: (b.mean / b.batch_size, b.batch_size))
    for batch in profile.batches if every_batch else [best]:
        yield Candidate(
            stage=profile.stage,
            variant=profile.variant,
            device_class=device_class.index,
            seconds=batch.mean / batch.batch_size,
            memory_mb=profile.memory_mb,
            batch=batch,
        )


def _may_run(stage: ProblemStage, device: ProblemDevice) -> bool:
    if stage.pinned:
        return stage.pinned.get(device.name, 0.0) > 0
    in_tier = not stage.tiers or device.tier in stage.tiers
    return in_tier and (not stage.devices or device.name in stage.devices)


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
