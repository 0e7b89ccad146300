"""A control session over one gRPC call: the reading and the writing, the same at both ends.

Each direction has one writer, because a second concurrent `write` of grpc.aio ends a call silently.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc.aio

from tiermesh.errors import Unreachable
from tiermesh.session import SILENCE_S, ControlSession
from tiermesh.v1 import control_pb2 as pb

Out = TypeVar("Out", pb.Up, pb.Down)
In = TypeVar("In", pb.Up, pb.Down)
In_contra = TypeVar("In_contra", pb.Up, pb.Down, contravariant=True)
In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)

_LOOK_S: Final = SILENCE_S / 4
_PACE_S: Final = 0.01
"""Acknowledgements that travel alone are this far apart; the other end counts them."""


class Call(Protocol[In_co, Out_contra]):
    """One end of a bidirectional call."""

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        ...

    async def write(self, message: Out_contra, /) -> Any:
        """Send a message."""
        ...


class Side(Protocol[Out, In_contra]):
    """What an end does with a conversation."""

    session: ControlSession[Out]
    wake: asyncio.Event
    """Set when there may be something to write."""

    def unnumbered(self) -> Iterable[Out]:
        """What is to be written now beside the session's messages; each is given once."""
        ...

    def take(self, message: In_contra, /) -> None:
        """A numbered message has come, for the first time; its turn in order. Calls `session.handled` later."""
        ...

    def note(self, message: In_contra, /) -> None:
        """A message without a number has come."""
        ...

    def delivered(self, messages: list[Out], /) -> None:
        """The other end has handled these."""
        ...


class Conversation(Generic[Out, In]):
    """One call of a session, after both ends have met. `make` makes an empty message."""

    def __init__(
        self,
        side: Side[Out, In],
        link: int,
        call: Call[In, Out],
        make: Callable[[], Out],
        clock: Callable[[], float],
    ) -> None:
        self._side = side
        self._session = side.session
        self._link = link
        self._call = call
        self._make = make
        self._clock = clock

    async def read(self) -> None:
        """Take what comes until the other end hangs up."""
        session, side = self._session, self._side
        while (message := await self._call.read()) is not grpc.aio.EOF:
            session.heard(self._clock(), numbered=message.number > 0)
            if delivered := session.acknowledged(self._link, message.wanted):
                side.delivered(delivered)
                side.wake.set()
            if not message.number:
                side.note(message)
            elif session.is_new(self._link, message.number):
                side.take(message)

    async def write(self, beat_s: float | None = None) -> None:
        """Send what there is, forever; with `beat_s`, something at least that often."""
        side, told = self._side, self._session.wanted
        while True:
            side.wake.clear()
            count = 0
            for message in self._waiting():
                count += 1
                message.wanted = told = self._session.wanted
                await self._call.write(message)
            if told != self._session.wanted or (not count and beat_s):
                told = self._session.wanted
                await self._call.write(self._bare(told))
                await asyncio.sleep(_PACE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(beat_s):
                    await side.wake.wait()

    def _waiting(self) -> Iterable[Out]:
        yield from self._side.unnumbered()
        while self._session.is_current(self._link):
            following = self._session.next_message()
            if following is None:
                return
            number, message = following
            message.number = number
            yield message

    def _bare(self, wanted: int) -> Out:
        message = self._make()
        message.wanted = wanted
        return message

    async def until_silent(self) -> None:
        """Wait until the other end has been silent for too long.

        Raises:
            Unreachable: it has. What this process itself did not listen does not count.
        """
        while True:
            before = self._clock()
            await asyncio.sleep(_LOOK_S)
            late = self._clock() - before - _LOOK_S
            if late > _LOOK_S:
                self._session.excuse(late)
            if self._session.is_silent(self._clock()):
                raise Unreachable(f"no message for {SILENCE_S:g} s")


async def first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
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
