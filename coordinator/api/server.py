"""The coordinator's end of the socket: gRPC calls in, calls of the service out, errors with what, why and fix."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from coordinator.api import unix_socket
from coordinator.api.calls import CALLS, SERVICE_NAME, ApiCall
from coordinator.api.service import CoordinatorService
from coordinator.api.unix_socket import SOCKET_NAME, SocketAddress
from coordinator.api.version import OPERATION_KEY, VERSION, VERSION_KEY, check_version
from tiermesh import limits, wire
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.v1 import coordinator_pb2 as pb

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

STOP_S: Final = 1.0
"""How long calls without a stream may take to end with the coordinator."""


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call before it is carried out: its path, and what the client says of itself."""

    path: str
    metadata: Mapping[str, str | bytes]


def admit(incoming: IncomingCall) -> None:
    """Refuse a client that may not call. Everybody who can open the socket is the coordinator's own user.

    Raises:
        Unsupported: the client is of another version.
    """
    check_version(VERSION, str(incoming.metadata.get(VERSION_KEY, "")))


class Admission(grpc.aio.ServerInterceptor):
    """Every call passes here first: `check` raises a TiermeshError for those that may not be made."""

    def __init__(self, check: Callable[[IncomingCall], None] = admit) -> None:
        self._check = check

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call, or one that refuses it."""
        details: Any = handler_call_details
        handler = await continuation(handler_call_details)
        try:
            self._check(IncomingCall(details.method, dict(details.invocation_metadata or ())))
        except TiermeshError as error:
            log.warning("refused %s: %s", details.method, error)
            return _refusing(handler, error) if handler is not None else None
        return handler


def _refusing(handler: Any, error: TiermeshError) -> Any:
    async def refuse(_request: Any, context: Context) -> Any:
        await wire.abort(context, error)

    kind = (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return kind(refuse, handler.request_deserializer, handler.response_serializer)


class Interrupted(Exception):
    """A stream was ended by `Interrupt`, or with the coordinator; not by its client's going."""


class Operations:
    """The streams under way, by the names that their clients gave them."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._anonymous = 0

    async def run(self, name: str, work: Awaitable[None]) -> None:
        """Do some work under a name, until it ends or is interrupted; cancelling this interrupts it, too.

        Raises:
            LimitExceeded: too many are under way.
            Interrupted: it was interrupted, and what it had begun is undone.
        """
        if len(self._tasks) >= limits.API_CALLS:
            _close(work)
            raise LimitExceeded(
                f"the coordinator works on {limits.API_CALLS} calls already",
                fix="Wait until one has ended",
            )
        self._anonymous += 1
        name = name if name and name not in self._tasks else f"call {self._anonymous}"
        task = self._tasks[name] = asyncio.ensure_future(_as_coroutine(work))
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
            await asyncio.wait((task,))
            del self._tasks[name]
        if task.cancelled():
            raise Interrupted
        task.result()

    def interrupt(self, name: str) -> bool:
        """End the work of a name as Ctrl-C does; whether there is any."""
        task = self._tasks.get(name)
        return task is not None and task.cancel()

    async def close(self) -> None:
        """Interrupt all, and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work


def _close(work: Awaitable[None]) -> None:
    close = getattr(work, "close", None)
    if close is not None:
        close()


class _Server:
    """Turns gRPC calls into calls of the service."""

    def __init__(self, service: CoordinatorService) -> None:
        self._service = service
        self.operations = Operations()
        self.ending = False

    def handlers(self) -> grpc.GenericRpcHandler:
        """All calls, by their names on the wire."""
        made = {call.wire_name: self._handler(name, call) for name, call in CALLS.items()}
        return grpc.method_handlers_generic_handler(SERVICE_NAME, made)

    def _handler(self, name: str, call: ApiCall) -> Any:
        kind: Any = (
            grpc.unary_stream_rpc_method_handler
            if call.streams
            else grpc.unary_unary_rpc_method_handler
        )
        behaviour = self._streaming(name) if call.streams else self._single(name)
        return kind(behaviour, call.request.FromString, call.reply.SerializeToString)

    def _single(self, name: str) -> Callable[[Any, Context], Awaitable[Any]]:
        if name == "interrupt":
            return self._interrupt
        method = getattr(self._service, name)

        async def answer(request: Any, context: Context) -> Any:
            return await wire.answer_errors(context, lambda: method(request))

        return answer

    async def _interrupt(self, request: pb.InterruptRequest, context: Context) -> Any:
        del context
        return pb.InterruptReply(found=self.operations.interrupt(request.operation))

    def _streaming(self, name: str) -> Callable[[Any, Context], Awaitable[None]]:
        method = getattr(self._service, name)

        async def pump(request: Any, context: Context) -> None:
            async with contextlib.aclosing(method(request)) as replies:
                async for reply in replies:
                    await context.write(reply)

        async def answer(request: Any, context: Context) -> None:
            operation = dict(context.invocation_metadata() or ()).get(OPERATION_KEY, "")
            work = self.operations.run(str(operation), pump(request, context))
            try:
                await wire.answer_errors(context, lambda: work)
            except Interrupted:
                await self._cut(context)

        return answer

    async def _cut(self, context: Context) -> None:
        # A handler that ends as cancelled sends its client nothing: the end has to be said.
        if self.ending:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the coordinator has ended")
        await context.abort(grpc.StatusCode.CANCELLED, "interrupted")


@contextlib.asynccontextmanager
async def serving(folder: Path, service: CoordinatorService) -> AsyncGenerator[None]:
    """Serve the API on the socket of a state folder while the context is open; then interrupt the calls under way.

    Raises:
        TiermeshError: the socket cannot be made.
    """
    calls = _Server(service)
    server = unix_socket.server([Admission()])
    server.add_generic_rpc_handlers((calls.handlers(),))
    with SocketAddress(folder) as path:
        await unix_socket.bind(server, folder, path)
        await server.start()
        log.info("clients are served on %s", folder / SOCKET_NAME)
        try:
            yield
        finally:
            calls.ending = True
            await calls.operations.close()
            await server.stop(STOP_S)
            await asyncio.to_thread((folder / SOCKET_NAME).unlink, missing_ok=True)
