"""Watching the devices: samples as they come, and what they report put into the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from coordinator.discovery.describe import Answer, describe_any
from coordinator.fleet import events
from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Device
from coordinator.journal.reconcile import Recording
from coordinator.sessions.channels import Channels
from coordinator.sessions.link_quality import LinkQuality
from coordinator.sessions.session import DeviceSession, Listener, Lost, Sessions
from tiermesh import limits, wire
from tiermesh.v1 import telemetry_pb2

RETRY_S: Final = 0.5
DESCRIBE_TIMEOUT_S: Final = 5.0
RESTARTED: Final = "worker-restarted"


@dataclass(frozen=True, slots=True)
class Observed:
    """A sample of a device; without one, why the device is silent. `link` is None where it is not known.

    `received_at` is in Unix seconds by the coordinator's clock.
    """

    device: Device
    sample: telemetry_pb2.Sample | None
    why: str = ""
    link: LinkQuality | None = None
    received_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ready:
    """Something is there to be taken of a device; `taken` is what it was."""

    device: Device
    session: DeviceSession
    listener: Listener
    taken: asyncio.Future[telemetry_pb2.Sample | Lost]


class Watching:
    """Telemetry of some devices, side by side, each reconnected when it breaks.

    A slow reader misses samples rather than letting them pile up: they wait in the `Listener` of their device, which
    keeps the newest, until the reader takes them.
    """

    def __init__(
        self,
        keeper: Recording,
        channels: Channels,
        sessions: Sessions,
        devices: Iterable[Device],
        *,
        now: Callable[[], float],
        interval_s: float,
    ) -> None:
        self._keeper = keeper
        self._channels = channels
        self._sessions = sessions
        self._devices = list(devices)
        self._now = now
        self._interval_ms = max(int(interval_s * 1_000), limits.TELEMETRY_INTERVAL_MIN_MS)
        self._ready: asyncio.Queue[_Ready] = asyncio.Queue()
        """Each device is there once at most."""

    async def stream(self) -> AsyncGenerator[Observed]:
        """What is observed, until the reader stops."""
        tasks = [asyncio.ensure_future(self._follow(device)) for device in self._devices]
        try:
            while True:
                ready = await self._ready.get()
                news = ready.listener.take()
                ready.taken.set_result(news)
                yield self._observed(ready, news)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _observed(self, ready: _Ready, news: telemetry_pb2.Sample | Lost) -> Observed:
        at = self._now()
        if isinstance(news, Lost):
            return Observed(ready.device, None, news.why, received_at=at)
        return Observed(ready.device, news, link=ready.session.link, received_at=at)

    async def _follow(self, device: Device) -> None:
        session = self._sessions.to(device.id)
        with session.listening(self._interval_ms) as listener:
            while True:
                await listener.told()
                taken = asyncio.get_running_loop().create_future()
                self._ready.put_nowait(_Ready(device, session, listener, taken))
                # A device that is lost is looked for at once, also where the reader is slow.
                news = listener.lost or await taken
                if isinstance(news, Lost):
                    await self._lost(device, news.why)
                    await session.connected()
                    device = await self._found_again(device)
                    await taken

    async def _lost(self, device: Device, why: str) -> None:
        known = self._keeper.fleet.devices.get(device.id)
        if known is not None and known.state is DeviceState.READY:
            await self._keeper.record(
                events.DeviceLost(at=self._now(), who="coordinator", device=device.id, why=why)
            )

    async def _found_again(self, device: Device) -> Device:
        """Wait until the device answers; it may have another data address now."""
        while True:
            fleet = self._keeper.fleet
            device = fleet.devices.get(device.id, device)
            ways = {k: s for k, s in fleet.sightings.items() if s.device == device.id}
            key = next(iter(ways), None)
            addresses = dict.fromkeys(
                [device.address, *(a for s in ways.values() for a in s.addresses)]
            )
            expected = wire.agent(device.id)
            answer = await describe_any(self._channels, addresses, DESCRIBE_TIMEOUT_S, expected)
            if isinstance(answer, Answer):
                described = events.DeviceDescribed(
                    at=self._now(),
                    who=device.id,
                    sighting=key or device.address,
                    address=answer.address,
                    device=answer.device,
                    name=answer.name,
                    description=answer.description,
                )
                await self._keeper.record(described)
                return self._keeper.fleet.devices[device.id]
            await asyncio.sleep(RETRY_S)


async def look(
    sessions: Sessions, devices: Iterable[Device], timeout_s: float
) -> dict[str, telemetry_pb2.Sample]:
    """One sample of each device, by id; devices that give none in time are left out."""

    async def one(device: Device) -> telemetry_pb2.Sample | Lost:
        with sessions.to(device.id).listening(limits.TELEMETRY_INTERVAL_MIN_MS) as listener:
            return await listener.next()

    tasks = {device.id: asyncio.create_task(one(device)) for device in devices}
    if not tasks:
        return {}
    done, late = await asyncio.wait(tasks.values(), timeout=timeout_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    said = {device: task.result() for device, task in tasks.items() if task in done}
    return {device: sample for device, sample in said.items() if not isinstance(sample, Lost)}


async def note(keeper: Recording, device: str, boot: str, said: telemetry_pb2.DeviceEvent) -> None:
    """Put what a device reported into the journal, once. `boot` names the start of its agent."""
    known = keeper.fleet.devices.get(device)
    if known is None or boot != known.noted_boot or said.number > known.noted_number:
        await keeper.record(noted(device, boot, said))


def noted(device: str, boot: str, said: telemetry_pb2.DeviceEvent) -> events.Event:
    """The event of what a device reported; its time is by the device's clock."""
    text = " ".join(said.text.split())[:1_000]
    if said.kind == RESTARTED:
        return events.WorkerRestarted(
            at=said.at, who=device, device=device, boot=boot, number=said.number, text=text
        )
    return events.DeviceNoted(
        at=said.at,
        who=device,
        device=device,
        boot=boot,
        number=said.number,
        note=said.kind[: limits.NAME_CHARS],
        text=text,
    )
