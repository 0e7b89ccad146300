"""Collecting artifacts that nothing needs: what is needed and for what, and what goes first.

Needed is what runs, what ran last before it, what is prepared, what a coordinator is bringing here for a rollout or
a measurement, and what arrives or is loaded just now. The rest goes when its room is wanted, the longest unused
first; after `limits.ARTIFACT_RETENTION_S` it goes when a workflow is stopped; and it goes when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.durable import write_whole
from agent.rollout.partial import disk_error
from agent.rollout.store import Store, StoredArtifact
from tiermesh import limits
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import TiermeshError

log = logging.getLogger(__name__)


class Pin(msgspec.Struct, frozen=True):
    """What a coordinator is bringing here for something of this generation."""

    generation: int
    digests: list[str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What is held, what it is needed for (by digest; nothing where it is not), and what was freed."""

    held: Sequence[StoredArtifact]
    needed_for: Mapping[str, str]
    freed: Sequence[StoredArtifact] = ()

    @property
    def freed_bytes(self) -> int:
        """The room that was made."""
        return sum(held.size_bytes for held in self.freed)


def collectable(
    held: Iterable[StoredArtifact],
    needed_for: Mapping[str, str],
    *,
    unused_since: float | None = None,
) -> list[StoredArtifact]:
    """What may go, the longest unused first; with `unused_since`, only what was last used before."""
    free = (h for h in held if h.digest not in needed_for)
    old = [h for h in free if unused_since is None or h.used_at < unused_since]
    return sorted(old, key=lambda h: (h.used_at, h.digest))


def enough(candidates: Iterable[StoredArtifact], wanted_bytes: int) -> list[StoredArtifact]:
    """As many of the first as make `wanted_bytes` of room; fewer bytes where that is all there is."""
    chosen: list[StoredArtifact] = []
    for held in candidates:
        if wanted_bytes <= 0:
            break
        chosen.append(held)
        wanted_bytes -= held.size_bytes
    return chosen


def rollout_of(workflow: str) -> str:
    """What a coordinator brings the artifacts of a rollout for; they are pinned until it runs."""
    return f"rollout of {workflow}"


class Collector:
    """Knows what each artifact of the store is needed for. Its methods block on the disk."""

    def __init__(
        self,
        store: Store,
        kept: Callable[[], Iterable[tuple[str, Assignment]]],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`kept` are the assignments that must stay servable, with what they are in words."""
        self._store = store
        self._kept = kept
        self._clock = clock
        self._path = store.root / "pins.json"
        self._pins = _read_pins(self._path)
        self._in_use: Counter[str] = Counter()
        # Nothing is pinned between a look and what follows from it.
        self._lock = threading.RLock()

    def pin(self, name: str, generation: int, digests: Sequence[str]) -> None:
        """Keep these for `name` until a newer generation of it is pinned, or runs here.

        Raises:
            StorageFull: the disk is full.
        """
        with self._lock:
            pinned = self._pins.get(name)
            if pinned is not None and pinned.generation == generation:
                digests = [*dict.fromkeys([*pinned.digests, *digests])]
            self._store.touch(digests)
            pin = Pin(generation, list(digests))
            if pin != pinned:
                self._write_pins({**self._pins, name: pin})

    @contextmanager
    def in_use(self, digests: Iterable[str]) -> Generator[None]:
        """Keep these while the context lasts."""
        used = list(digests)
        self._in_use.update(used)
        try:
            yield
        finally:
            self._in_use.subtract(used)

    def needed_for(self) -> dict[str, str]:
        """What each artifact is needed for, by digest.

        Raises:
            StateDamaged: an assignment cannot be read.
        """
        with self._lock:
            kept = list(self._kept())
            self._drop_pins(kept)
            found = {d: "in use" for d, users in dict(self._in_use).items() if users > 0}
            for name, pin in self._pins.items():
                found |= dict.fromkeys(pin.digests, f"coming for {name}")
            for word, assignment in reversed(kept):
                found |= dict.fromkeys(assignment.artifacts, word)
            return found

    def look(self) -> Collected:
        """What is held, and why."""
        return Collected(self._store.inventory(), self.needed_for())

    def reclaimable_bytes(self) -> int:
        """The room that collecting would make; 0 where nobody can tell."""
        try:
            seen = self.look()
        except TiermeshError as error:
            log.warning("garbage collection skipped: %s", error)
            return 0
        return sum(h.size_bytes for h in collectable(seen.held, seen.needed_for))

    def make_room(self, wanted_bytes: int) -> int:
        """Free as much as lacks for `wanted_bytes`, if there is so much to free; returns what was freed."""
        with self._lock:
            lacking = wanted_bytes - self._store.free_bytes()
            if lacking <= 0 or self.reclaimable_bytes() < lacking:
                return 0
            seen = self.look()
            return self._remove(seen, enough(collectable(seen.held, seen.needed_for), lacking))

    def collect_unused(self) -> int:
        """Free what was not used for `limits.ARTIFACT_RETENTION_S`; returns what was freed."""
        since = self._clock() - limits.ARTIFACT_RETENTION_S
        with self._lock:
            seen = self.look()
            return self._remove(seen, collectable(seen.held, seen.needed_for, unused_since=since))

    def collect(self) -> Collected:
        """Free all that nothing needs."""
        with self._lock:
            seen = self.look()
            going = collectable(seen.held, seen.needed_for)
            self._remove(seen, going)
            return Collected(seen.held, seen.needed_for, going)

    def _remove(self, seen: Collected, going: Sequence[StoredArtifact]) -> int:
        for held in going:
            self._store.remove(held.digest)
        freed = Collected(seen.held, seen.needed_for, going).freed_bytes
        if going:
            log.info("garbage collection freed %d bytes (%d unused artifacts)", freed, len(going))
        return freed

    def _drop_pins(self, kept: Sequence[tuple[str, Assignment]]) -> None:
        newest: dict[str, int] = {}
        for _, assignment in kept:
            name = rollout_of(assignment.workflow)
            newest[name] = max(newest.get(name, -1), assignment.generation)
        left = {n: pin for n, pin in self._pins.items() if pin.generation > newest.get(n, -1)}
        if len(left) < len(self._pins):
            self._write_pins(left)

    def _write_pins(self, pins: dict[str, Pin]) -> None:
        try:
            write_whole(self._path, msgspec.json.encode(pins))
        except OSError as error:
            raise disk_error("list of what is coming", error) from error
        self._pins = pins


def _read_pins(path: Path) -> dict[str, Pin]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Pin])
    except FileNotFoundError:
        return {}
    except (msgspec.MsgspecError, OSError) as error:
        # A rollout that is under way names them again.
        log.warning("discarding the record of incoming artifacts: %s", error)
        return {}
