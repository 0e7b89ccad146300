"""Simulated time: events in order, and an asyncio event loop whose clock it is.

What the coordinator waits for (timers, threads) takes simulated time: coroutines of the product run as they are.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable
from itertools import count
from typing import Any, Final

LONGEST_S: Final = 3_600.0


class Timeline:
    """Events by time; `now` is in seconds since the beginning of the run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Call `event` after so many seconds."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def every(self, seconds: float, event: Callable[[], None]) -> None:
        """Call `event` now and after each `seconds`."""

        def again() -> None:
            event()
            self.after(seconds, again)

        self.after(0.0, again)

    def advance(self, until: float, stop: Callable[[], bool]) -> None:
        """Let time pass to `until`, or until an event makes `stop` true."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if stop():
                return
        self.now = until


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time: while it has nothing to run, the timeline goes on.

    A call in a thread runs at once, and its result comes after `seconds_of(function, arguments)`.
    """

    def __init__(self, timeline: Timeline, seconds_of: Callable[..., float]) -> None:
        super().__init__(_Selector(self._wait))
        self._timeline = timeline
        self._seconds_of = seconds_of

    def time(self) -> float:
        """The timeline's clock."""
        return self._timeline.now

    def _wait(self, timeout: float | None) -> None:
        seconds = LONGEST_S if timeout is None else timeout
        if seconds > 0:
            self._timeline.advance(self._timeline.now + seconds, lambda: bool(self._ready))

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """Run it now; the result comes later."""
        del executor
        future = self.create_future()
        called = (*getattr(func, "args", ()), *args)
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            self.call_later(self._seconds_of(*called), _fail, future, error)
        else:
            self.call_later(self._seconds_of(*called), _succeed, future, result)
        return future


class _Selector(selectors.DefaultSelector):
    """Asks the operating system for nothing but what is there already."""

    def __init__(self, wait: Callable[[float | None], None]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._wait(timeout)
        return super().select(0)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
