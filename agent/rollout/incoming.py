"""What is arriving on this device: one writer per artifact, and peers that read along."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from agent.errors import Superseded
from agent.rollout.garbage import Collector
from agent.rollout.partial import Writer
from agent.rollout.store import Store
from tiermesh import limits
from tiermesh.errors import LimitExceeded


class IncomingArtifact:
    """One artifact on its way in, by the task that makes this."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.ended = asyncio.Event()
        self.moved = asyncio.Event()
        self.superseded = False
        self._task = asyncio.current_task()
        self._writer: Writer | None = None

    @property
    def held(self) -> int:
        """How many bytes are there."""
        return self._writer.held if self._writer is not None else 0

    @property
    def verified(self) -> int:
        """How many of them peers may have."""
        return self._writer.verified if self._writer is not None else 0

    async def open(self, store: Store, size: int, chunk_digests: bytes) -> None:
        """Begin to write, from where an earlier arrival ended."""
        self._writer = await asyncio.to_thread(store.writer, self.digest, size, chunk_digests)
        self._tell()

    async def take(self, data: bytes) -> None:
        """Write the next bytes; raises what `Writer.write` raises."""
        if len(data) > limits.GRPC_MESSAGE_BYTES:
            raise LimitExceeded(f"a chunk has {len(data)} bytes")
        assert self._writer is not None  # noqa: S101 - `Arrivals.begin` opens it
        await asyncio.to_thread(self._writer.write, data)
        self._tell()

    async def finish(self) -> bool:
        """Make it whole if all of it is there, and say whether it is; raises what `Writer.finish` raises."""
        assert self._writer is not None  # noqa: S101 - `Arrivals.begin` opens it
        return await asyncio.to_thread(self._writer.finish)

    async def supersede(self) -> None:
        """End it, and wait until its file is let go."""
        if self._task is not None and not self.superseded:
            self.superseded = True
            self._task.cancel()
        await self.ended.wait()

    async def close(self) -> None:
        """Let go of the file; what has arrived stays."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)

    def end(self) -> None:
        """Tell those who wait for it, or for more of it."""
        self.ended.set()
        self._tell()

    def _tell(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


class IncomingArtifacts:
    """All that is arriving, by digest."""

    def __init__(self, store: Store, collector: Collector) -> None:
        self._store = store
        self._collector = collector
        self._now: dict[str, IncomingArtifact] = {}

    def verified(self, digest: str) -> int:
        """How many bytes of what is arriving peers may have; 0 where it is not arriving."""
        arrival = self._now.get(digest)
        return arrival.verified if arrival is not None else 0

    @contextlib.asynccontextmanager
    async def begin(
        self, digest: str, size: int, chunk_digests: bytes
    ) -> AsyncGenerator[IncomingArtifact]:
        """An arrival, after the one before it; room is made for it where nothing needs what is there.

        A caller that is gone may not be noticed for a while: whoever comes later is right.
        """
        while (older := self._now.get(digest)) is not None:
            await older.supersede()
        arrival = self._now[digest] = IncomingArtifact(digest)
        try:
            with self._collector.in_use([digest]):
                await asyncio.to_thread(self._make_room, digest, size)
                await arrival.open(self._store, size, chunk_digests)
                yield arrival
        except asyncio.CancelledError:
            if not arrival.superseded:
                raise
            raise Superseded(
                f"this push of {digest} has ended", why="a newer one took over", digest=digest
            ) from None
        finally:
            await asyncio.shield(arrival.close())
            del self._now[digest]
            arrival.end()

    def _make_room(self, digest: str, size: int) -> None:
        if size <= limits.ARTIFACT_BYTES:
            self._collector.make_room(size - self._store.held(digest))

    async def further(self, digest: str, offset: int, timeout_s: float) -> bool:
        """Wait until more than `offset` bytes may be read; False where that does not come soon."""
        try:
            async with asyncio.timeout(timeout_s):
                while (arrival := self._now.get(digest)) is not None:
                    moved = arrival.moved
                    if arrival.verified > offset:
                        return True
                    await moved.wait()
        except TimeoutError:
            return False
        return False
