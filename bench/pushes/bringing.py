"""``bringing.py FILE HOST:PORT...``: the coordinator's own way of bringing an artifact to devices, as a process."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from coordinator.artifacts.distribution import Brought, Distribution
from coordinator.discovery.describe import describe
from coordinator.fleet.file import FleetFile
from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Device, Fleet
from coordinator.sessions.channels import Channels
from tiermesh import ids
from tiermesh.documents.variant import Artifact


async def bring(file: Path, addresses: list[str]) -> dict[str, Brought]:
    """What it took to make the device at each address have the file."""
    data = await asyncio.to_thread(file.read_bytes)
    artifact = Artifact(digest=ids.digest_bytes(data), size_bytes=len(data))
    del data
    channels = Channels()
    try:
        devices = [await _device(channels, address) for address in addresses]
        fleet = Fleet(devices={device.id: device for device in devices})
        distribution = Distribution(channels, lambda: fleet, FleetFile)
        brought = await asyncio.gather(
            *(
                distribution.bring(
                    device, [artifact], lambda _digest: file, keep_for="the bench", generation=1
                )
                for device in devices
            )
        )
        return {device.name: one for device, one in zip(devices, brought, strict=True)}
    finally:
        await channels.close()


async def _device(channels: Channels, address: str) -> Device:
    answer = await describe(channels, address, 10.0)
    return Device(
        id=answer.device,
        name=answer.name,
        state=DeviceState.READY,
        address=address,
        device_class=answer.description.fingerprint.device_class,
        description=answer.description,
        seen_at=0.0,
    )


if __name__ == "__main__":
    done = asyncio.run(bring(Path(sys.argv[1]), sys.argv[2:]))
    print(json.dumps({name: [one.sent_bytes, one.fetched_bytes] for name, one in done.items()}))
