"""What heartbeats cost a coordinator: many devices, each a control session of its own, on one core.

    python bench/heartbeats [--devices 1000] [--beats 10]

The ends are in memory: messages are serialized and parsed as on the wire, and gRPC itself is left out (bench/streams
measures it). A heartbeat is a sample of a device that serves four replicas; a reader takes each. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time

from coordinator.sessions.session import Listener
from tiermesh.conversation import Conversation, first_of
from tiermesh.histogram import fill, histogram
from tiermesh.session import ControlSession
from tiermesh.v1 import control_pb2 as pb
from tiermesh.v1 import telemetry_pb2


class Memory:
    """A call whose other end is a queue of bytes."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> pb.Up:
        """The next message."""
        return pb.Up.FromString(await self.up.get())

    async def write(self, message: pb.Down, /) -> None:
        """Send one."""
        message.SerializeToString()


class Device:
    """The coordinator's side of one session; its reader says when it has taken a sample."""

    def __init__(self, taken: asyncio.Queue[None]) -> None:
        self.session: ControlSession[pb.Down] = ControlSession(time.monotonic())
        self.link = self.session.open(1, 1, time.monotonic()).link
        self.wake = asyncio.Event()
        self.call = Memory()
        self.listener = Listener(1_000)
        self.taken = taken

    def unnumbered(self) -> tuple[pb.Down, ...]:
        """Nothing is sent."""
        return ()

    def take(self, message: pb.Up) -> None:
        """No command was given."""
        raise AssertionError(message)

    def note(self, message: pb.Up) -> None:
        """A heartbeat."""
        self.listener.tell(message.sample)

    def delivered(self, messages: list[pb.Down]) -> None:
        """Nothing was sent."""
        raise AssertionError(messages)

    async def serve(self) -> None:
        """Converse, and read what comes."""
        talk = Conversation(self, self.link, self.call, pb.Down, time.monotonic)
        await first_of(talk.read(), talk.write(), talk.until_silent(), self.follow())

    async def follow(self) -> None:
        """Take each sample."""
        while True:
            await self.listener.next()
            self.taken.put_nowait(None)


def heartbeat() -> bytes:
    """A sample as an agent sends it."""
    device_time, chance = telemetry_pb2.Histogram(), random.Random(1)
    fill(device_time, histogram(chance.lognormvariate(-2.0, 0.5) for _ in range(99)))
    replicas = [
        telemetry_pb2.ReplicaSample(
            workflow="read-signs",
            generation=7,
            replica=f"recognise@hub-1/v{i}",
            requests=10_000,
            items=40_000,
            batches=9_000,
            busy_seconds=1e4,
            device_time=device_time,
            batch_sizes={1: 5_000, 4: 4_000},
        )
        for i in range(4)
    ]
    figures = telemetry_pb2.WorkerFigures(at=time.time(), began_at=1.0, replicas=replicas)
    sample = telemetry_pb2.Sample(number=1, at=time.time(), cpu_percent=40, figures=figures)
    return pb.Up(wanted=1, sample=sample).SerializeToString()


async def measure(count: int, beats: int) -> dict[str, float]:
    """Let every device beat `beats` times, and count the coordinator's CPU time."""
    taken: asyncio.Queue[None] = asyncio.Queue()
    devices = [Device(taken) for _ in range(count)]
    tasks = [asyncio.create_task(device.serve()) for device in devices]
    beat = heartbeat()
    await asyncio.sleep(0)
    before = time.process_time()
    for _ in range(beats):
        for device in devices:
            device.call.up.put_nowait(beat)
        for _ in devices:
            await taken.get()
    cpu_s = time.process_time() - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    each_us = 1e6 * cpu_s / (count * beats)
    return {
        "devices": count,
        "heartbeat_bytes": len(beat),
        "cpu_us_per_heartbeat": round(each_us, 1),
        "core_share_at_1_per_s": round(count * each_us / 1e6, 3),
    }


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--beats", type=int, default=10)
    args = parser.parse_args()
    measured = asyncio.run(measure(args.devices, args.beats))
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
