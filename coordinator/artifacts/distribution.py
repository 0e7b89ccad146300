"""Bringing artifacts to devices: from peers on their LAN where those have them, and from here only what lacks then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from coordinator.artifacts.tracker import Tracker
from coordinator.artifacts.transfer import Breaks, DeviceStorage, PathOf, Pushing, Sendable
from coordinator.artifacts.verified_files import Files
from coordinator.fleet.file import FleetFile
from coordinator.fleet.nearness import is_near, network_of
from coordinator.fleet.state import Device, Fleet
from coordinator.progress import Transfer
from coordinator.sessions.channels import Channels
from tiermesh import limits, wire
from tiermesh.documents.variant import Artifact
from tiermesh.errors import StorageFull, TiermeshError, Unreachable

Moved: TypeAlias = Callable[[Transfer], None]

PATIENCE_S: Final = 30.0
"""Peers that send nothing for so long, though they should, are given up."""
RETRY_S: Final = 1.0
"""Peers without news are asked again after this."""
LOOK_TIMEOUT_S: Final = 3.0
_RATE_WINDOW_S: Final = 3.0


@dataclass(slots=True)
class Brought:
    """What it took: bytes sent from here, and bytes that came from peers, by their names."""

    sent_bytes: int = 0
    fetched_bytes: dict[str, int] = field(default_factory=dict[str, int])


class Distribution:
    """All artifacts on their way to all devices. One per coordinator."""

    def __init__(
        self, channels: Channels, fleet: Callable[[], Fleet], network: Callable[[], FleetFile]
    ) -> None:
        self._channels = channels
        self._fleet = fleet
        self._network = network
        self.tracker = Tracker()
        self.files = Files()
        self.changed = asyncio.Event()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pushes = asyncio.Semaphore(limits.ARTIFACT_PUSHES)
        self._by_network: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(limits.ARTIFACT_PUSHES_PER_NETWORK)
        )

    async def bring(
        self,
        device: Device,
        artifacts: Iterable[Artifact],
        path_of: PathOf,
        *,
        keep_for: str,
        generation: int,
        moved: Moved = lambda _transfer: None,
    ) -> Brought:
        """Make the device have all `artifacts`, and keep them for `generation` of `keep_for`.

        Raises:
            StorageFull: the device has no room for what it lacks; nothing was sent.
            DigestMismatch: a file here is not what it should be.
            Unreachable: the transfer broke too often.
        """
        wanted = {a.digest: a for a in artifacts}
        if not wanted:
            return Brought()
        async with self._turns[device.id]:
            self.tracker.forgive(device.id)
            link = self.link(device)
            room = await link.stat(wanted, keep_for=keep_for, generation=generation)
            self.note(device.id, room)
            _check_room(device.name, wanted, room)
            near = [d for d in self._fleet().ready if is_near(device, d, self._network())]
            await self._look(near, wanted)
            meter = _Meter(wanted, room, moved)
            bringing = _Bringing(self, device, link, near=near, path_of=path_of, meter=meter)
            for artifact in sorted(wanted.values(), key=lambda a: (-a.size_bytes, a.digest)):
                if not room.held[artifact.digest].complete:
                    await bringing.one(artifact)
            bringing.brought.sent_bytes = link.sent_bytes
            return bringing.brought

    async def lacking(self, device: Device, artifacts: Iterable[Artifact]) -> int:
        """The bytes that would have to be brought to the device."""
        wanted = {a.digest: a for a in artifacts}
        return _lacking(wanted, await self.link(device).stat(wanted)) if wanted else 0

    def link(self, device: Device) -> Pushing:
        """The artifact calls to a device."""
        return Pushing(self._channels.to(device.address, wire.agent(device.id)), device.name)

    def note(self, device: str, room: DeviceStorage) -> None:
        """A device said what it holds."""
        for digest, held in room.held.items():
            self.tracker.note(device, digest, held.readable, complete=held.complete)
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for news of peers."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    @contextlib.asynccontextmanager
    async def sending_to(self, device: Device) -> AsyncGenerator[None]:
        """A turn to push: few at a time altogether, and fewer into one network."""
        async with self._by_network[network_of(device)], self._pushes:
            yield

    async def look_again(self, peers: Sequence[Device], digest: str) -> None:
        """Ask peers what they hold of an artifact; one that does not answer holds nothing."""

        async def ask(peer: Device) -> None:
            try:
                self.note(peer.id, await self.link(peer).stat([digest], timeout_s=LOOK_TIMEOUT_S))
            except TiermeshError:
                self.tracker.note(peer.id, digest, 0, complete=False)

        await asyncio.gather(*(ask(peer) for peer in peers))

    async def _look(self, near: Sequence[Device], wanted: Mapping[str, Artifact]) -> None:
        """Ask devices of the LAN that nothing is known of; those that serve something first."""
        fleet = self._fleet()
        serving = {d for running in fleet.running.values() for d in running.devices}
        unknown = [d for d in near if not all(self.tracker.knows(d.id, w) for w in wanted)]
        unknown.sort(key=lambda d: (d.id not in serving, d.name))

        async def ask(peer: Device) -> None:
            with contextlib.suppress(TiermeshError):
                self.note(peer.id, await self.link(peer).stat(wanted, timeout_s=LOOK_TIMEOUT_S))

        await asyncio.gather(*(ask(peer) for peer in unknown[: limits.ARTIFACT_PEERS]))


class _Bringing:
    """What one device lacks, on its way there."""

    def __init__(
        self,
        distribution: Distribution,
        device: Device,
        link: Pushing,
        *,
        near: Sequence[Device],
        path_of: PathOf,
        meter: _Meter,
    ) -> None:
        self._all = distribution
        self._device = device
        self._link = link
        self._near = {d.id: d for d in near}
        self._path_of = path_of
        self._meter = meter
        self.brought = Brought()

    async def one(self, artifact: Artifact) -> None:
        """Bring one artifact, however often its peers or the link fail on the way."""
        sendable = await asyncio.to_thread(self._all.files.sendable, artifact, self._path_of)
        tracker, digest = self._all.tracker, artifact.digest
        breaks = Breaks(self._device.name)
        patient_until = time.monotonic() + PATIENCE_S
        while not tracker.is_complete(self._device.id, digest):
            peers = tracker.peers(self._device.id, digest, self._near)
            if not peers:
                await self._push(sendable)
            elif await self._fetch(sendable, peers, breaks):
                patient_until = time.monotonic() + PATIENCE_S
            elif time.monotonic() > patient_until:
                for peer in peers:
                    tracker.bar(self._device.id, peer, digest)
            else:
                await self._wait_for(peers, digest)

    async def _push(self, sendable: Sendable) -> None:
        with self._all.tracker.seeding(self._device.id, sendable.digest):
            async with self._all.sending_to(self._device):
                await self._link.push(sendable, lambda held: self._note(sendable, held, ""))

    async def _fetch(self, sendable: Sendable, peers: Sequence[str], breaks: Breaks) -> bool:
        """Whether it brought anything."""
        by_name = {self._near[peer].name: peer for peer in peers}
        before = self._meter.there[sendable.digest]
        came = breaks.moved(lambda _held: None)

        def note(held: int, peer: str) -> None:
            self._note(sendable, held, peer)
            came(held)

        try:
            with self._all.tracker.reading(peers[0]):
                last = await self._link.fetch(sendable, [self._near[peer] for peer in peers], note)
        except Unreachable as error:
            await breaks.pause(str(error))
            return False
        for name in last.failures:
            if name in by_name:
                self._all.tracker.bar(self._device.id, by_name[name], sendable.digest)
        if last.complete:
            self._note(sendable, sendable.size_bytes, last.peer)
        return self._meter.there[sendable.digest] > before or bool(last.failures)

    async def _wait_for(self, peers: Sequence[str], digest: str) -> None:
        """Until there is news of somebody, at most for a moment; then ask the peers what they have."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all.changed.wait(), RETRY_S)
        await self._all.look_again([self._near[peer] for peer in peers], digest)

    def _note(self, sendable: Sendable, held: int, source: str) -> None:
        more = held - self._meter.there[sendable.digest]
        if source and more > 0:
            fetched = self.brought.fetched_bytes
            fetched[source] = fetched.get(source, 0) + more
        complete = held == sendable.size_bytes
        readable = held if complete else held - held % limits.ARTIFACT_CHUNK_BYTES
        self._all.tracker.note(self._device.id, sendable.digest, readable, complete=complete)
        self._meter.note(sendable.digest, held, source)
        self._all.tell()


