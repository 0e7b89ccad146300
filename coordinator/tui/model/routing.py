"""The ways of the lanes through the gap between two rows: a track for each card, a port for each link."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.tui.model.placement import CardLink


@dataclass(frozen=True, slots=True)
class Place:
    """Where a card is: its left cell, its top line, its size."""

    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        """The cell from which its lanes leave."""
        return self.x + self.width // 2


@dataclass(frozen=True, slots=True)
class Port:
    """Where lanes enter a card, or go on beside the rows: the cell, and what is said of them, in short and in full."""

    x: int
    short: str = ""
    full: str = ""


@dataclass(slots=True)
class LaneBundle:
    """The lanes of one card through one gap: from `x` at the top to cells at the bottom, each with its share.

    `track` is the line on which it turns, from 1; 0 for one that does not.
    """

    owner: int
    x: int
    role: str
    down: list[Port] = field(default_factory=list["Port"])
    track: int = 0

    @property
    def straight(self) -> bool:
        """Whether it goes straight down."""
        return [port.x for port in self.down] == [self.x]

    @property
    def span(self) -> tuple[int, int]:
        """Its leftmost and its rightmost cell."""
        xs = [self.x, *(port.x for port in self.down)]
        return min(xs), max(xs)


def take_tracks(bundles: Sequence[LaneBundle]) -> None:
    """Give each bundle that turns a track, the first that is free along its way; straight ones need none."""
    taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for bundle in sorted(bundles, key=lambda b: b.span):
        if bundle.straight:
            continue
        left, right = bundle.span
        track = 1
        while any(left <= end and start <= right for start, end in taken[track]):
            track += 1
        taken[track].append((left, right))
        bundle.track = track


def ports_for(
    entries: Sequence[tuple[str, str, int, CardLink]], places: Mapping[str, Place]
) -> dict[tuple[str, str], int]:
    """Where each link enters its card: in the middle when it comes from straight above alone, else beside it."""
    coming: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for source, target, x, _ in entries:
        coming[target].append((source, x))
    ports: dict[tuple[str, str], int] = {}
    for target, sources in coming.items():
        place = places[target]
        if len(sources) == 1 and sources[0][1] == place.middle:
            ports[sources[0][0], target] = place.middle
            continue
        step = max(place.width // (len(sources) + 1), 1)
        for i, (source, _) in enumerate(sources):
            x = place.x + min(step * (i + 1) - step // 2, place.width - 2)
            ports[source, target] = x + (1 if x == place.middle else 0)
    return ports


def ports_of(bundles: Sequence[LaneBundle]) -> list[int]:
    """Every cell where a link enters a card."""
    return [port.x for bundle in bundles for port in bundle.down]
