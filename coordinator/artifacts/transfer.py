"""The artifact calls to one device: what it holds, pushes that go on where they broke, fetches from its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from coordinator.fleet.state import Device
from tiermesh import limits, wire
from tiermesh.errors import Unreachable
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1 import rollout_pb2_grpc

BREAKS: Final = 5
"""A transfer of one artifact may break this often without getting any further."""
PAUSE_S: Final = 0.1
"""Before the second attempt; doubled for each after it."""
STALL_S: Final = 30.0
"""A transfer that moves no byte for so long is broken."""
STAT_TIMEOUT_S: Final = 10.0

# INTERNAL and UNKNOWN are what a call says that ended while a chunk was being written.
_BREAKS: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)

PathOf: TypeAlias = Callable[[str], Path]
Held: TypeAlias = Mapping[str, pb.StatReply.Held]


@dataclass(frozen=True, slots=True)
class Sendable:
    """An artifact as it lies here, with the digests of its chunks (`tiermesh.chunks`)."""

    digest: str
    size_bytes: int
    path: Path
    chunk_digests: bytes


@dataclass(frozen=True, slots=True)
class DeviceStorage:
    """What a device holds of some artifacts, and the room that it has for more."""

    held: Held
    free_bytes: int
    reclaimable_bytes: int


class Pushing:
    """The artifacts of one device. `sent_bytes` counts what was sent to it from here."""

    def __init__(self, channel: grpc.aio.Channel, peer: str) -> None:
        self._stub = rollout_pb2_grpc.ArtifactsStub(channel)
        self._peer = peer
        self.sent_bytes = 0

    async def stat(
        self,
        digests: Iterable[str],
        *,
        keep_for: str = "",
        generation: int = 0,
        timeout_s: float = STAT_TIMEOUT_S,
    ) -> DeviceStorage:
        """What the device holds of these; with `keep_for` it keeps them for that.

        Raises:
            Unreachable: the device does not answer.
        """
        held: dict[str, pb.StatReply.Held] = {}
        reply = pb.StatReply()
        for piece in _pieces(digests, limits.ARTIFACTS_PER_ASSIGNMENT):
            request = pb.StatRequest(digests=piece, keep_for=keep_for, generation=generation)
            try:
                reply = await self._stub.Stat(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise wire.raised_by(error, self._peer) from None
            held |= {digest: reply.held[digest] for digest in piece}
        return DeviceStorage(held, reply.free_bytes, reply.reclaimable_bytes)

    async def push(self, artifact: Sendable, note: Callable[[int], None]) -> None:
        """Send what the device lacks of an artifact; `note` is told the bytes that it has.

        At most one chunk (`limits.ARTIFACT_CHUNK_BYTES`) is ever on its way, so that a break costs no more.

        Raises:
            DigestMismatch: it arrived otherwise than it lies here.
            StorageFull: the device is full.
            Unreachable: the push broke too often.
        """
        breaks = Breaks(self._peer)
        while True:
            why = await self._attempt(artifact, breaks.moved(note))
            if why is None:
                return
            await breaks.pause(why)

    async def _attempt(self, artifact: Sendable, note: Callable[[int], None]) -> str | None:
        """Send what is left; None when it is complete, else why not."""
        call = self._stub.Push()
        file = await asyncio.to_thread(artifact.path.open, "rb")
        try:
            return await self._send(call, artifact, file, note)
        except TimeoutError:
            return f"no byte moved in {STALL_S:g} s"
        except asyncio.InvalidStateError:
            return f"the call ended: {(await call.code()).name}"
        except grpc.aio.AioRpcError as error:
            return self._why_broken(error)
        finally:
            call.cancel()
            await asyncio.to_thread(file.close)

    async def _send(
        self, call: Any, artifact: Sendable, file: Any, note: Callable[[int], None]
    ) -> str | None:
        first = pb.PushChunk(
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            chunk_digests=artifact.chunk_digests,
        )
        await asyncio.wait_for(call.write(first), STALL_S)
        reply = await _told(call)
        if reply is None:
            return "the device ended the push"
        offset = reply.bytes
        await asyncio.to_thread(file.seek, offset)
        while not reply.complete:
            note(reply.bytes)
            while room := limits.ARTIFACT_CHUNK_BYTES - (offset - reply.bytes):
                size = min(limits.ARTIFACT_MESSAGE_BYTES, room)
                data = await asyncio.to_thread(file.read, size)
                if not data:
                    break
                offset += len(data)
                self.sent_bytes += len(data)
                await asyncio.wait_for(call.write(pb.PushChunk(data=data)), STALL_S)
            reply = await _told(call)
            if reply is None:
                return "the device has only a part of it"
        note(artifact.size_bytes)
        return None

    async def fetch(
        self,
        artifact: Sendable,
        peers: Sequence[Device],
        note: Callable[[int, str], None],
    ) -> pb.FetchEvent:
        """Have the device get an artifact from peers, as far as they have it.

        `note` is told the bytes that it has, and who sent the newest. A device that cannot fetch says so of
        every peer.

        Raises:
            StorageFull: the device is full.
            Unreachable: the device, not a peer, does not answer.
        """
        request = pb.FetchRequest(
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            chunk_digests=artifact.chunk_digests,
            peers=[
                pb.FetchRequest.Peer(name=p.name, address=p.address, device=p.id) for p in peers
            ],
        )
        call = self._stub.Fetch(request)
        last = pb.FetchEvent()
        try:
            while (event := await _next(call)) is not None:
                last = event
                note(event.bytes, event.peer)
        except TimeoutError:
            raise Unreachable(f"{self._peer} did not answer for {STALL_S:g} s") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise Unreachable(
                    f"{self._peer} stopped fetching", why=self._why_broken(error), peer=self._peer
                ) from None
            return pb.FetchEvent(failures={peer.name: "the device cannot fetch" for peer in peers})
        finally:
            call.cancel()
        return last

    async def collect(self, *, free: bool) -> pb.CollectReply:
        """What the device holds and why; with `free`, it frees what nothing needs.

        Raises:
            Unreachable: the device does not answer.
        """
        try:
            return await self._stub.Collect(pb.CollectRequest(free=free), timeout=STALL_S)
        except grpc.aio.AioRpcError as error:
            raise wire.raised_by(error, self._peer) from None

    def _why_broken(self, error: grpc.aio.AioRpcError) -> str:
        raised = wire.raised_by(error, self._peer)
        if error.code() not in _BREAKS:
            raise raised from None
        return raised.why or raised.what


class Breaks:
    """Counts the breaks of a transfer that did not get any further, and waits after each."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._count = 0
        self._best = -1

    def moved(self, note: Callable[[int], None]) -> Callable[[int], None]:
        """`note`, and watch it: who gets further may break again."""

        def noted(count: int) -> None:
            if count > self._best:
                self._best, self._count = count, 0
            note(count)

        return noted

    async def pause(self, why: str) -> None:
        """Wait before another attempt.

        Raises:
            Unreachable: there were too many.
        """
        self._count += 1
        if self._count > BREAKS:
            raise Unreachable(
                f"the push to {self._peer} broke {self._count} times at byte {max(self._best, 0)}",
                why=why,
                fix="Check the connection and run the command again; the transfer resumes",
                peer=self._peer,
            )
        await asyncio.sleep(PAUSE_S * 2 ** (self._count - 1))


async def _told(call: Any) -> pb.PushReply | None:
    """The next reply to a push; a failure is raised as the error that it is."""
    reply = await _next(call)
    if reply is not None and reply.failure:
        raise wire.decode_error(reply.failure)
    return reply


async def _next(call: Any) -> Any:
    """The next message of a call, None at its end; TimeoutError when none comes in time."""
    message = await asyncio.wait_for(call.read(), STALL_S)
    return None if message is grpc.aio.EOF else message


def _pieces(digests: Iterable[str], size: int) -> Iterable[list[str]]:
    left = iter(digests)
    while piece := list(islice(left, size)):
        yield piece
