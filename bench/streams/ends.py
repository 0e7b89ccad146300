"""The two ends of a measured stream: the product's own `Flow`, codec and transport, without files or a compute lane."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Final

import grpc

from agent.serving.endpoints.sink import SinkState
from agent.serving.flow import Flow
from agent.serving.instructions import Acknowledge, Hangup, Wake, Write
from agent.serving.routing.generation import Generation
from agent.serving.stream_io.transport import Incoming, Outgoing
from tiermesh import wire
from tiermesh.documents.assignment import Assignment, Peer, ReplicaSpec, SinkSpec, StageSpec
from tiermesh.documents.plan import Lane
from tiermesh.frames import Frame, Kind, Packed

RAW: Final = "/bench.Raw/Send"
DELAY: Final = "/bench.Raw/Delay"
REPORT: Final = "/bench.Raw/Report"
_DELAYS: Final = 10_000
_numbers = itertools.count(time.monotonic_ns() << 16)


def frames(payloads: Iterable[Packed]) -> Iterator[Frame]:
    """A frame for each payload, of a request of its own, to the sink of the other end."""
    for payload, number in zip(payloads, _numbers, strict=False):
        yield Frame(Kind.DATA, 1, 0, f"{number:032x}", 1, "in", "out", (), 0.0, 1e8, payload)


class Driver:
    """One end: carries out what its flow says. A `stalled` sink takes frames and never finishes with them."""

    def __init__(self, device: str, peer: str, *, epoch: int = 1, stalled: bool = False) -> None:
        self._flow = Flow("bench", device, epoch)
        self._flow.sinks["out"] = SinkState("run", kept=1)
        self._flow.prepare(Generation(_assignment(device, peer), self.now()))
        self._stalled = stalled
        self.incoming = Incoming(self, device)
        self.outgoing: Outgoing | None = None
        self.moved = asyncio.Event()
        """Something has been acknowledged, or a window has opened."""
        self.delays: list[float] = []
        self.arrived = 0

    def now(self) -> float:
        """The clock that all processes share."""
        return time.monotonic()

    def flow(self, workflow: str = "bench") -> Flow:
        """The flow of this end."""
        return self._flow

    def changed(self) -> None:
        """Carry out what the flow says."""
        writes: list[Write] = []
        for instruction in self._flow.take_instructions():
            match instruction:
                case Write():
                    writes.append(instruction)
                case Acknowledge(device):
                    self.incoming.acknowledge("bench", device)
                case Wake() if self.outgoing is not None:
                    self.outgoing.wake()
                case Hangup() if self.outgoing is not None:
                    self.outgoing.hang_up()
                case _:
                    pass
        self.moved.set()
        if writes:
            self._deliver(writes)

    def _deliver(self, writes: Sequence[Write]) -> None:
        now = self.now()
        self.arrived += len(writes)
        if len(self.delays) < _DELAYS:
            self.delays += [now - w.frame.accepted_at for w in writes if w.frame.accepted_at]
        if not self._stalled:
            self._flow.written(writes, now)
            self.changed()


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


async def receive(port: int, epoch: int, *, stalled: bool) -> None:
    """The receiving process: our stream and raw ones on one port, until standard input ends."""
    driver = Driver("b", "127.0.0.1:1", epoch=epoch, stalled=stalled)
    server = wire.server(wire.LOOPBACK)
    driver.incoming.add_to(server)

    async def count(requests: AsyncIterator[bytes], _: Any) -> bytes:
        number = 0
        async for _ in requests:
            number += 1
        return number.to_bytes(8, "little")

    async def delay(requests: AsyncIterator[bytes], _: Any) -> bytes:
        return json.dumps([time.monotonic() async for _ in requests]).encode()

    async def report(_: bytes, __: Any) -> bytes:
        delays, driver.delays = driver.delays, []
        return json.dumps({"arrived": driver.arrived, "delays": delays}).encode()

    handlers: dict[str, Any] = {
        "Send": grpc.stream_unary_rpc_method_handler(count),
        "Delay": grpc.stream_unary_rpc_method_handler(delay),
        "Report": grpc.unary_unary_rpc_method_handler(report),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Raw", handlers),))
    wire.bind(server, wire.LOOPBACK, "127.0.0.1", port)
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    driver.incoming.close()
    await server.stop(0.2)
