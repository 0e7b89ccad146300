"""A TCP relay that counts what passes, stops it, and cuts it: the link between two processes, in a test's hands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

_READ_BYTES = 2**16


class Relay:
    """Forwards connections to a port on loopback. `sent_bytes` counts all that clients sent, forwarded or not."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._enough: tuple[int, asyncio.Event] | None = None
        self.sent_bytes = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[Relay]:
        """Listen while the context lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    async def hold_after(self, sent_bytes: int) -> None:
        """Wait until clients have sent so much altogether; from then on nothing is forwarded to the target."""
        reached = asyncio.Event()
        self._enough = self.sent_bytes + sent_bytes, reached
        await reached.wait()

    async def quiet(self, seconds: float = 0.05) -> None:
        """Wait until clients have sent nothing for a while."""
        before = -1
        while before < self.sent_bytes:
            before = self.sent_bytes
            await asyncio.sleep(seconds)

    async def cut(self) -> None:
        """End all connections, and forward what new ones bring."""
        self._enough = None
        self._flowing.set()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._connections.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # The other end is gone, or the test cuts it: both are what a relay is for.
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        try:
            ends = [
                asyncio.create_task(self._take(reader, waiting)),
                asyncio.create_task(self._forward(waiting, back)),
                asyncio.create_task(_copy(there, writer)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, waiting: asyncio.Queue[bytes]) -> None:
        while data := await reader.read(_READ_BYTES):
            self.sent_bytes += len(data)
            if self._enough is not None and self.sent_bytes >= self._enough[0]:
                self._flowing.clear()
                self._enough[1].set()
            waiting.put_nowait(data)

    async def _forward(self, waiting: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        while True:
            data = await waiting.get()
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()
