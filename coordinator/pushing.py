"""Pushing artifacts: only what a device lacks, going on where a broken push stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import grpc.aio

from tiermesh import limits, wire
from tiermesh.documents.variant import Artifact
from tiermesh.errors import DigestMismatch, StorageFull, Unreachable
from tiermesh.v1 import rollout_pb2, rollout_pb2_grpc

BREAKS: Final = 5
"""Pushes of one artifact may break this often without getting any further."""
PAUSE_S: Final = 0.1
"""Before the second attempt; doubled for each after it."""
STALL_S: Final = 30.0
"""A push that moves no byte for so long is broken."""
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
Moved: TypeAlias = Callable[[int, int], None]
"""Told the bytes that the device has and the bytes that it needs."""


class Pushing:
    """A push to one device. `sent_bytes` counts what went over the wire."""

    def __init__(self, channel: grpc.aio.Channel, peer: str, path_of: PathOf) -> None:
        self._stub = rollout_pb2_grpc.ArtifactsStub(channel)
        self._peer = peer
        self._path_of = path_of
        self.sent_bytes = 0

    async def push(self, artifacts: Iterable[Artifact], moved: Moved = lambda _a, _b: None) -> int:
        """Make the device have all `artifacts`; returns the bytes sent.

        Raises:
            StorageFull: the device has no room for what it lacks; nothing was sent.
            DigestMismatch: a file here is not what it should be, or arrived so.
            Unreachable: the push broke too often.
        """
        wanted = {a.digest: a for a in artifacts}
        held = await self._held(wanted)
        total = sum(a.size_bytes for a in wanted.values())
        there = {d: a.size_bytes if held[d].complete else held[d].bytes for d, a in wanted.items()}
        moved(sum(there.values()), total)
        for digest, artifact in wanted.items():
            if held[digest].complete:
                continue

            def note(count: int, digest: str = digest) -> None:
                there[digest] = count
                moved(sum(there.values()), total)

            await self._push_one(artifact, held[digest].bytes, note)
        return self.sent_bytes

    async def lacking(self, artifacts: Iterable[Artifact]) -> int:
        """The bytes that a push would send."""
        wanted = {a.digest: a for a in artifacts}
        held = await self._held(wanted)
        return sum(a.size_bytes - held[d].bytes for d, a in wanted.items() if not held[d].complete)

    async def _held(self, wanted: Mapping[str, Artifact]) -> dict[str, rollout_pb2.StatReply.Held]:
        held: dict[str, rollout_pb2.StatReply.Held] = {}
        free = None
        for digests in _pieces(wanted, limits.ARTIFACTS_PER_ASSIGNMENT):
            reply = await self._stat(digests)
            free = reply.free_bytes
            held |= {digest: reply.held[digest] for digest in digests}
        lacking = sum(
            a.size_bytes - held[d].bytes for d, a in wanted.items() if not held[d].complete
        )
        if free is not None and lacking > free:
            raise StorageFull(
                f"{self._peer} has no room for the artifacts",
                why=f"they need {lacking} bytes, and {free} are free",
                fix="Free some space there, or plan without this device",
                needed_bytes=lacking,
                free_bytes=free,
            )
        return held

    async def _stat(self, digests: list[str]) -> rollout_pb2.StatReply:
        try:
            return await self._stub.Stat(
                rollout_pb2.StatRequest(digests=digests), timeout=STAT_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise wire.raised_by(error, self._peer) from None

    async def _push_one(self, artifact: Artifact, offset: int, note: Callable[[int], None]) -> None:
        path = await asyncio.to_thread(self._checked, artifact)
        breaks = 0
        while True:
            why = await self._attempt(path, artifact, offset, note)
            if why is None:
                note(artifact.size_bytes)
                return
            breaks += 1
            if breaks > BREAKS:
                raise Unreachable(
                    f"the push to {self._peer} broke {breaks} times at byte {offset}",
                    why=why,
                    fix="Check the connection, and run the command again: it goes on from there",
                    peer=self._peer,
                )
            await asyncio.sleep(PAUSE_S * 2 ** (breaks - 1))
            held = await self._offset(artifact.digest)
            if held is not None and held.complete:
                note(artifact.size_bytes)
                return
            if held is not None and held.bytes > offset:
                breaks = 0
            offset = held.bytes if held is not None else offset

    async def _offset(self, digest: str) -> rollout_pb2.StatReply.Held | None:
        try:
            return (await self._stat([digest])).held[digest]
        except Unreachable:
            return None

    def _checked(self, artifact: Artifact) -> Path:
        path = self._path_of(artifact.digest)
        size = path.stat().st_size if path.is_file() else None
        if size != artifact.size_bytes:
            raise DigestMismatch(
                f"the artifact {artifact.digest} is not as it was",
                why=f"{path} is missing"
                if size is None
                else f"{path} has {size} bytes, not {artifact.size_bytes}",
                fix="Fetch it again: coordinator variants fetch",
                digest=artifact.digest,
            )
        return path

    async def _attempt(
        self, path: Path, artifact: Artifact, offset: int, note: Callable[[int], None]
    ) -> str | None:
        """Send what is left; None when it is complete, else why not."""
        beat = asyncio.Event()
        call = self._stub.Push(self._chunks(path, artifact, offset, note, beat))
        reply = asyncio.ensure_future(_reply(call))
        try:
            while not reply.done():
                beat.clear()
                waiter = asyncio.ensure_future(beat.wait())
                done, _ = await asyncio.wait(
                    {reply, waiter}, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED
                )
                waiter.cancel()
                if not done:
                    return f"no byte moved in {STALL_S:g} s"
            return None if reply.result().complete else "the device has only a part of it"
        except grpc.aio.AioRpcError as error:
            raised = wire.raised_by(error, self._peer)
            if error.code() not in _BREAKS:
                raise raised from None
            return raised.why or raised.what
        finally:
            call.cancel()
            reply.cancel()
            await asyncio.gather(reply, return_exceptions=True)

    async def _chunks(
        self,
        path: Path,
        artifact: Artifact,
        offset: int,
        note: Callable[[int], None],
        beat: asyncio.Event,
    ) -> AsyncIterator[rollout_pb2.PushChunk]:
        file = await asyncio.to_thread(path.open, "rb")
        try:
            await asyncio.to_thread(file.seek, offset)
            yield rollout_pb2.PushChunk(
                digest=artifact.digest, size_bytes=artifact.size_bytes, offset=offset
            )
            while data := await asyncio.to_thread(file.read, limits.ARTIFACT_CHUNK_BYTES):
                yield rollout_pb2.PushChunk(data=data)
                offset += len(data)
                self.sent_bytes += len(data)
                beat.set()
                note(offset)
        finally:
            file.close()


async def _reply(
    call: grpc.aio.StreamUnaryCall[rollout_pb2.PushChunk, rollout_pb2.PushReply],
) -> rollout_pb2.PushReply:
    return await call


def _pieces(digests: Iterable[str], size: int) -> Iterable[list[str]]:
    left = iter(digests)
    while piece := list(islice(left, size)):
        yield piece
