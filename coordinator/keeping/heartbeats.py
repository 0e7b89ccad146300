"""Listening to the heartbeats of all devices, and recording who is suspect, failed, held and ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Final, Protocol

from coordinator.fleet import events
from coordinator.fleet.lifecycle import MOVED_BY_LIVENESS, DeviceState
from coordinator.fleet.liveness import (
    LivenessChanged,
    LivenessState,
    Timing,
    Vigil,
    added,
    broken,
    heard,
    passed,
    removed,
)
from coordinator.fleet.state import Device
from coordinator.journal.reconcile import Recording
from coordinator.telemetry.watching import Observed
from tiermesh import wire

LOOK_S: Final = 0.1
"""Between two looks at the clock."""
PROBE_S: Final = 0.1
"""Between two attempts to connect to a device whose stream has broken."""
PROBE_TIMEOUT_S: Final = 1.0
WHO: Final = "coordinator"
_GONE: Final = (DeviceState.LEFT, DeviceState.DISCOVERED)


class Watched(Recording, Protocol):
    """Whose devices are listened to."""

    now: Callable[[], float]

    @property
    def credentials(self) -> wire.Credentials:
        """What may be connected to, and how."""
        ...

    def watch(
        self, *, interval_s: float = 1.0, devices: Iterable[Device] | None = None
    ) -> AsyncGenerator[Observed]:
        """Telemetry of devices, as it comes."""
        ...


class Listening:
    """Listens to every device of a mesh that has not been taken out, also to those that come later."""

    def __init__(
        self,
        mesh: Watched,
        *,
        interval_s: float,
        told: Callable[[Observed], None],
        timing: Timing,
    ) -> None:
        self._mesh = mesh
        self._interval_s = interval_s
        self._told = told
        self._vigil = Vigil(timing=timing)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._wrong_since: dict[str, float] = {}

    async def run(self) -> None:
        """Listen until this is cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                self._follow_all()
                self._vigil, moved = passed(self._vigil, clock())
                await self._mesh.record(*self._news(moved))
                await asyncio.sleep(LOOK_S)
                self._raise_what_failed()
        finally:
            tasks = [*self._tasks.values(), *self._probes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _raise_what_failed(self) -> None:
        for task in self._tasks.values():
            if task.done():
                task.result()

    def _follow_all(self) -> None:
        devices = self._mesh.fleet.devices
        for device in devices.values():
            if device.state not in _GONE and device.id not in self._tasks:
                standing = _standing(device, self._mesh.now())
                self._vigil = added(self._vigil, device.id, standing)
                self._tasks[device.id] = asyncio.create_task(self._follow(device))
        for device_id in [d for d in self._tasks if devices[d].state in _GONE]:
            self._tasks.pop(device_id).cancel()
            self._vigil = removed(self._vigil, device_id)

    async def _follow(self, device: Device) -> None:
        watching = self._mesh.watch(interval_s=self._interval_s, devices=[device])
        async with contextlib.aclosing(watching):
            async for observed in watching:
                if observed.sample is not None:
                    self._vigil = heard(self._vigil, device.id)
                else:
                    self._vigil = broken(self._vigil, device.id, observed.why)
                    self._probe(device.id, observed.why)
                self._told(observed)

    def _probe(self, device_id: str, why: str) -> None:
        probe = self._probes.get(device_id)
        if probe is None or probe.done():
            self._probes[device_id] = asyncio.create_task(self._look_for(device_id, why))

    async def _look_for(self, device_id: str, why: str) -> None:
        """Try to connect until heartbeats come again: a refusal says that the process has ended."""
        while (pulse := self._vigil.pulses.get(device_id)) and pulse.broken_at is not None:
            gone = await self._refuses(self._mesh.fleet.devices[device_id])
            pulse = self._vigil.pulses.get(device_id)
            if pulse is not None and pulse.broken_at is not None:
                self._vigil = broken(self._vigil, device_id, why, gone=gone)
            if pulse is not None and pulse.standing is LivenessState.FAILED:
                return
            await asyncio.sleep(PROBE_S)

    async def _refuses(self, device: Device) -> bool:
        """Whether nobody listens where a device was; False where that cannot be told."""
        expected = wire.agent(device.id)
        try:
            return await wire.is_refused(
                self._mesh.credentials, device.address, expected, timeout_s=PROBE_TIMEOUT_S
            )
        except wire.AddressRefused:
            return False

    def _news(self, moved: list[LivenessChanged]) -> list[events.Event]:
        """What must be recorded so that the fleet stands as it is heard."""
        found = (self._event(m) for m in (*moved, *self._mistaken()))
        return [event for event in found if event is not None]

    def _mistaken(self) -> list[LivenessChanged]:
        """Devices that the fleet takes for lost, because of a call to them, and that have been heard since."""
        wrong: dict[str, float] = {}
        heard_again: list[LivenessChanged] = []
        for device, pulse in self._vigil.pulses.items():
            state = self._mesh.fleet.devices[device].state
            if pulse.standing is LivenessState.READY and state is not DeviceState.READY:
                since = wrong[device] = self._wrong_since.get(device, self._vigil.clock)
                if pulse.heard_at > since:
                    heard_again.append(
                        LivenessChanged(device, LivenessState.READY, "its heartbeats come")
                    )
        self._wrong_since = wrong
        return heard_again

    def _event(self, moved: LivenessChanged) -> events.Event | None:
        at, device, why = self._mesh.now(), moved.device, moved.why
        state = self._mesh.fleet.devices[device].state
        if state not in MOVED_BY_LIVENESS:
            return None
        match moved.standing:
            case LivenessState.FAILED:
                return events.DeviceFailed(
                    at=at, who=WHO, device=device, why=why, hold_s=moved.hold_s
                )
            case LivenessState.HELD:
                return events.DeviceHeld(
                    at=at, who=WHO, device=device, why=why, hold_s=moved.hold_s
                )
            case LivenessState.SUSPECT if state is DeviceState.READY:
                return events.DeviceLost(at=at, who=WHO, device=device, why=why)
            case LivenessState.READY if state is not DeviceState.READY:
                return events.DeviceReturned(at=at, who=WHO, device=device, why=why)
            case _:
                return None


def _standing(device: Device, at: float) -> LivenessState:
    """How a device stands when listening to it begins."""
    if device.state is DeviceState.FAILED or device.is_held(at):
        return LivenessState.FAILED
    return LivenessState.SUSPECT if device.state is DeviceState.SUSPECT else LivenessState.READY
