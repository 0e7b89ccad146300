"""`tiermesh.v1.Artifacts` over the store: what is held, and pushes that go on where they broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from agent.rollout.store import Store, Writer
from tiermesh import limits, wire
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1 import rollout_pb2_grpc


class ArtifactsService(rollout_pb2_grpc.ArtifactsServicer):
    """Answers `Stat` and takes `Push`, one per artifact at a time; threads touch the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._arriving: set[str] = set()

    async def Stat(  # noqa: N802 - the name in the .proto
        self, request: pb.StatRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StatReply:
        """What is held of each artifact, and how many more bytes may be stored."""
        return await wire.answer_errors(context, lambda: self._stat(list(request.digests)))

    async def Push(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.PushChunk],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.PushReply:
        """Receive one artifact, or the next part of it; pushing what is whole is no error."""
        return await wire.answer_errors(context, lambda: self._push(request_iterator))

    async def _stat(self, digests: list[str]) -> pb.StatReply:
        if len(digests) > limits.ARTIFACTS_PER_ASSIGNMENT:
            raise LimitExceeded(
                f"{len(digests)} artifacts were asked for at once",
                why=f"the limit is {limits.ARTIFACTS_PER_ASSIGNMENT}",
            )
        return await asyncio.to_thread(self._look, digests)

    def _look(self, digests: list[str]) -> pb.StatReply:
        held = {
            digest: pb.StatReply.Held(
                bytes=self._store.held(digest), complete=self._store.has(digest)
            )
            for digest in digests
        }
        return pb.StatReply(held=held, free_bytes=self._store.free_bytes())

    async def _push(self, chunks: AsyncIterator[pb.PushChunk]) -> pb.PushReply:
        first = await anext(aiter(chunks), None)
        if first is None:
            raise TiermeshError("an empty push", why="the first chunk must name the artifact")
        if await asyncio.to_thread(self._store.has, first.digest):
            return pb.PushReply(bytes=first.size_bytes, complete=True)
        if first.digest in self._arriving:
            raise TiermeshError(
                f"the artifact {first.digest} is arriving already",
                why="another push of it is under way",
                fix="Wait for that one, then ask what is held",
            )
        self._arriving.add(first.digest)
        try:
            return await self._receive(first, chunks)
        finally:
            self._arriving.discard(first.digest)

    async def _receive(
        self, first: pb.PushChunk, chunks: AsyncIterator[pb.PushChunk]
    ) -> pb.PushReply:
        writer = await asyncio.to_thread(
            self._store.writer, first.digest, first.size_bytes, first.offset
        )
        try:
            held = await _write(writer, first.data)
            async for chunk in chunks:
                held = await _write(writer, chunk.data)
            complete = await asyncio.to_thread(writer.finish)
        finally:
            await asyncio.shield(asyncio.to_thread(writer.close))
        return pb.PushReply(bytes=held, complete=complete)


async def _write(writer: Writer, data: bytes) -> int:
    if len(data) > limits.GRPC_MESSAGE_BYTES:
        raise LimitExceeded(f"a chunk has {len(data)} bytes")
    return await asyncio.to_thread(writer.write, data)
