"""`tiermesh.v1.Artifacts` over the store: pushes and fetches that go on where they broke, and what peers read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc.aio

from agent.rollout.fetching import LINGER_S, Fetching
from agent.rollout.garbage import Collected, Collector
from agent.rollout.incoming import IncomingArtifacts
from agent.rollout.store import Store
from tiermesh import limits, wire
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1 import rollout_pb2_grpc

log = logging.getLogger(__name__)

READ_OUT_S: Final = 5.0
"""For so long a failed push takes what is still sent, and drops it."""


class ArtifactsService(rollout_pb2_grpc.ArtifactsServicer):
    """One artifact arrives once at a time, from the coordinator or from peers; threads touch the disk.

    The streaming calls are coroutines that write, as grpc.aio allows and the stubs do not say: whoever cancels one
    cancels what it awaits, wherever it is.
    """

    def __init__(
        self,
        store: Store,
        collector: Collector,
        *,
        credentials: wire.Credentials = wire.LOOPBACK,
    ) -> None:
        self._store = store
        self._collector = collector
        self._credentials = credentials
        self._arrivals = IncomingArtifacts(store, collector)
        self._readers = asyncio.Semaphore(limits.ARTIFACT_READS)
        self._collecting: set[asyncio.Task[None]] = set()

    async def Stat(  # noqa: N802 - the name in the .proto
        self, request: pb.StatRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.StatReply:
        """What is held of each artifact, and how many more bytes may be stored."""
        return await wire.answer_errors(context, lambda: self._stat(request))

    async def _stat(self, request: pb.StatRequest) -> pb.StatReply:
        if len(request.digests) > limits.ARTIFACTS_PER_ASSIGNMENT:
            raise LimitExceeded(
                f"{len(request.digests)} artifacts were requested at once",
                why=f"the limit is {limits.ARTIFACTS_PER_ASSIGNMENT}",
            )
        return await asyncio.to_thread(self._look, request)

    def _look(self, request: pb.StatRequest) -> pb.StatReply:
        digests = list(request.digests)
        if request.keep_for:
            self._collector.pin(request.keep_for, request.generation, digests)
        return pb.StatReply(
            held={digest: self._held(digest) for digest in digests},
            free_bytes=self._store.free_bytes(),
            reclaimable_bytes=self._collector.reclaimable_bytes(),
        )

    def _held(self, digest: str) -> pb.StatReply.Held:
        complete, held = self._store.has(digest), self._store.held(digest)
        readable = held if complete else self._arrivals.verified(digest)
        return pb.StatReply.Held(bytes=held, complete=complete, readable=readable)

    async def Push(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        request_iterator: AsyncIterator[pb.PushChunk],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Receive one artifact, or what lacks of it; pushing what is whole is no error."""
        coming = aiter(request_iterator)
        try:
            await self._push(coming, context.write)
        except TiermeshError as error:
            await context.write(pb.PushReply(failure=wire.encode_error(error)))
            await _read_out(coming)
            await wire.abort(context, error)

    async def _push(
        self,
        coming: AsyncIterator[pb.PushChunk],
        say: Callable[[pb.PushReply], Awaitable[None]],
    ) -> None:
        first = await anext(coming, None)
        if first is None:
            raise TiermeshError("an empty push", why="the first chunk must name the artifact")
        digest, size = first.digest, first.size_bytes
        if await asyncio.to_thread(self._store.has, digest):
            await say(pb.PushReply(bytes=size, complete=True))
            return
        async with self._arrivals.begin(digest, size, first.chunk_digests) as arrival:
            await say(pb.PushReply(bytes=arrival.held))
            while arrival.held < size and (chunk := await anext(coming, None)) is not None:
                await arrival.take(chunk.data)
                if arrival.held < size:
                    await say(pb.PushReply(bytes=arrival.held))
            complete = await arrival.finish()
            await say(pb.PushReply(bytes=arrival.held, complete=complete))

    async def Fetch(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Fetch one artifact from peers, telling how far it has come."""
        await wire.answer_errors(context, lambda: self._fetch(request, context.write))

    async def _fetch(
        self, request: pb.FetchRequest, say: Callable[[pb.FetchEvent], Awaitable[None]]
    ) -> None:
        digest, size = request.digest, request.size_bytes
        if await asyncio.to_thread(self._store.has, digest):
            await say(pb.FetchEvent(bytes=size, complete=True))
            return
        peers = list(request.peers)[: limits.ARTIFACT_PEERS]
        async with self._arrivals.begin(digest, size, request.chunk_digests) as arrival:
            fetching = Fetching(digest, size, peers, arrival, credentials=self._credentials)
            told, peer = arrival.held, ""
            async for peer in fetching.run():
                if arrival.held - told >= limits.ARTIFACT_CHUNK_BYTES:
                    told = arrival.held
                    await say(pb.FetchEvent(bytes=told, peer=peer))
            complete = await arrival.finish()
            failures = fetching.failures
            await say(
                pb.FetchEvent(bytes=arrival.held, complete=complete, peer=peer, failures=failures)
            )

    async def Read(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb.ReadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Give what is here and verified, and what is verified soon."""
        try:
            async with asyncio.timeout(LINGER_S):
                await self._readers.acquire()
        except TimeoutError:
            return
        try:
            async for data in self._read(request.digest, request.offset):
                await context.write(pb.ReadChunk(data=data))
        except TiermeshError as error:
            await wire.abort(context, error)
        finally:
            self._readers.release()

    async def _read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        with self._collector.in_use([digest]):
            while True:
                readable = (await asyncio.to_thread(self._held, digest)).readable
                if offset >= readable:
                    if not await self._arrivals.further(digest, offset, LINGER_S):
                        return
                    continue
                size = min(limits.ARTIFACT_MESSAGE_BYTES, readable - offset)
                data = await asyncio.to_thread(self._store.read, digest, offset, size)
                if not data:
                    return
                offset += len(data)
                yield data

    async def Collect(  # noqa: N802
        self, request: pb.CollectRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CollectReply:
        """What is held and why; frees what nothing needs where asked to."""
        work = self._collector.collect if request.free else self._collector.look
        collected = await wire.answer_errors(context, lambda: asyncio.to_thread(work))
        return _reply(collected, await asyncio.to_thread(self._store.free_bytes))

    def collect_soon(self) -> None:
        """Free what nothing needs and nobody used for long, beside what else is done."""
        task = asyncio.ensure_future(self._collect_unused())
        self._collecting.add(task)
        task.add_done_callback(self._collecting.discard)

    async def _collect_unused(self) -> None:
        try:
            await asyncio.to_thread(self._collector.collect_unused)
        except (TiermeshError, OSError) as error:
            log.warning("garbage collection skipped: %s", error)


async def _read_out(coming: AsyncIterator[Any]) -> None:
    # grpc.aio forgets a status that arrives while a message is being written (grpc issue 36066).
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in coming:
                pass


def _reply(collected: Collected, free_bytes: int) -> pb.CollectReply:
    freed = {held.digest for held in collected.freed}
    return pb.CollectReply(
        artifacts=[
            pb.CollectReply.Artifact(
                digest=held.digest,
                bytes=held.size_bytes,
                complete=held.complete,
                needed_for=collected.needed_for.get(held.digest, ""),
                used_at=held.used_at,
                freed=held.digest in freed,
            )
            for held in collected.held
        ],
        freed_bytes=collected.freed_bytes,
        free_bytes=free_bytes,
    )
