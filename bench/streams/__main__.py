"""How fast frames move between two workers' processes, beside raw grpc.aio in the same run: ``python bench/streams``.

Both ends are the product's own: `Flow`, the codec and the transport. What is left out is what lies around a stream,
so the sink confirms at once and writes nothing. Raw is one message per frame through identity serializers, with no
acknowledgement at all. The delay of a hop is from a frame's making to its arrival, one frame every 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from msgspec.structs import replace

from agent.serving.flow import Flow
from agent.serving.generation import Generation
from agent.serving.instructions import Acknowledge, Wake, Write
from agent.serving.percentiles import Measurements
from agent.serving.sink import Sink
from agent.serving.streams.sender import Link
from agent.serving.streams.transport import Incoming, Outgoing
from tiermesh import wire
from tiermesh.documents.assignment import Assignment, Peer, ReplicaSpec, SinkSpec, StageSpec
from tiermesh.documents.plan import Lane
from tiermesh.frames import Frame, Kind, pack

SIZES = {"100 B": 100, "1 KiB": 1_024, "8 KiB": 8_192, "147 KiB": 150_528, "800 KiB": 819_200}
RAW = "/bench.Raw/Send"
FRAME = Frame(Kind.DATA, 1, 0, "0" * 32, 1, "in", "out", (), 0.0, 1e8)


class Driver:
    """One end: carries out what its flow says, without files or a compute lane."""

    def __init__(self, device: str, peer: str) -> None:
        self._flow = Flow("bench", device, 1)
        self._flow.sinks["out"] = Sink("run", kept=1)
        self._flow.prepare(Generation(_assignment(device, peer), self.now()))
        self.incoming = Incoming(self, device)
        self.outgoing: Outgoing | None = None
        self.delays = Measurements()
        self.arrived = 0

    def now(self) -> float:
        """The clock that both processes share."""
        return time.monotonic()

    def flow(self, workflow: str = "bench") -> Flow:
        """The flow of this end."""
        return self._flow

    def changed(self) -> None:
        """Carry out what the flow says."""
        now = self.now()
        for instruction in self._flow.take_instructions():
            match instruction:
                case Write(frame=frame):
                    self.arrived += 1
                    self.delays.add(now - frame.accepted_at, now)
                    self._flow.written([instruction], now)
                case Acknowledge(device):
                    self.incoming.acknowledge("bench", device)
                case Wake() if self.outgoing is not None:
                    self.outgoing.wake()
                case _:
                    pass


def _assignment(device: str, peer: str) -> Assignment:
    stages = {
        "in": StageSpec(name="in", kind="source", outputs=["out"]),
        "out": StageSpec(name="out", kind="sink", inputs=["in"], sink=SinkSpec(kind="jsonl")),
    }
    replicas = {"in@a": "a", "out@b": "b"}
    return Assignment(
        workflow="bench",
        generation=1,
        plan="bench",
        run="run",
        device=device,
        stages=stages,
        replicas=[
            ReplicaSpec(id=replica, stage=replica[:-2])
            for replica, at in replicas.items()
            if at == device
        ],
        lanes=[Lane(share=1.0, path={"in": "in@a", "out": "out@b"})],
        replica_devices=replicas,
        peers={name: Peer(device=name, name=name, address=peer) for name in "ab"},
    )


async def serve(port: int) -> None:
    """The receiving process: both services on one port, until standard input ends."""
    driver = Driver("b", "127.0.0.1:1")
    server = wire.server()
    driver.incoming.add_to(server)

    async def count(requests: AsyncIterator[bytes], _: Any) -> bytes:
        number = 0
        async for _ in requests:
            number += 1
        return number.to_bytes(8, "little")

    async def report(_: bytes, __: Any) -> bytes:
        seen = driver.delays.percentiles(driver.now())
        driver.delays = Measurements()
        return json.dumps({"p50": seen.p50, "p99": seen.p99, "arrived": driver.arrived}).encode()

    handlers: dict[str, Any] = {
        "Send": grpc.stream_unary_rpc_method_handler(count),
        "Report": grpc.unary_unary_rpc_method_handler(report),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Raw", handlers),))
    wire.bind(server, "127.0.0.1", port)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    driver.incoming.close()
    await server.stop(0.2)


class Bench:
    """The sending process."""

    def __init__(self, address: str, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        self._channel = wire.channel(address)

    async def measure(self) -> list[dict[str, Any]]:
        """One row per size of frame."""
        driver = Driver("a", self._address)
        driver.outgoing = Outgoing(driver, driver.flow(), "b", self._address, insecure_lan=False)
        rows: list[dict[str, Any]] = []
        for label, size in SIZES.items():
            # Interleaved, so that what else runs on this machine hits both.
            ours = [await self._ours(driver, size) for _ in range(2)]
            raw = [await self._raw(size) for _ in range(2)]
            frames, bare = max(ours), max(raw)
            rows.append(
                {
                    "frame": label,
                    "frames_per_s": round(frames),
                    "mb_per_s": round(frames * size / 1e6, 1),
                    "raw_frames_per_s": round(bare),
                    "ratio": round(frames / bare, 2),
                    **await self._delay(driver, size),
                }
            )
        await driver.outgoing.close()
        await self._channel.close()
        return rows

    async def _ours(self, driver: Driver, size: int) -> float:
        """Frames a second, acknowledged; as fast as backpressure lets them go."""
        payload = pack({"image": bytes(size)})
        flow = driver.flow()
        sender = flow.links.sender("b", driver.now())
        while sender.link is not Link.UP:
            await self._offer(driver, FRAME)
        before = sender.sent_frames
        began = driver.now()
        for number in _numbers():
            if driver.now() - began > self._seconds:
                break
            while not sender.has_room("out"):  # noqa: ASYNC110 - that is what is measured
                await asyncio.sleep(0)
            frame = replace(FRAME, request_id=f"{number:032x}", payload=payload)
            flow.post.send(replace(frame, accepted_at=driver.now()), driver.now())
            if number % 64 == 0:
                driver.changed()
                await asyncio.sleep(0)
        driver.changed()
        while sender.waiting or sender.unacknowledged:  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
        return (sender.sent_frames - before) / (driver.now() - began)

    async def _offer(self, driver: Driver, frame: Frame) -> None:
        number = time.monotonic_ns()
        now = driver.now()
        driver.flow().post.send(replace(frame, request_id=f"{number:032x}", accepted_at=now), now)
        driver.changed()
        await asyncio.sleep(0.01)

    async def _raw(self, size: int) -> float:
        call = self._channel.stream_unary(RAW)()
        message = bytes(size)
        began = time.monotonic()
        sent = 0
        while time.monotonic() - began < self._seconds:
            await call.write(message)
            sent += 1
        await call.done_writing()
        arrived = int.from_bytes(await call, "little")
        if arrived != sent:
            raise RuntimeError(f"{arrived} of {sent} messages arrived")
        return arrived / (time.monotonic() - began)

    async def _delay(self, driver: Driver, size: int) -> dict[str, float]:
        report = self._channel.unary_unary("/bench.Raw/Report")
        await report(b"")
        frame = replace(FRAME, payload=pack({"image": bytes(size)}))
        for _ in range(100):
            await self._offer(driver, frame)
        seen = json.loads(await report(b""))
        return {f"hop_{p}_ms": round(1_000 * seen[p], 2) for p in ("p50", "p99")}


def _numbers() -> Iterator[int]:
    number = time.monotonic_ns() << 16
    while True:
        yield (number := number + 1)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(serve(args.serve))
        return
    port = wire.free_port()
    command = [sys.executable, __file__, "--serve", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None  # noqa: S101
        receiver.stdout.readline()
        rows = asyncio.run(_run(f"127.0.0.1:{port}", args.seconds))
        assert receiver.stdin is not None  # noqa: S101
        receiver.stdin.close()
    if args.json:
        print(json.dumps(rows))
        return
    print("  ".join(f"{name:>16}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>16}" for value in row.values()))


async def _run(address: str, seconds: float) -> list[dict[str, Any]]:
    return await Bench(address, seconds).measure()


if __name__ == "__main__":
    main()
