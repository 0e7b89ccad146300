"""Devices, the state of the fleet, and the journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from coordinator.api.documents import (
    DeviceDocument,
    EventDocument,
    UnreachableAddress,
    encode_document,
    plain,
)
from coordinator.api.handlers.base import (
    Handlers,
    check_count,
    known_device,
    page_size_of,
    paged,
)
from coordinator.api.version import VERSION
from coordinator.fleet import replay
from coordinator.fleet.event_text import name_of, summary
from coordinator.fleet.profile_text import disturbed_share
from tiermesh import limits, wire
from tiermesh.errors import LimitExceeded
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Device
    from coordinator.journal.store import Entry
    from tiermesh.v1 import telemetry_pb2

POLL_S: Final = 0.5
"""How often the journal is read that another process writes."""


class DeviceHandlers(Handlers):
    """What there is, and what happened."""

    async def get_coordinator(self, request: pb.GetCoordinatorRequest) -> pb.CoordinatorInfo:
        """Who answers."""
        del request
        return self.info()

    def info(self) -> pb.CoordinatorInfo:
        """Who this is."""
        return pb.CoordinatorInfo(
            version=VERSION,
            pid=os.getpid(),
            mesh=self.mesh.name,
            credentials=str(self.mesh.credentials.__struct_config__.tag),
            variants=self.variants,
            tiers=self.mesh.network.tiers,
        )

    async def discover(self, request: pb.DiscoverRequest) -> pb.DiscoverReply:
        """Look for devices; a running coordinator browses all the time, and asks only those that are named."""
        check_count(request.addresses, limits.API_NAMES, "addresses")
        for address in request.addresses:
            wire.split_address(address)
        ready = await self.mesh.discover(
            request.addresses,
            expect=request.expect if request.HasField("expect") else None,
            browse=request.browse and self.keeping is None,
            timeout_s=request.timeout_s or 5.0,
        )
        unanswered = _unanswered(self.mesh.fleet, list(request.addresses))
        return pb.DiscoverReply(ready=[d.name for d in ready], unanswered=unanswered)

    async def list_devices(self, request: pb.ListDevicesRequest) -> pb.ListDevicesReply:
        """A page of the devices, by name; of a device that is asked for a sample, its battery is told."""
        fleet = self.mesh.fleet
        page, token = paged(
            fleet.devices.values(), lambda d: d.name, request.page_size, request.page_token
        )
        ready = [device for device in page if device in fleet.ready]
        samples = await self.mesh.look(ready) if request.with_samples else {}
        first = not request.page_token
        return pb.ListDevicesReply(
            devices=[encode_document(device_document(fleet, d, samples)) for d in page],
            unreachable=[encode_document(u) for u in _unreachable(fleet)] if first else [],
            next_page_token=token,
        )

    async def forget_device(self, request: pb.ForgetDeviceRequest) -> pb.ForgetDeviceReply:
        """Take a device out until it is discovered again."""
        mesh = self.writes()
        await mesh.forget(known_device(mesh.fleet, request.device))
        return pb.ForgetDeviceReply()

    async def get_fleet(self, request: pb.GetFleetRequest) -> pb.FleetSnapshot:
        """The whole state."""
        del request
        return await self._now()

    async def watch_fleet(self, request: pb.WatchFleetRequest) -> AsyncGenerator[pb.FleetChange]:
        """The state unless the client has it, before it some of the journal, and each event after that."""
        after = request.after
        _check_history(request.history)
        if not after:
            snapshot = await self._now()
            after = snapshot.number
            for entry in await self._history(after, request.history):
                yield _change(entry)
            yield pb.FleetChange(snapshot=snapshot)
        while True:
            change = self.mesh.change
            for entry in await self.mesh.history(after=after):
                after = entry.number
                yield _change(entry)
            if not self.observer:
                await change.wait()
            else:
                await self._follow(after)

    async def _history(self, number: int, most: int) -> list[Entry]:
        return await self.mesh.history(before=number + 1, limit=most) if most else []

    async def _now(self) -> pb.FleetSnapshot:
        number, fleet = await self.mesh.snapshot()
        if self.observer:
            # The number comes first: an event that is written meanwhile is told again rather than missed.
            await self.mesh.reload()
            fleet = self.mesh.fleet
        return await asyncio.to_thread(_snapshot, number, fleet)

    async def _follow(self, after: int) -> None:
        """Wait until another process has written to the journal; the mesh is then as it says."""
        while True:
            fresh = await self.mesh.history(after=after)
            if fresh:
                self.mesh.fleet = replay((entry.event for entry in fresh), self.mesh.fleet)
                return
            await asyncio.sleep(POLL_S)

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsReply:
        """The newest page of events, or of those before a number."""
        check_count(request.kinds, limits.API_NAMES, "kinds")
        size = page_size_of(request.page_size)
        device = self.mesh.fleet.named(request.about) if request.about else None
        entries = await self.mesh.history(
            after=request.after,
            before=request.before,
            kinds=list(request.kinds),
            about=device.id if device is not None else request.about,
            limit=size + 1,
        )
        more, page = len(entries) > size, entries[-size:]
        fleet = self.mesh.fleet
        return pb.ListEventsReply(
            events=[encode_document(event_document(e, fleet, details=True)) for e in page],
            older_before=page[0].number if more else 0,
        )


def _check_history(most: int) -> None:
    if most > limits.API_EVENTS_WAITING:
        raise LimitExceeded(
            f"{most} events of history",
            why=f"the limit is {limits.API_EVENTS_WAITING} (API_EVENTS_WAITING)",
        )


def _change(entry: Entry) -> pb.FleetChange:
    event = pb.RecordedEvent(number=entry.number, event=encode_document(entry.event))
    return pb.FleetChange(event=event)


def _snapshot(number: int, fleet: Fleet) -> pb.FleetSnapshot:
    return pb.FleetSnapshot(number=number, fleet=encode_document(fleet))


def _unanswered(fleet: Fleet, named: list[str]) -> list[pb.Unanswered]:
    """Which of the named addresses and known devices do not answer, and why."""
    found: list[pb.Unanswered] = []
    for key, way in fleet.sightings.items():
        if way.failures and (way.device is not None or key in named):
            device = fleet.devices.get(way.device or "")
            name = device.name if device is not None else ""
            found.append(pb.Unanswered(address=key, name=name, failures=way.failures))
    return found


def _unreachable(fleet: Fleet) -> list[UnreachableAddress]:
    return [
        UnreachableAddress(address=key, via=w.via, addresses=w.addresses, failures=w.failures)
        for key, w in fleet.sightings.items()
        if w.failures
    ]


def device_document(
    fleet: Fleet, device: Device, samples: Mapping[str, telemetry_pb2.Sample]
) -> DeviceDocument:
    """A device for programs. `samples` are those of the devices that gave one, by id."""
    from coordinator.telemetry.status import battery_of

    said, print_ = device.description, device.description.fingerprint
    sample = samples.get(device.id)
    return DeviceDocument(
        name=device.name,
        id=device.id,
        state=device.state.value,
        why=device.why,
        address=device.address,
        data_address=said.data_address,
        tier=said.tier,
        price_per_hour=said.price_per_hour,
        usable_share=said.usable_share,
        host=print_.host,
        device_class=device.device_class,
        threads=print_.threads,
        cpu_quota_cores=print_.cpu_quota_cores,
        cpu=print_.cpu.model,
        memory_bytes=print_.memory_bytes,
        runtimes={r.name: r.unavailable or r.version or "built in" for r in print_.runtimes},
        # Those that come with the agent, without a version, are on every device.
        usable_runtimes=[r.name for r in print_.runtimes if r.version and r.unavailable is None],
        emulated_slowdown=print_.emulated.slowdown if print_.emulated else None,
        agent_version=said.agent_version,
        generations=said.generations,
        seen_at=device.seen_at,
        power=print_.power,
        battery=battery_of(sample) if sample is not None else None,
        disturbed=disturbed_share(fleet, device),
    )


def event_document(entry: Entry, fleet: Fleet, *, details: bool = False) -> EventDocument:
    """An event for programs; with `details`, all that it says."""
    event = entry.event
    told: dict[str, Any] = plain(event) if details else {}
    return EventDocument(
        number=entry.number,
        at=event.at,
        who=event.who,
        by=name_of(fleet, event.who),
        event=event.kind,
        about=name_of(fleet, event.subject),
        text=summary(event),
        details=told,
    )