class _Meter:
    """How much of what a device needs is there, and how fast it comes."""

    def __init__(self, wanted: Mapping[str, Artifact], room: DeviceStorage, moved: Moved) -> None:
        self.there = {
            d: a.size_bytes if room.held[d].complete else min(room.held[d].bytes, a.size_bytes)
            for d, a in wanted.items()
        }
        self._needed = sum(a.size_bytes for a in wanted.values())
        self._moved = moved
        self._seen = deque([(time.monotonic(), sum(self.there.values()))])
        moved(Transfer(self._seen[0][1], self._needed))

    def note(self, digest: str, held: int, source: str) -> None:
        self.there[digest] = held
        now, there = time.monotonic(), sum(self.there.values())
        self._seen.append((now, there))
        while len(self._seen) > 2 and self._seen[0][0] < now - _RATE_WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        rate = (there - before) / (now - since) if now > since else 0.0
        self._moved(Transfer(there, self._needed, max(rate, 0.0), source))


def _lacking(wanted: Mapping[str, Artifact], room: DeviceStorage) -> int:
    return sum(
        a.size_bytes - room.held[d].bytes for d, a in wanted.items() if not room.held[d].complete
    )


def _check_room(name: str, wanted: Mapping[str, Artifact], room: DeviceStorage) -> None:
    lacking = _lacking(wanted, room)
    if lacking <= room.free_bytes + room.reclaimable_bytes:
        return
    raise StorageFull(
        f"{name} does not have enough disk space for the artifacts",
        why=f"they need {lacking} bytes, {room.free_bytes} are free, and"
        f" {room.reclaimable_bytes} more are held by unused artifacts",
        fix="See what is kept there and why (coordinator artifacts), free some space, or plan"
        " without this device",
        needed_bytes=lacking,
        free_bytes=room.free_bytes,
        reclaimable_bytes=room.reclaimable_bytes,
    )
