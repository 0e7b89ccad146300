"""The coordinator's end of control sessions: one per device, made again when it breaks, shared by all that need it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Device, Fleet
from coordinator.sessions.link_quality import LinkQuality, Pinging
from tiermesh import PROTOCOL_VERSION, limits, wire
from tiermesh.conversation import Conversation, first_of
from tiermesh.errors import TakenOver, TiermeshError, Unreachable, Unsupported
from tiermesh.session import SILENCE_S, ControlSession
from tiermesh.v1 import control_pb2 as pb
from tiermesh.v1 import control_pb2_grpc, telemetry_pb2

log = logging.getLogger(__name__)

OPEN_S: Final = SILENCE_S
"""An agent that has not opened a session by then is silent."""
AGAIN_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses before the next attempt to connect, the last one again and again."""
FAILED_S: Final = 0.5
"""How long who asks something of a device is patient at most, once the fleet knows that it has failed."""
PING_S: Final = 2.0
"""Between two pings of a device that somebody listens to."""

Progress: TypeAlias = Callable[[str, str, float], None]
"""Told a step (`load`, `warm`, `self-test`), the replica that has taken it, and its seconds.

The step `measure` comes with the mean device seconds of a batch of the planned size instead.
"""
TakeEvent: TypeAlias = Callable[[str, str, telemetry_pb2.DeviceEvent], Awaitable[None]]
"""Keeps an event of a device (its id and the start of its agent), once: when it returns, it is on disk."""


class Knowing(Protocol):
    """Who knows the devices."""

    @property
    def fleet(self) -> Fleet:
        """The state now."""
        ...


@dataclass(frozen=True, slots=True)
class Lost:
    """A device cannot be heard."""

    why: str


