"""gRPC around the state machines: one bidirectional call per stream, raw messages one way, acknowledgements back.

Everything here is thin: what a message means is decided in `agent.serving.flow`. Each direction of a call has one
writer, because a second concurrent `write` of grpc.aio ends it silently.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
import grpc.aio

from agent.serving.flow import Flow
from agent.serving.streams.receiver import Fenced
from agent.serving.streams.sender import SILENCE_S
from agent.serving.streams.strikes import Strikes
from agent.serving.streams.window import FlowWindow
from tiermesh import PROTOCOL_VERSION, codec, limits, wire
from tiermesh.errors import TiermeshError, Unreachable
from tiermesh.v1 import streaming_pb2 as pb

log = logging.getLogger(__name__)

_Stub: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, pb.StreamReply]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, pb.StreamReply]"

_METHOD: Final = "/tiermesh.v1.Streams/Stream"
_ACK_EVERY_S: Final = SILENCE_S / 4
_ACK_WITHIN_S: Final = 0.01
_ACK_FRAMES: Final = limits.STREAM_CREDIT_FRAMES // 4
_ACK_BYTES: Final = limits.STREAM_CREDIT_BYTES // 4
_AGAIN_S: Final = 0.1


class StreamDriver(Protocol):
    """What carries out a flow's instructions."""

    def now(self) -> float:
        """The worker's clock."""
        ...

    def flow(self, workflow: str) -> Flow | None:
        """The flow of a workflow that is served here."""
        ...

    def changed(self) -> None:
        """A flow has taken an event: carry out what it says."""
        ...


