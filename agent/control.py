"""The agent's end of control sessions: commands in, answers, events and samples out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, cast

import grpc.aio

from agent.rollout.commands import RunningCommands
from agent.telemetry import EventLog
from tiermesh import PROTOCOL_VERSION, __version__, limits, wire
from tiermesh.conversation import Call, Conversation, first_of
from tiermesh.errors import (
    InvalidDocument,
    LimitExceeded,
    StorageFull,
    TakenOver,
    TiermeshError,
    Unreachable,
)
from tiermesh.session import BEAT_S, ControlSession, Tenure
from tiermesh.v1 import control_pb2 as pb
from tiermesh.v1 import control_pb2_grpc, telemetry_pb2

log = logging.getLogger(__name__)

_OPEN_S: Final = 5.0


class _Talk:
    """One connection, from the side of the agent. `take` is given the commands."""

    def __init__(
        self,
        session: ControlSession[pb.Up],
        take: Callable[[pb.Down], None],
        delivered: Callable[[list[pb.Up]], None],
    ) -> None:
        self.session = session
        self.take = take
        self.delivered = delivered
        self.wake = asyncio.Event()
        self.superseded = asyncio.Event()
        self._watched = asyncio.Event()
        self._interval_s = 0.0
        self._sample: telemetry_pb2.Sample | None = None
        self._ping: int | None = None

    def note(self, message: pb.Down) -> None:
        """A message without a number: how often to sample, a ping, or nothing but an acknowledgement."""
        match message.WhichOneof("message"):
            case "watch":
                self.watch(message.watch.interval_ms)
            case "ping":
                self._ping = message.ping
                self.wake.set()
            case _:
                pass

    def watch(self, interval_ms: int) -> None:
        """Sample at this interval from now on; 0 for never."""
        least = limits.TELEMETRY_INTERVAL_MIN_MS if interval_ms else 0
        self._interval_s = max(interval_ms, least) / 1_000
        self._watched.set()

    def unnumbered(self) -> Iterator[pb.Up]:
        """The answer to a ping, and the newest sample, if they have not been written."""
        ping, self._ping = self._ping, None
        if ping is not None:
            yield pb.Up(pong=ping)
        sample, self._sample = self._sample, None
        if sample is not None:
            yield pb.Up(sample=sample)

    async def sample(self, take: Callable[[], Awaitable[telemetry_pb2.Sample]]) -> None:
        """Take samples as they are asked for, forever."""
        while True:
            self._watched.clear()
            if self._interval_s:
                self._sample = await take()
                self.wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s or None):
                    await self._watched.wait()


class ControlService(control_pb2_grpc.ControlServicer):
    """`tiermesh.v1.Control`: one session with the coordinator that the device obeys, and any that look on.

    `tenure` is the one kept on disk, by `keep_tenure`. `boot` names this start of the agent. `clock` is monotonic.
    """

    def __init__(
        self,
        device: str,
        commands: RunningCommands,
        events: EventLog,
        sample: Callable[[], Awaitable[telemetry_pb2.Sample]],
        *,
        tenure: Tenure,
        keep_tenure: Callable[[Tenure], None],
        boot: str,
        clock: Callable[[], float],
    ) -> None:
        self._device = device
        self._commands = commands
        self._events = events
        self._sample = sample
        self._tenure = tenure
        self._keep_tenure = keep_tenure
        self._boot = boot
        self._clock = clock
        self._session: ControlSession[pb.Up] = ControlSession(clock())
        self._talk: _Talk | None = None
        self._offered = self._taken = 0
        self._observers = 0
        self._stopping = asyncio.Event()
        events.on_add = self._offer_events

    def stop(self) -> None:
        """End all calls; what was not acknowledged is kept while the process lasts."""
        self._stopping.set()

    # The type stubs know handlers that yield, and not those that read and write.
    async def Session(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, _: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """One connection of a session, or of an observer."""
        try:
            opening = await self._first(context)
            if opening is not None:
                await (self._observe if opening.open.observer else self._obey)(opening, context)
        except TiermeshError as error:
            log.info("control session ended: %s", error)
            await wire.abort(context, error)

    async def _first(self, context: grpc.aio.ServicerContext[Any, Any]) -> pb.Down | None:
        """The message that opens the call.

        Raises:
            TiermeshError: it is another message, of another protocol, or for another device.
        """
        try:
            async with asyncio.timeout(_OPEN_S):
                message = await context.read()
        except TimeoutError:
            raise TiermeshError(f"nothing came within {_OPEN_S:g} s") from None
        if message is grpc.aio.EOF:
            return None
        asked = message.open
        if message.number or not 0 < len(asked.coordinator) <= limits.NAME_CHARS:
            raise InvalidDocument(
                "a control session must start with `open`, which names the coordinator"
            )
        if asked.protocol_version != PROTOCOL_VERSION:
            raise TiermeshError(
                f"this agent speaks protocol {PROTOCOL_VERSION}, not {asked.protocol_version}",
                why=f"it is of version {__version__}",
                fix="Upgrade the older of the two",
            )
        if asked.device != self._device:
            raise TiermeshError(
                f"this is the device {self._device}, not {asked.device[: limits.NAME_CHARS]}",
                fix="Discover the devices again",
            )
        return message

    async def _observe(self, opening: pb.Down, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self._observers >= limits.CONTROL_OBSERVERS:
            raise LimitExceeded(
                f"{limits.CONTROL_OBSERVERS} read-only sessions are open on this device already"
            )
        seen = 0

        async def sample() -> telemetry_pb2.Sample:
            nonlocal seen
            sample = await self._sample()
            events = self._events.after(seen)
            sample.events.extend(events)
            seen = max([seen, *(event.number for event in events)])
            return sample

        talk = _Talk(ControlSession(self._clock()), _refuse, lambda _: None)
        self._observers += 1
        try:
            await self._converse(talk, opening, context, 0, sample)
        finally:
            self._observers -= 1

    async def _obey(self, opening: pb.Down, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        tenure = self._claim(opening.open)
        talk = _Talk(self._session, lambda down: self._take(down, tenure), self._forget)
        if self._talk is not None:
            self._talk.superseded.set()
        self._talk = talk
        await self._converse(talk, opening, context, tenure.epoch, self._sample)

    def _claim(self, asked: pb.Open) -> Tenure:
        """Whom to obey from now on; TakenOver where it is not who asks."""
        tenure = self._tenure.claim(asked.coordinator, asked.epoch, self._session.epoch)
        if tenure != self._tenure:
            log.info("control session %d opened by coordinator %s", tenure.epoch, tenure.holder)
            try:
                self._keep_tenure(tenure)
            except StorageFull as error:
                # A full disk must not silence the device. Until it restarts, it is fenced all the same.
                log.warning("cannot persist the coordinator lease: %s", error)
            self._tenure = tenure
        return tenure

    async def _converse(
        self,
        talk: _Talk,
        opening: pb.Down,
        context: grpc.aio.ServicerContext[Any, Any],
        epoch: int,
        sample: Callable[[], Awaitable[telemetry_pb2.Sample]],
    ) -> None:
        session = talk.session
        wanted = opening.wanted if epoch and epoch == session.epoch else 1
        opened = session.open(epoch, wanted, self._clock())
        if opened.is_reset and session is self._session:
            self._offered = self._taken
        try:
            welcome = pb.Opened(epoch=epoch, boot=self._boot)
            await context.write(pb.Up(wanted=session.wanted, opened=welcome))
            self._offer_events()
            talk.watch(opening.open.interval_ms)
            call = cast("Call[pb.Down, pb.Up]", context)
            conversation = Conversation(talk, opened.link, call, pb.Up, self._clock)
            await first_of(
                conversation.read(),
                conversation.write(BEAT_S),
                talk.sample(sample),
                talk.superseded.wait(),
                self._stopping.wait(),
            )
            if talk.superseded.is_set():
                raise TakenOver("connection closed", why="a newer connection replaced it")
        finally:
            session.close(opened.link)

    def _take(self, down: pb.Down, tenure: Tenure) -> None:
        if not self._has_plenty_of_room():
            raise LimitExceeded("the coordinator does not read the answers to its commands")
        # It is in the agent's care now. What an agent that is killed forgets, it is asked again.
        self._session.handled(tenure.epoch)
        self._commands.take(down.command, lambda answer: self._answer(answer, tenure.holder))

    def _answer(self, answer: pb.Answer, asked_by: str) -> None:
        """Send an answer to who asked, who may have another session by now."""
        is_outcome = answer.WhichOneof("answer") == "outcome"
        if asked_by == self._tenure.holder and (is_outcome or self._has_plenty_of_room()):
            self._offer(pb.Up(answer=answer))

    def _has_plenty_of_room(self) -> bool:
        """Half of it is for the outcomes of commands, of which there are few."""
        return self._session.kept < limits.CONTROL_MESSAGES_KEPT // 2

    def _offer_events(self) -> None:
        """Hand events to the session as far as there is room; the others wait in the log."""
        if not self._session.epoch:
            return
        for event in self._events.after(self._offered):
            if not self._has_plenty_of_room():
                return
            self._offer(pb.Up(event=event))
            self._offered = event.number

    def _offer(self, up: pb.Up) -> None:
        self._session.offer(up, up.ByteSize())
        if self._talk is not None:
            self._talk.wake.set()

    def _forget(self, ups: list[pb.Up]) -> None:
        """The coordinator has these on its disk."""
        self._taken = max([self._taken, *(up.event.number for up in ups)])
        self._offer_events()


def _refuse(_: pb.Down) -> None:
    raise TakenOver(
        "a read-only session cannot send commands",
        why="another coordinator holds the lease of this device",
    )


async def look(channel: grpc.aio.Channel, device: str) -> telemetry_pb2.Sample:
    """One sample of the agent at the other end of a channel, as an observer.

    Raises:
        grpc.aio.AioRpcError: it does not answer, or refuses.
        Unreachable: it answers, and gives none.
    """
    call = control_pb2_grpc.ControlStub(channel).Session()
    asked = pb.Open(
        protocol_version=PROTOCOL_VERSION,
        device=device,
        coordinator="agent status",
        observer=True,
        interval_ms=limits.TELEMETRY_INTERVAL_MIN_MS,
    )
    try:
        await call.write(pb.Down(wanted=1, open=asked))
        async with asyncio.timeout(_OPEN_S):
            while (up := cast("Any", await call.read())) is not grpc.aio.EOF:
                if up.WhichOneof("message") == "sample":
                    return up.sample
    except TimeoutError:
        raise Unreachable(
            "the agent does not answer", why=f"no sample within {_OPEN_S:g} s"
        ) from None
    finally:
        call.cancel()
    raise Unreachable("the agent closed the connection")
