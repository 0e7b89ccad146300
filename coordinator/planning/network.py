"""Links between places: which entry of a problem governs a pair, and which devices are alike to the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tiermesh.documents.problem import DefaultLink, Problem, ProblemLink

DEFAULT_ENTRY: Final = -1


@dataclass(frozen=True, slots=True)
class NetworkLink:
    """What holds between two places. `entry` is the problem's link with that capacity, None where uncapped."""

    price_per_gib: float = 0.0
    rtt_ms: float = 0.0
    allowed: bool = True
    entry: int | None = None
    capacity_mbps: float | None = None

    @property
    def plain(self) -> bool:
        """Whether traffic here is free and unbounded."""
        return self.allowed and self.price_per_gib == 0.0 and self.entry is None


FREE: Final = NetworkLink()
FORBIDDEN: Final = NetworkLink(allowed=False)


class Network:
    """Looks links up: device to device wins over device to tier, and that over tier to tier."""

    def __init__(self, problem: Problem) -> None:
        self._entries: dict[tuple[str, str], tuple[int, ProblemLink]] = {}
        for i, link in enumerate(problem.links):
            self._entries.setdefault((link.source, link.target), (i, link))
        self._default = _link(DEFAULT_ENTRY, problem.default_link)
        self._tier_of = {d.name: d.tier for d in problem.devices}
        self._level = {tier: i for i, tier in enumerate(problem.tiers)}
        self._upward_only = problem.upward_only

    def between(self, source: str, target: str) -> NetworkLink:
        """The link from one device (by its name in the problem) to another, or to another of the same name."""
        here, there = self._tier_of[source], self._tier_of[target]
        if self._upward_only and self._level[there] < self._level[here]:
            return FORBIDDEN
        pairs = ((source, target), (source, there), (here, target), (here, there))
        return self._first(pairs) or self._default

    def entering(self, stage: str, target: str) -> NetworkLink:
        """The link from an outside source to a device; free where none is listed."""
        return self._first(((stage, target), (stage, self._tier_of[target]))) or FREE

    def leaving(self, source: str, stage: str) -> NetworkLink:
        """The link from a device to an outside sink; free where none is listed."""
        return self._first(((source, stage), (self._tier_of[source], stage))) or FREE

    def _first(self, pairs: Iterable[tuple[str, str]]) -> NetworkLink | None:
        for pair in pairs:
            found = self._entries.get(pair)
            if found is not None:
                return _link(*found)
        return None


def _link(entry: int, link: ProblemLink | DefaultLink) -> NetworkLink:
    return NetworkLink(
        price_per_gib=link.price_per_gib,
        rtt_ms=link.rtt_ms,
        allowed=link.allowed,
        entry=None if link.capacity_mbps is None else entry,
        capacity_mbps=link.capacity_mbps,
    )


def signatures(problem: Problem) -> dict[str, tuple[object, ...]]:
    """Per device, all that its own link entries say: devices of a tier with equal signatures are alike."""
    names = {d.name for d in problem.devices}
    found: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for i, link in enumerate(problem.links):
        if (link.source, link.target) in seen:
            continue
        seen.add((link.source, link.target))
        facts = (link.price_per_gib, link.rtt_ms, link.allowed, link.capacity_mbps and i)
        if link.source in names:
            found[link.source].append(("to", link.target, *facts))
        if link.target in names:
            found[link.target].append(("from", link.source, *facts))
    return {name: tuple(sorted(found[name], key=repr)) for name in names}


def mbps(bytes_per_second: float) -> float:
    """Bytes per second as Mbit/s."""
    return bytes_per_second * 8e-6


def gib_per_hour(bytes_per_second: float) -> float:
    """Bytes per second as GiB per hour, the unit in which traffic is priced."""
    return bytes_per_second * 3600 / 2**30
