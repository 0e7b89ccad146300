"""Who holds how much of which artifact, and whom a device should get it from next. Pure: told of all, asks nobody.

Into each LAN the coordinator sends an artifact once: to one device (the seed), while the others follow it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Generator
from contextlib import contextmanager

from tiermesh import limits


class Tracker:
    """What is known of the artifacts on all devices. Devices are named by their ids."""

    def __init__(self) -> None:
        self._readable: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._complete: defaultdict[str, set[str]] = defaultdict(set)
        self._seeds: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._readers: Counter[str] = Counter()
        self._barred: set[tuple[str, str, str]] = set()

    def note(self, device: str, digest: str, readable: int, *, complete: bool) -> None:
        """A device has `readable` verified bytes of an artifact."""
        self._readable[digest][device] = readable
        (self._complete[digest].add if complete else self._complete[digest].discard)(device)

    def knows(self, device: str, digest: str) -> bool:
        """Whether anything was noted of an artifact on a device."""
        return device in self._readable[digest]

    def is_complete(self, device: str, digest: str) -> bool:
        """Whether a device has all of an artifact."""
        return device in self._complete[digest]

    def bar(self, device: str, peer: str, digest: str) -> None:
        """A peer was of no use to a device."""
        self._barred.add((device, peer, digest))

    def forgive(self, device: str) -> None:
        """Try every peer again for a device."""
        self._barred = {entry for entry in self._barred if entry[0] != device}

    def peers(self, device: str, digest: str, near: Collection[str]) -> list[str]:
        """Which of the `near` devices to fetch from, best first; none where the coordinator must send it itself.

        Whoever has more than the device has, and whoever is being sent more. Whole before parts, then those
        that serve the fewest.
        """
        readable, complete = self._readable[digest], self._complete[digest]
        have = readable.get(device, 0)
        ahead = [
            peer
            for peer in near
            if (device, peer, digest) not in self._barred
            and (peer in complete or readable.get(peer, 0) > have or self._seeds[digest][peer] > 0)
        ]
        ahead.sort(
            key=lambda p: (p not in complete, self._readers[p], -readable.get(p, 0), p),
        )
        return ahead[: limits.ARTIFACT_PEERS]

    @contextmanager
    def seeding(self, device: str, digest: str) -> Generator[None]:
        """The coordinator sends an artifact to a device while the context lasts: its LAN follows."""
        self._seeds[digest][device] += 1
        try:
            yield
        finally:
            self._seeds[digest][device] -= 1

    @contextmanager
    def reading(self, peer: str) -> Generator[None]:
        """Somebody fetches from a peer first of all while the context lasts."""
        self._readers[peer] += 1
        try:
            yield
        finally:
            self._readers[peer] -= 1
