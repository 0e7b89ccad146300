"""A problem made ready for planning: device classes, sites, candidates, and the rates of every combination.

* A *device class* is the devices that are equal in all that a plan can see; the plan counts them.
* A *site* is the classes of one tier that the network does not tell apart, with free traffic among them. Flows run
  between sites; inside a site devices are interchangeable, which is what keeps a fleet of thousands small.
* Where traffic inside would not be free, every class is a site of its own, and what stays on one device is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from coordinator.planning.accuracy import Combo
from coordinator.planning.checking import members
from coordinator.planning.margin import DeviceTimeMargin
from coordinator.planning.network import FREE, Network, NetworkLink
from tiermesh.documents.problem import (
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemEdge,
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

    @property
    def serverless(self) -> bool:
        """Whether it stands for a provider's functions."""
        return self.like.serverless is not None


@dataclass(frozen=True, slots=True)
class Site:
    """Classes that the network does not tell apart. `local`: what goes on inside stays on one device."""

    index: int
    classes: tuple[int, ...]
    like: str
    local: bool


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A stage's variant on a class, at a batch size: seconds of device time per item. Equal only to itself.

    `timeout_s` is None where it is chosen once the plan's rates are known. `stay_s` is the mean from arrival to
    departure, where latency matters. A function takes no device time, and costs `usd_per_item`. `stretch` is the
    margin's, at least 1.
    """

    stage: str
    variant: str | None
    device_class: int
    seconds: float
    memory_mb: float
    batch: BatchTime | None
    timeout_s: float | None = None
    stay_s: float | None = None
    usd_per_item: float = 0.0
    stretch: float = 1.0

    @property
    def booked_s(self) -> float:
        """Device seconds per item that count against the usable share: with margin, more than it takes."""
        return self.seconds * self.stretch


@dataclass(frozen=True, slots=True)
class Branch:
    """A combination with the rates that follow from it: items per second of each stage when all requests take it."""

    index: int
    combo: Combo
    rates: dict[str, float]


@dataclass(frozen=True)
class Instance:
    """The problem, indexed. `placed` are the stages to place, inputs first; `delays`: time on links matters.

    `margin` is what is planned with; None where nothing is.
    """

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
    margin: DeviceTimeMargin | None = None

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
    def serverless(self) -> bool:
        """Whether functions are on offer."""
        return any(c.serverless for c in self.classes)

    @cached_property
    def batches_of(self) -> dict[tuple[str, str | None, str, float], tuple[BatchTime, ...]]:
        """The batch times measured by stage, variant, the device's name in the problem, and memory."""
        profiles = self.problem.profiles
        return {(p.stage, p.variant, p.device, p.memory_mb): tuple(p.batches) for p in profiles}

    def batches(self, candidate: Candidate) -> tuple[BatchTime, ...]:
        """The batch times that were measured for a candidate."""
        device = self.classes[candidate.device_class].like.name
        key = (candidate.stage, candidate.variant, device, candidate.memory_mb)
        return self.batches_of[key]

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

    def link(self, source: Site, target: Site) -> NetworkLink:
        """The link between sites, or inside one."""
        if source.index == target.index and source.local:
            return FREE
        return self.network.between(source.like, target.like)

    def has_radio(self, site: Site) -> bool:
        """Whether what a device of the site sends or takes is bounded."""
        like = self.classes[site.classes[0]].like
        return like.uplink_mbps is not None or like.downlink_mbps is not None

    def plain(self, link: NetworkLink) -> bool:
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
