"""Carrying instructions out until nothing is left to do: the loop around `decide`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from coordinator.fleet import Desired, Fleet, decide, held, obsolete
from coordinator.fleet.events import Event
from coordinator.fleet.instructions import Instruction

PARALLEL: Final = 64
"""Instructions under way at a time."""

Work: TypeAlias = Callable[[Instruction], Awaitable[Sequence[Event]]]
"""Carries one instruction out and tells what happened; raises only what nobody expected."""


class Recording(Protocol):
    """Who keeps the state."""

    @property
    def fleet(self) -> Fleet:
        """The state now."""
        ...

    async def record(self, *events: Event) -> None:
        """Keep events and apply them."""
        ...

    @property
    def change(self) -> asyncio.Event:
        """Set once something more is recorded; a new one each time."""
        ...


class Pursuit:
    """One pursuit of what is desired. Ends when nothing is left to do, or as soon as `enough` says so.

    What an operator holds back is waited for. With `linger_s`, it goes on that long after its start although nothing
    is to do, because what others record may bring new work.
    """

    def __init__(
        self,
        keeper: Recording,
        desired: Desired,
        work: Work,
        *,
        enough: Callable[[Fleet], bool] = lambda _fleet: False,
        linger_s: float = 0.0,
        parallel: int = PARALLEL,
    ) -> None:
        self._keeper = keeper
        self._desired = desired
        self._work = work
        self._enough = enough
        self._linger_s = linger_s
        self._parallel = parallel
        self._under_way: dict[asyncio.Task[Sequence[Event]], Instruction] = {}

    async def run(self) -> None:
        """Pursue it. When this is cancelled, so is all that is under way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._linger_s
        try:
            while not self._enough(self._keeper.fleet):
                change = self._keeper.change
                self._start_and_stop()
                left_s = until - loop.time()
                waits = bool(self._under_way) or held(self._keeper.fleet, self._desired)
                if not waits and left_s <= 0:
                    return
                await self._wait(change, None if waits else left_s)
        finally:
            await self._end()

    def _start_and_stop(self) -> None:
        fleet = self._keeper.fleet
        for task, instruction in self._under_way.items():
            if obsolete(instruction, fleet):
                task.cancel()
        free = self._parallel - len(self._under_way)
        for instruction in decide(fleet, self._desired, self._under_way.values())[:free]:
            task = asyncio.ensure_future(self._work(instruction))
            self._under_way[task] = instruction

    async def _wait(self, change: asyncio.Event, timeout_s: float | None) -> None:
        """Until an instruction has been carried out, or something else was recorded."""
        changed = asyncio.ensure_future(change.wait())
        waited: set[asyncio.Task[Any]] = {changed, *self._under_way}
        try:
            await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        happened: list[Event] = []
        for task in [task for task in self._under_way if task.done()]:
            del self._under_way[task]
            if not task.cancelled():
                happened += task.result()
        await self._record(happened)

    async def _end(self) -> None:
        """Cancel what is under way; what came to its end meanwhile has happened, and is recorded."""
        for task in self._under_way:
            task.cancel()
        ended = await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()
        happened = [e for events in ended if not isinstance(events, BaseException) for e in events]
        await self._record(happened)

    async def _record(self, happened: Sequence[Event]) -> None:
        """What has happened is recorded to the end, also when this is cancelled meanwhile."""
        recording = asyncio.ensure_future(self._keeper.record(*happened))
        try:
            await asyncio.shield(recording)
        except asyncio.CancelledError:
            await recording
            raise