class Listener:
    """What one reader is told of a device: that it is lost, and the newest sample. Nothing piles up."""

    def __init__(self, interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self._lost: Lost | None = None
        self._sample: telemetry_pb2.Sample | None = None
        self._events: list[telemetry_pb2.DeviceEvent] = []
        self._told = asyncio.Event()

    async def next(self) -> telemetry_pb2.Sample | Lost:
        """What is new, once there is something; see `take`."""
        await self.told()
        return self.take()

    async def told(self) -> None:
        """Wait until something is there to be taken."""
        while self._lost is None and self._sample is None:
            self._told.clear()
            await self._told.wait()

    @property
    def lost(self) -> Lost | None:
        """Why the device cannot be heard, until that is taken."""
        return self._lost

    def take(self) -> telemetry_pb2.Sample | Lost:
        """What is new now, after `told`; a sample carries the events that came since the one before."""
        lost, self._lost = self._lost, None
        if lost is not None:
            return lost
        if self._sample is None:
            raise RuntimeError("nothing is there to be taken")
        return self._taken(self._sample)

    def _taken(self, sample: telemetry_pb2.Sample) -> telemetry_pb2.Sample:
        self._sample = None
        if not self._events:
            return sample
        # Others are told the same sample, and perhaps other events.
        mine = telemetry_pb2.Sample()
        mine.CopyFrom(sample)
        mine.events.extend(self._events)
        self._events.clear()
        return mine

    def tell(self, sample: telemetry_pb2.Sample) -> None:
        """A sample has come."""
        self._sample = sample
        self._told.set()

    def tell_event(self, event: telemetry_pb2.DeviceEvent) -> None:
        """An event has come; it is in the journal."""
        self._events = [*self._events, event][-limits.DEVICE_EVENTS_KEPT :]

    def tell_lost(self, lost: Lost) -> None:
        """The device cannot be heard; samples from before count no more."""
        self._sample, self._lost = None, lost
        self._told.set()


@dataclass(slots=True)
class _PendingCommand:
    """A command without an outcome yet; `patience_s` is how long the device may be lost meanwhile."""

    command: pb.Command
    progress: Progress
    patience_s: float
    since: float
    done: asyncio.Future[None]
    deadline: asyncio.Timeout
    silence_s: float

    def fail(self, error: TiermeshError) -> None:
        """Have whoever waits for the outcome raise an error."""
        if not self.done.done():
            self.done.set_exception(error)


class DeviceSession:
    """The session with one device. It connects when it is made, and again whenever it breaks.

    An observer only listens. So does a coordinator that another has taken over from.
    """

    def __init__(
        self,
        device: str,
        knowing: Knowing,
        credentials: wire.Credentials,
        take_event: TakeEvent,
        *,
        coordinator: str,
        observer: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device_id = device
        self._knowing = knowing
        self._credentials = credentials
        self._take_event = take_event
        self._coordinator = coordinator
        self._observer = observer
        self._taken_over: TakenOver | None = None
        self._clock = clock
        self.session: ControlSession[pb.Down] = ControlSession(clock())
        self.wake = asyncio.Event()
        self._up = asyncio.Event()
        self._stepped_down = asyncio.Event()
        self._down_since = clock()
        self._failures = 0
        self._lost: Lost | None = None
        self._boot = ""
        self._listeners: list[Listener] = []
        self._rewatch = self._ping_due = False
        self._pinging = Pinging()
        self._asked: dict[int, _PendingCommand] = {}
        self._inbox: asyncio.Queue[tuple[int, str, pb.Up]] = asyncio.Queue()
        self._channel: wire.PeerChannel | None = None
        self._tasks = [
            asyncio.create_task(self._run(), name=f"session with {device}"),
            asyncio.create_task(self._handle_all(), name=f"messages of {device}"),
        ]

    @property
    def device(self) -> Device:
        """The device, as it is known now."""
        return self._knowing.fleet.devices[self._device_id]

    async def close(self) -> None:
        """End it; commands under way are left to the device."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def connected(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    @property
    def link(self) -> LinkQuality | None:
        """How good the way to the device is; None where it has answered no ping yet, such as an old agent."""
        return self._pinging.link(self._clock())

    async def stepped_down(self) -> None:
        """Wait until another coordinator has taken over."""
        await self._stepped_down.wait()

    @contextlib.contextmanager
    def listening(self, interval_ms: int) -> Generator[Listener]:
        """Samples at this interval or less, while the context lasts."""
        listener = Listener(interval_ms)
        self._listeners.append(listener)
        if self._lost is not None:
            listener.tell_lost(self._lost)
        self._watch_again()
        try:
            yield listener
        finally:
            self._listeners.remove(listener)
            self._watch_again()

    async def ask(
        self,
        command: pb.Command,
        progress: Progress = lambda _step, _replica, _seconds: None,
        *,
        patience_s: float,
        silence_s: float,
    ) -> None:
        """Have a command carried out. A break of the connection meanwhile does not matter.

        Raises:
            Unreachable: the device was lost for `patience_s`, or did not answer for `silence_s`.
            TakenOver: another coordinator commands the device.
            TiermeshError: what the device could not do, as it says.
        """
        if self._observer:
            raise self._taken_over or TakenOver("a read-only session cannot send commands")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(silence_s) as deadline:
                asked = _PendingCommand(
                    command,
                    progress,
                    patience_s,
                    self._clock(),
                    loop.create_future(),
                    deadline,
                    silence_s,
                )
                await self._answered(asked)
        except TimeoutError:
            raise Unreachable(
                f"{self.device.name} did not answer for {silence_s:g} s",
                fix="Look at the agent's log",
                peer=self.device.name,
            ) from None

    async def _answered(self, asked: _PendingCommand) -> None:
        call = asked.command.call
        self._asked[call] = asked
        try:
            self._offer(asked.command)
            await asked.done
        finally:
            if self._asked.pop(call, None) is not None and not self.session.is_up:
                self._drop_what_waits()

    def _offer(self, command: pb.Command) -> None:
        down = pb.Down(command=command)
        self.session.offer(down, down.ByteSize())
        self.wake.set()

    def _drop_what_waits(self) -> None:
        """What has been given up must not reach the device later: leave the session, and ask the rest again."""
        self.session.forget()
        self._ask_again()

    def _ask_again(self) -> None:
        for asked in self._asked.values():
            self._offer(asked.command)

    # What a conversation needs

    def unnumbered(self) -> Iterator[pb.Down]:
        """A ping, and how often to sample where that has changed."""
        if self._ping_due:
            self._ping_due = False
            yield pb.Down(ping=self._pinging.ping(self._clock()))
        if self._rewatch:
            self._rewatch = False
            yield pb.Down(watch=pb.Watch(interval_ms=self._interval_ms))

    @property
    def _interval_ms(self) -> int:
        return min((listener.interval_ms for listener in self._listeners), default=0)

    def _watch_again(self) -> None:
        self._rewatch = True
        self.wake.set()

    def take(self, message: pb.Up) -> None:
        """An answer or an event: handled in order, by a task that outlives the connection."""
        self._inbox.put_nowait((self.session.epoch, self._boot, message))

    def note(self, message: pb.Up) -> None:
        """A sample, the answer to a ping, or a mere heartbeat."""
        match message.WhichOneof("message"):
            case "sample":
                for listener in self._listeners:
                    listener.tell(message.sample)
            case "pong":
                self._pinging.pong(message.pong, self._clock())
            case _:
                pass

    def delivered(self, messages: list[pb.Down]) -> None:
        """Commands are in the device's care; their outcomes follow."""

    # What comes

    async def _handle_all(self) -> None:
        while True:
            epoch, boot, message = await self._inbox.get()
            if message.WhichOneof("message") == "event":
                await self._handle_event(boot, message.event)
            else:
                self._handle_answer(message.answer)
            self.session.handled(epoch)
            self.wake.set()

    async def _handle_event(self, boot: str, event: telemetry_pb2.DeviceEvent) -> None:
        while True:
            try:
                await self._take_event(self._device_id, boot, event)
            except TiermeshError as error:
                log.warning("cannot record an event of %s yet: %s", self._device_id, error)
                await asyncio.sleep(AGAIN_S[-1])
            else:
                break
        for listener in self._listeners:
            listener.tell_event(event)

    def _handle_answer(self, answer: pb.Answer) -> None:
        asked = self._asked.get(answer.call)
        if asked is None or asked.done.done():
            return
        if answer.WhichOneof("answer") == "progress":
            asked.deadline.reschedule(asyncio.get_running_loop().time() + asked.silence_s)
            said = answer.progress
            asked.progress(said.step, said.replica, said.seconds)
        elif answer.outcome.error:
            asked.fail(wire.decode_error(answer.outcome.error))
        else:
            asked.done.set_result(None)

    # The connection

    async def _run(self) -> None:
        while True:
            self._broken(await self._why_it_ended())
            await asyncio.sleep(AGAIN_S[min(self._failures, len(AGAIN_S) - 1)])
            self._failures += 1

    async def _why_it_ended(self) -> TiermeshError:
        """Converse for as long as the connection lasts."""
        try:
            await self._converse()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return Unsupported("its agent is too old for control sessions", fix="Upgrade it")
            return wire.raised_by(error, self.device.name)
        except asyncio.InvalidStateError:
            return Unreachable("the connection broke")
        except TiermeshError as error:
            return error
        except Exception as error:
            log.exception("the session with %s failed", self._device_id)
            return TiermeshError("the session failed", why=repr(error))
        return Unreachable("it has ended the session")

    async def _converse(self) -> None:
        call = control_pb2_grpc.ControlStub(await self._current_channel()).Session()
        try:
            link, opened = await self._open(call)
            conversation = Conversation(self, link, call, pb.Down, self._clock)
            try:
                self._connected(opened)
                await first_of(
                    conversation.read(),
                    conversation.write(),
                    conversation.until_silent(),
                    self._ping(),
                )
            finally:
                self.session.close(link)
        finally:
            call.cancel()

    async def _ping(self) -> None:
        """Measure the link while somebody listens, forever."""
        while True:
            if self._listeners:
                self._ping_due = True
                self.wake.set()
            await asyncio.sleep(PING_S)

    async def _open(self, call: Any) -> tuple[int, pb.Opened]:
        """Meet the agent; the link and what it says."""
        asked = pb.Open(
            protocol_version=PROTOCOL_VERSION,
            device=self._device_id,
            coordinator=self._coordinator,
            epoch=self.session.epoch,
            observer=self._observer,
            interval_ms=self._interval_ms,
        )
        self._rewatch = False
        try:
            async with asyncio.timeout(OPEN_S):
                await call.write(pb.Down(wanted=self.session.wanted, open=asked))
                up = await call.read()
        except TimeoutError:
            raise Unreachable("it does not answer", why=f"no answer for {OPEN_S:g} s") from None
        if up is grpc.aio.EOF or up.WhichOneof("message") != "opened":
            raise TiermeshError("it refused the session")
        try:
            met = self.session.open(up.opened.epoch, up.wanted, self._clock())
        except TiermeshError:
            # Its numbers make no sense, so this session cannot go on. A new one can.
            self._drop_what_waits()
            raise
        if met.is_reset:
            self._ask_again()
        return met.link, up.opened

    def _connected(self, opened: pb.Opened) -> None:
        if self._boot not in ("", opened.boot[: limits.NAME_CHARS]):
            self._tell_lost("its agent has been started again")
        self._boot = opened.boot[: limits.NAME_CHARS]
        self._failures = 0
        self._lost = None
        self._up.set()

    def _broken(self, error: TiermeshError) -> None:
        """Losing a device is told when it is silent, or at the first attempt to connect that fails."""
        now = self._clock()
        was_up = self._up.is_set()
        if was_up:
            self._up.clear()
            self._down_since = now
            self._pinging.broke(now)
        if isinstance(error, TakenOver) and not self._observer:
            self._step_down(error)
            return
        if self._lost is None and (not was_up or self.session.is_silent(now)):
            self._tell_lost(str(error))
        has_failed = self.device.state is DeviceState.FAILED
        for call, asked in list(self._asked.items()):
            patience_s = min(asked.patience_s, FAILED_S) if has_failed else asked.patience_s
            if now - max(asked.since, self._down_since) > patience_s:
                del self._asked[call]
                asked.fail(self._unreachable(error))
                self._drop_what_waits()

    def _unreachable(self, error: TiermeshError) -> TiermeshError:
        if isinstance(error, Unreachable) and error.fields.get("peer"):
            return error
        return Unreachable(
            f"{self.device.name} does not answer", why=str(error), peer=self.device.name
        )

    def _step_down(self, error: TakenOver) -> None:
        log.warning("%s now belongs to another coordinator: %s", self.device.name, error)
        self._observer, self._taken_over = True, error
        self._stepped_down.set()
        self.session.forget()
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.fail(error)

    def _tell_lost(self, why: str) -> None:
        self._lost = Lost(why)
        for listener in self._listeners:
            listener.tell_lost(self._lost)

    async def _current_channel(self) -> grpc.aio.Channel:
        """A connection of its own: pushes on the same one would delay what is urgent."""
        address = self.device.address
        if self._channel is None or self._channel.address != address:
            expected = wire.agent(self._device_id)
            former = self._channel
            self._channel = wire.PeerChannel(self._credentials, address, expected)
            if former is not None:
                await former.close()
        return self._channel.current()


class Sessions:
    """The sessions of one coordinator, one per device. `calls` numbers their commands."""

    def __init__(
        self,
        knowing: Knowing,
        take_event: TakeEvent,
        *,
        credentials: wire.Credentials = wire.LOOPBACK,
        observer: bool = False,
    ) -> None:
        self._knowing = knowing
        self._take_event = take_event
        self._credentials = credentials
        self._observer = observer
        self._coordinator = uuid.uuid4().hex
        self._sessions: dict[str, DeviceSession] = {}
        self.calls = count(1)

    def to(self, device: str) -> DeviceSession:
        """The session with the device of that id."""
        if device not in self._sessions:
            self._sessions[device] = DeviceSession(
                device,
                self._knowing,
                self._credentials,
                self._take_event,
                coordinator=self._coordinator,
                observer=self._observer,
            )
        return self._sessions[device]

    async def close(self) -> None:
        """End them all."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.close() for session in sessions))
