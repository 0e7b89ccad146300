"""How a client's calls reach the service: over the socket of a running coordinator, or in this process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from coordinator.api.calls import CALLS
from coordinator.api.service import CoordinatorService
from coordinator.api.version import OPERATION_KEY, VERSION, VERSION_KEY
from tiermesh import wire
from tiermesh.errors import LimitExceeded, TiermeshError, Unreachable, Unsupported
from tiermesh.v1 import coordinator_pb2 as pb
from tiermesh.wire.failures import FAILURE_KEY

WAITING: Final = 64
"""Replies of a stream that were read and not used yet; beyond that the coordinator waits."""
CONNECT_S: Final = 5.0
"""Within this time the process that listens on the socket has said which version it is."""


class Transport(Protocol):
    """Carries calls, named as the methods of `CoordinatorService`."""

    async def call(self, name: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """The reply of a call.

        Raises:
            TiermeshError: as the handler raised it.
        """
        ...

    def stream(self, name: str, request: Any) -> AsyncGenerator[Any]:
        """The replies of a call that streams; closing it, or cancelling its reader, interrupts the call.

        Then this ends when the call has: what it had begun is undone first.

        Raises:
            TiermeshError: as the handler raised it.
        """
        ...


class DirectTransport:
    """To a service in this process."""

    def __init__(self, service: CoordinatorService) -> None:
        self._service = service

    async def call(self, name: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """See `Transport`."""
        async with asyncio.timeout(timeout_s):
            return await getattr(self._service, name)(request)

    async def stream(self, name: str, request: Any) -> AsyncGenerator[Any]:
        """See `Transport`."""
        async with contextlib.aclosing(getattr(self._service, name)(request)) as replies:
            async for reply in replies:
                yield reply


class SocketTransport:
    """To a running coordinator, over its socket."""

    def __init__(self, channel: grpc.aio.Channel, *, version: str = VERSION) -> None:
        self._channel = channel
        self._version = version

    async def call(self, name: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """See `Transport`."""
        call = CALLS[name]
        method: Any = self._channel.unary_unary(
            call.path, call.request.SerializeToString, call.reply.FromString
        )
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None

    async def stream(self, name: str, request: Any) -> AsyncGenerator[Any]:
        """See `Transport`."""
        call, operation = CALLS[name], uuid.uuid4().hex
        method: Any = self._channel.unary_stream(
            call.path, call.request.SerializeToString, call.reply.FromString
        )
        reading = _Reading(method(request, metadata=self._metadata(operation)))
        try:
            while (reply := await reading.next()) is not None:
                yield reply
        finally:
            if not reading.ended:
                with contextlib.suppress(TiermeshError):
                    await self.call("interrupt", pb.InterruptRequest(operation=operation))
                await reading.finish()

    def _metadata(self, operation: str = "") -> tuple[tuple[str, str], ...]:
        of_call = ((OPERATION_KEY, operation),) if operation else ()
        return ((VERSION_KEY, self._version), *of_call)


class _Reading:
    """Reads a stream in a task of its own: a reader that is cancelled would cancel a gRPC call at once."""

    def __init__(self, call: Any) -> None:
        self._call = call
        # None marks the end.
        self._replies: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._dropping = False
        self._task = asyncio.ensure_future(self._read())
        self.ended = False

    async def next(self) -> Any:
        """The next reply; None at the end.

        Raises:
            TiermeshError: the call failed.
        """
        reply = await self._replies.get()
        if reply is None:
            self.ended = True
            await self._task
        return reply

    async def finish(self) -> None:
        """Let the rest of the replies go, and wait for the end."""
        self._dropping = True
        while not self._replies.empty():
            self._replies.get_nowait()
        try:
            await asyncio.wait((self._task,))
        finally:
            self._task.cancel()
        if not self._task.cancelled():
            # How an interrupted call ended is of no interest any more.
            self._task.exception()

    async def _read(self) -> None:
        try:
            async for reply in self._call:
                if not self._dropping:
                    await self._replies.put(reply)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None
        except asyncio.CancelledError:
            # The coordinator ended the call because it was asked to, or because it ends.
            if self._dropping or not self._call.cancelled():
                raise
            raise TiermeshError("the call was interrupted") from None
        finally:
            if not self._dropping:
                await self._replies.put(None)


def _error(error: grpc.aio.AioRpcError) -> TiermeshError:
    """The error behind a failed call: the coordinator's own where it sent one."""
    for key, value in error.trailing_metadata() or ():
        if key == FAILURE_KEY and isinstance(value, bytes):
            return wire.decode_error(value)
    code, details = error.code(), (error.details() or "").split(";")[0][:200]
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(
            "the coordinator ended before this was done",
            why="it was stopped or killed; what serves goes on serving",
            fix="Start it again: it finishes or undoes an open rollout; see: coordinator events",
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitExceeded("a message to or from the coordinator is too long", why=details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported(
            "the running coordinator does not know this call",
            why=details,
            fix="Restart that coordinator with this version; serving goes on meanwhile",
        )
    return TiermeshError(
        "the call to the running coordinator failed", why=f"{code.name}: {details}"
    )


async def greeted(transport: Transport, state: Path) -> pb.CoordinatorInfo:
    """Who answers over a transport to the socket in the folder `state`.

    Raises:
        Unreachable: nobody answers as a coordinator. Unsupported: it is of another version.
    """
    request = pb.GetCoordinatorRequest()
    try:
        return await transport.call("get_coordinator", request, timeout_s=CONNECT_S)
    except TiermeshError as error:
        if isinstance(error, Unsupported):
            raise
        raise Unreachable(
            f"what listens in {state} does not answer as a coordinator",
            why=error.why or error.what,
            fix="Stop that process, or name another --state",
        ) from None