class Outgoing:
    """Keeps the stream to one device going until it is closed."""

    def __init__(
        self,
        driver: StreamDriver,
        flow: Flow,
        device: str,
        address: str,
        credentials: wire.Credentials,
    ) -> None:
        self._driver = driver
        self._flow = flow
        self._device = device
        self.address = address
        self._channel = wire.PeerChannel(credentials, address, wire.agent(device))
        self.connected = asyncio.Event()
        """Set while the device takes frames."""
        self._wake = asyncio.Event()
        self._call: grpc.aio.StreamStreamCall[bytes, pb.StreamReply] | None = None
        self._task = asyncio.create_task(self._run(), name=f"stream to {device}")

    def wake(self) -> None:
        """Something waits to be sent."""
        self._wake.set()

    def hang_up(self) -> None:
        """End the call, if there is one; another follows."""
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """End the stream for good."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._channel.close()

    async def _run(self) -> None:
        again = _AGAIN_S
        while True:
            try:
                await self._converse()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, Unreachable) as error:
                log.debug("the stream to %s broke: %s", self._device, error)
                again = _AGAIN_S
            except TiermeshError as error:
                log.warning("the stream to %s ended: %s", self._device, error)
                again = min(2 * again, SILENCE_S)
            except asyncio.CancelledError:
                # grpc.aio raises this, too, where a call is hung up while it waits; only `close` ends the stream.
                if self._task.cancelling():
                    raise
                again = _AGAIN_S
            finally:
                self._flow.disconnected(self._device)
            await asyncio.sleep(again)

    async def _converse(self) -> None:
        flow, device = self._flow, self._device
        sender = flow.links.sender(device, self._driver.now())
        call = self._call = self._stub()()
        try:
            hello = pb.Hello(
                protocol_version=PROTOCOL_VERSION,
                workflow=flow.workflow,
                sender=flow.device,
                receiver=device,
                sender_epoch=flow.epoch,
                oldest=sender.oldest,
            )
            # A call that never gets under way lets its first `write` wait forever.
            async with asyncio.timeout(SILENCE_S):
                await call.write(codec.hello(hello))
                welcome = await self._read(call)
            if welcome is None or welcome.WhichOneof("reply") != "welcome":
                raise Unreachable(f"{device} refused a stream", why=_refusal(welcome))
            flow.connected(device, welcome.welcome.receiver_epoch, self._driver.now())
            self._acknowledged(welcome.welcome.ack)
            self.connected.set()
            await _first_of(self._write(call), self._listen(call))
        except TimeoutError:
            raise Unreachable(f"{device} is silent") from None
        finally:
            self.connected.clear()
            call.cancel()
            self._call = None

    def _stub(self) -> _Stub:
        return self._channel.current().stream_stream(
            _METHOD, request_serializer=None, response_deserializer=pb.StreamReply.FromString
        )

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, pb.StreamReply]) -> None:
        sender = self._flow.links.sender(self._device, self._driver.now())
        while True:
            self._wake.clear()
            while (message := sender.next_message()) is not None:
                first, frames = message
                if sender.take_refused():
                    self._driver.changed()
                await call.write(codec.encode(first, frames, self._driver.now()))
            await self._wake.wait()

    async def _listen(self, call: grpc.aio.StreamStreamCall[bytes, pb.StreamReply]) -> None:
        while (reply := await self._read(call)) is not None:
            if reply.WhichOneof("reply") != "ack":
                self._note_refusal(reply.refusal)
                raise TiermeshError(f"{self._device} ends the stream", why=_refusal(reply))
            self._acknowledged(reply.ack)

    def _note_refusal(self, refusal: pb.Refusal) -> None:
        if refusal.unreadable:
            now = self._driver.now()
            self._flow.refused(self._device, refusal.unreadable, refusal.why, now)
            self._driver.changed()

    @staticmethod
    async def _read(
        call: grpc.aio.StreamStreamCall[bytes, pb.StreamReply],
    ) -> pb.StreamReply | None:
        reply = await call.read()
        return None if reply is grpc.aio.EOF else cast(pb.StreamReply, reply)

    def _acknowledged(self, ack: pb.Ack) -> None:
        windows = {w.stage: FlowWindow(w.frames, w.bytes) for w in ack.windows}
        full = FlowWindow(ack.full.frames, ack.full.bytes)
        self._flow.acknowledged(self._device, ack.next, full, windows, self._driver.now())
        self._driver.changed()


def _refusal(reply: pb.StreamReply | None) -> str:
    return reply.refusal.why if reply is not None else "it hangs up"


class Unreadable(TiermeshError):
    """A message of a stream cannot be read; `first` is the number of its first frame, 0 where that is not known."""

    kind = "unreadable"

    def __init__(self, error: TiermeshError) -> None:
        super().__init__(error.what, why=error.why)
        first = error.fields.get("first", 0)
        self.first = first if isinstance(first, int) else 0


class _Due:
    """When the next acknowledgement of a call is due: soon after a frame, at once after many, and on a timer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._frames = self._bytes = 0
        self._within(_ACK_EVERY_S)

    def received(self, frames: int, size: int) -> None:
        """A message with so many frames has come. One acknowledgement costs as much as a message."""
        self._frames += frames
        self._bytes += size
        if self._frames >= _ACK_FRAMES or self._bytes >= _ACK_BYTES:
            self.now()
        else:
            self._within(_ACK_WITHIN_S)

    def now(self) -> None:
        """It is due at once."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until it is due; it is sent now."""
        await self._event.wait()
        self._event.clear()
        self._frames = self._bytes = 0
        self.close()
        self._within(_ACK_EVERY_S)

    def close(self) -> None:
        """No more are due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _within(self, seconds: float) -> None:
        at = self._loop.time() + seconds
        if self._timer is None or at < self._at:
            self.close()
            self._at = at
            self._timer = self._loop.call_at(at, self._event.set)


class Incoming:
    """Takes the streams of other devices: the `Streams` service."""

    def __init__(self, driver: StreamDriver, device: str) -> None:
        self._driver = driver
        self._device = device
        self._acks: dict[tuple[str, str], _Due] = {}
        self._closing = asyncio.Event()
        self._strikes = Strikes()

    @property
    def unreadable_messages(self) -> int:
        """Messages that could not be read."""
        return self._strikes.total

    def close(self) -> None:
        """End all streams; the senders keep what was not acknowledged."""
        self._closing.set()

    def forget(self, workflow: str) -> None:
        """A workflow is no longer served here: end its streams. What comes back of it has streams of its own."""
        for (of, _), due in self._acks.items():
            if of == workflow:
                due.now()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on a server."""
        handler: _Handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=None,
            response_serializer=pb.StreamReply.SerializeToString,
        )
        service, method = _METHOD[1:].split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )

    def acknowledge(self, workflow: str, device: str) -> None:
        """Send an acknowledgement to a device now."""
        due = self._acks.get((workflow, device))
        if due is not None:
            due.now()

    async def _stream(
        self, _: Any, context: grpc.aio.ServicerContext[bytes, pb.StreamReply]
    ) -> None:
        try:
            await self._serve(context)
        except TiermeshError as error:
            log.debug("stream refused: %s", error)
            refusal = pb.Refusal(
                again=not isinstance(error, Fenced),
                why=str(error),
                unreadable=error.first if isinstance(error, Unreadable) else 0,
            )
            await context.write(pb.StreamReply(refusal=refusal))

    async def _serve(self, context: grpc.aio.ServicerContext[bytes, pb.StreamReply]) -> None:
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        hello = codec.decode_hello(first)
        flow = self._welcomed(hello)
        session = flow.links.receiver(hello.sender).open(hello.sender_epoch, hello.oldest)
        key = flow.workflow, hello.sender
        superseded = self._acks.get(key)
        due = self._acks[key] = _Due()
        if superseded is not None:
            superseded.now()
        try:
            await context.write(
                pb.StreamReply(
                    welcome=pb.Welcome(receiver_epoch=flow.epoch, ack=_ack(flow, hello.sender))
                )
            )
            await _first_of(
                self._receive(context, flow, hello.sender, session, due),
                self._acknowledge(context, flow, hello.sender, session, due),
                self._until_closed(),
            )
        finally:
            due.close()
            if self._acks.get(key) is due:
                del self._acks[key]

    async def _until_closed(self) -> None:
        await self._closing.wait()

    def _welcomed(self, hello: pb.Hello) -> Flow:
        """The flow that a stream is for.

        Raises:
            TiermeshError: the stream is of another protocol, or for somebody or something that is not here.
        """
        if hello.protocol_version != PROTOCOL_VERSION:
            raise TiermeshError(
                f"this worker speaks protocol {PROTOCOL_VERSION}, not {hello.protocol_version}",
                fix="Upgrade the older of the two agents",
            )
        if hello.receiver != self._device:
            raise TiermeshError(f"this is the device {self._device}, not {hello.receiver}")
        flow = self._driver.flow(hello.workflow)
        if flow is None or not flow.generations:
            raise TiermeshError(f"{hello.workflow} is not served here")
        if self._strikes.is_out(hello.sender, self._driver.now()):
            raise TiermeshError(
                f"{hello.sender} is refused for a minute",
                why=f"{limits.MALFORMED_MESSAGES} of its messages could not be read",
            )
        if hello.sender not in flow.links.addresses:
            raise TiermeshError(f"{hello.sender} is not part of {hello.workflow}")
        return flow

    def _check_served(self, flow: Flow) -> None:
        """RejectOffers what comes for a flow that has been stopped, also where the workflow is back as another flow.

        Raises:
            TiermeshError: the sender connects again, and hears of the new flow's epoch.
        """
        if self._driver.flow(flow.workflow) is not flow:
            raise TiermeshError(f"{flow.workflow} is no longer served here")

    async def _receive(
        self,
        context: grpc.aio.ServicerContext[bytes, pb.StreamReply],
        flow: Flow,
        sender: str,
        session: int,
        due: _Due,
    ) -> None:
        while True:
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            frames = self._take(flow, sender, session, data)
            due.received(frames, len(data))
            # Let go before the wait: the next message is put together in the same memory, warm in the CPU's cache.
            del data

    def _take(self, flow: Flow, sender: str, session: int, data: bytes) -> int:
        """Take a message in; returns the number of its frames."""
        self._check_served(flow)
        now = self._driver.now()
        try:
            first, frames = codec.decode(data, now)
        except TiermeshError as error:
            self._strikes.add(sender, now)
            flow.unreadable_from(sender, str(error), now)
            self._driver.changed()
            raise Unreadable(error) from None
        flow.receive(sender, session, first, frames, now)
        self._driver.changed()
        return len(frames)

    async def _acknowledge(
        self,
        context: grpc.aio.ServicerContext[bytes, pb.StreamReply],
        flow: Flow,
        sender: str,
        session: int,
        due: _Due,
    ) -> None:
        while True:
            await due.wait()
            self._check_served(flow)
            if not flow.links.receiver(sender).is_current(session):
                raise Fenced("stream closed", why="a newer stream of the same sender replaced it")
            await context.write(pb.StreamReply(ack=_ack(flow, sender)))


def _ack(flow: Flow, device: str) -> pb.Ack:
    upto, full, windows = flow.links.acknowledgement(device)
    return pb.Ack(
        next=upto,
        full=pb.Window(frames=full.frames, bytes=full.bytes),
        windows=[
            pb.Window(stage=stage, frames=window.frames, bytes=window.bytes)
            for stage, window in windows.items()
        ],
    )


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run several; when the first ends, cancel the others, and raise what it raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
