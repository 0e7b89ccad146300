"""The app on a made-up fleet whose devices all report every second, through the way that real samples take."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from coordinator.fleet import Fleet
from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Description, Device
from coordinator.telemetry.watching import Observed
from coordinator.tui import messages as m
from coordinator.tui.live import LiveSession
from tiermesh.documents.fingerprint import Cpu, Fingerprint
from tiermesh.v1 import telemetry_pb2 as pb

TICKS_PER_SECOND = 10
TIERS = ("edge", "hub", "datacenter")


def fleet_of(count: int) -> Fleet:
    """A fleet of `count` ready devices in three tiers."""
    devices = {f"id-{i:05}": _device(i) for i in range(count)}
    return Fleet(devices=devices)


def _device(number: int) -> Device:
    cpu = Cpu(model="made up", architecture="x86_64", cores_physical=4, cores_logical=4)
    fingerprint = Fingerprint(
        host=f"host-{number}",
        os="Linux",
        python="3.11",
        agent_version="0.1.0",
        cpu=cpu,
        memory_bytes=8 * 10**9,
        disk_bytes=10**11,
        threads=4,
    )
    description = Description(
        agent_version="0.1.0",
        protocol_version=1,
        tier=TIERS[min(number % 10 // 8, 2)],
        price_per_hour=0.01,
        usable_share=1.0,
        data_address="127.0.0.1:1",
        fingerprint=fingerprint,
    )
    return Device(
        id=f"id-{number:05}",
        name=f"device-{number:05}",
        state=DeviceState.READY,
        address="127.0.0.1:1",
        device_class=fingerprint.device_class,
        description=description,
        seen_at=time.time(),
    )


class Feed(LiveSession):
    """A session without a mesh: every device reports once a second, spread over it; none when it is `still`."""

    def __init__(self, count: int, *, still: bool = False) -> None:
        super().__init__(_never, title=f"{count} devices")
        self._fleet = fleet_of(count)
        self._still = still

    async def run(self, post: Any) -> None:
        """Tell of the fleet once, and of samples forever."""
        self._post = post
        post(m.MeshOpened(self._title, TIERS))
        post(m.FleetChanged(self._fleet))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush())
            tasks.create_task(self._report())

    async def _report(self) -> None:
        devices = list(self._fleet.devices.values())
        number = 0
        while not self._still:
            number += 1
            for i in range(number % TICKS_PER_SECOND, len(devices), TICKS_PER_SECOND):
                self.observe(Observed(devices[i], _sample(i, number), received_at=time.time()))
            await asyncio.sleep(1 / TICKS_PER_SECOND)


def _sample(device: int, number: int) -> pb.Sample:
    busy = 50 + 45 * math.sin(number / 30 + device)
    return pb.Sample(
        number=number,
        at=time.time(),
        cpu_percent=busy,
        memory_used_bytes=int(4e9 + 1e8 * busy),
        temperature_celsius=40 + busy / 4,
    )


def _never() -> Any:
    raise AssertionError("a feed opens no mesh")


if __name__ == "__main__":
    import sys

    from coordinator.tui.app import TiermeshApp

    TiermeshApp(Feed(int(sys.argv[1]), still="still" in sys.argv)).run()
