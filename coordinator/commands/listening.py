"""The coordinator's end of the command socket: takes commands of the same user, one task each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

from coordinator.commands.messages import (
    SOCKET_NAME,
    VERSION,
    Ask,
    End,
    FromCoordinator,
    Refuse,
    Say,
    SocketAddress,
    encode,
    read_from_client,
)
from tiermesh import limits
from tiermesh.errors import LimitExceeded, TiermeshError, Unsupported

ASK_S: Final = 5.0
"""Within this time after connecting a client has said what it wants."""
TEXT_CHARS: Final = 64 * 2**10
"""Longer text travels in several messages."""
PROGRESS_WAITING_BYTES: Final = 2**20
"""A client that reads too slowly misses progress beyond this; its command goes on."""
INTERRUPTED: Final = 130
_CREDENTIALS: Final = struct.Struct("3i")

CarryOut: TypeAlias = Callable[[Ask, "Voice"], Awaitable[int]]
"""Carries a command out and returns its exit code. It is cancelled when the client goes or gives up."""


class Voice:
    """What a command prints goes through here to its client, from any thread."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()

    def say(self, stream: Literal["out", "err"], text: str) -> None:
        """Pass text on; of progress, what a slow reader has no room for is dropped."""
        with contextlib.suppress(RuntimeError):  # the loop ended before this thread did
            self._loop.call_soon_threadsafe(self._say, stream, text)

    def _say(self, stream: Literal["out", "err"], text: str) -> None:
        waiting = self._writer.transport.get_write_buffer_size()
        if stream == "err" and waiting > PROGRESS_WAITING_BYTES:
            return
        if waiting > limits.COMMAND_WAITING_BYTES:
            self._writer.transport.abort()
            return
        for start in range(0, len(text), TEXT_CHARS):
            self.send(Say(stream, text[start : start + TEXT_CHARS]))

    def send(self, message: FromCoordinator) -> None:
        """Send a message, from the event loop's thread; nothing where the client has gone."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))


@contextlib.asynccontextmanager
async def listening(folder: Path, carry_out: CarryOut) -> AsyncGenerator[None]:
    """Take commands on the socket of a state folder while the context is open; then give up those under way.

    Only who holds the folder's journal may listen: a socket that is there already was left by a coordinator that
    was killed, and is replaced.

    Raises:
        TiermeshError: the socket cannot be made.
    """
    at_work: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this callback as a task
        at_work.add(task)
        try:
            await _Client(reader, writer, carry_out).serve(full=len(at_work) > limits.COMMANDS)
        except asyncio.CancelledError:
            pass  # the coordinator ends; a task that asyncio made itself must not end cancelled
        finally:
            at_work.discard(task)
            writer.close()

    listener = await asyncio.to_thread(_listener, folder)
    server = await asyncio.start_unix_server(connected, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)
        await asyncio.to_thread((folder / SOCKET_NAME).unlink, missing_ok=True)


def _listener(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        (folder / SOCKET_NAME).unlink(missing_ok=True)
        with SocketAddress(folder) as address:
            listener.bind(address)
        # Nobody can connect before `listen`, which comes with the server.
        (folder / SOCKET_NAME).chmod(0o600)
    except OSError as error:
        listener.close()
        raise TiermeshError(
            f"cannot listen for commands in {folder}",
            why=error.strerror or str(error),
            fix="Name another --state",
        ) from None
    return listener


class _Client:
    """One connection: one command."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carry_out: CarryOut
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._voice = Voice(writer)
        self._carry_out = carry_out

    async def serve(self, *, full: bool) -> None:
        """Carry the client's command out, unless it may not or cannot be."""
        try:
            async with asyncio.timeout(ASK_S):
                ask = await read_from_client(self._reader)
        except TimeoutError:
            return
        if not isinstance(ask, Ask):
            return
        refusal = _refusal(ask, self._writer, full=full)
        answer = Refuse(refusal.to_dict()) if refusal else End(await self._until_end(ask))
        self._voice.send(answer)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def _until_end(self, ask: Ask) -> int:
        """The exit code; a client that says anything more, or goes, has given up."""
        work = asyncio.ensure_future(self._carry_out(ask, self._voice))
        more = asyncio.ensure_future(read_from_client(self._reader))
        try:
            await asyncio.wait((work, more), return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()
            if not work.done():
                work.cancel()
            # What the command had begun it brings to an end first, as it does after Ctrl-C.
            await asyncio.wait((work,))
        return INTERRUPTED if work.cancelled() else work.result()


def _refusal(ask: Ask, writer: asyncio.StreamWriter, *, full: bool) -> TiermeshError | None:
    if not _same_user(writer):
        return Unsupported(
            "the coordinator at work is another user's",
            why="it takes commands of its own user only",
            fix="Run the command as that user",
        )
    if ask.version != VERSION:
        return Unsupported(
            f"the coordinator at work is of version {VERSION}, and this command of {ask.version}",
            why="they share a state folder, and read commands differently",
            fix="Stop that coordinator and start it again with this version; serving goes on meanwhile",
            coordinator=VERSION,
            command=ask.version,
        )
    if full:
        return LimitExceeded(
            f"the coordinator at work carries out {limits.COMMANDS} commands already",
            fix="Wait until one has ended",
        )
    return None


def _same_user(writer: asyncio.StreamWriter) -> bool:
    """Whether the client's process is this user's; where the system does not tell, the file's mode says so."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    connection = writer.get_extra_info("socket")
    said = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(said)
    return user == os.geteuid()
