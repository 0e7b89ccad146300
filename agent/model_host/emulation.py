"""Time dilation: a device that is slower than the machine it runs on, by waiting.

After each piece of computing the thread waits (slowdown - 1) times the CPU time that it took. CPU
time and not wall time, so that what other processes take from this machine is not multiplied, too.
What the thread had to wait meanwhile, for its turn among the emulated devices of the host or for a
core, is taken off: a device that stands alone would not have waited.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

from agent.model_host.turns import Turns

_SHORTEST_WAIT_S: Final = 0.0005
_MOST_CREDIT_S: Final = 0.005
_MOST_LOST_S: Final = 0.5
"""What was lost beyond this is lost: a machine that is too busy for so long cannot emulate the device."""

HOST: Final = Turns()
"""Of all emulated devices on this machine."""


class CountedTime:
    """A clock on which waits count, but are waited for `longest_s` at most: emulated devices are measured sooner."""

    def __init__(
        self, longest_s: float = 0.0, *, wait: Callable[[float], object] | None = None
    ) -> None:
        self._longest_s = longest_s
        self._wait = wait or threading.Event().wait
        self._skipped = 0.0

    def now(self) -> float:
        """Seconds from some moment on, waits included."""
        return time.perf_counter() + self._skipped

    def wait(self, seconds: float) -> None:
        """Let time pass. Of less than nothing, the clock goes back: what was lost does not count."""
        begun = time.perf_counter()
        if self._longest_s > 0 and seconds > 0:
            self._wait(min(seconds, self._longest_s))
        self._skipped += seconds - (time.perf_counter() - begun)


class Dilation:
    """Slows one thread's work down by a factor; 1 costs nothing.

    A wait ends a little late and a very short one much too late. So what was waited too long is
    taken off the next wait, up to 5 ms, and waits below half a millisecond add up until they are
    worth one: the mean is right. `queued` tells how many seconds the calling thread was ready and
    had no core; `turn` is held while it computes. Where waits are `counted`, all that was lost is
    taken off at once: a measurement is as long as it would be on a machine without anything else.
    """

    def __init__(
        self,
        slowdown: float,
        *,
        wait: Callable[[float], object] | None = None,
        cpu_clock: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.perf_counter,
        queued: Callable[[], float] | None = None,
        turn: Callable[[], AbstractContextManager[None]] = HOST.turn,
        counted: CountedTime | None = None,
    ) -> None:
        if slowdown < 1:
            raise ValueError(f"a device cannot be emulated faster than it is: slowdown {slowdown}")
        self.slowdown = slowdown
        self._wait = counted.wait if counted is not None else wait or threading.Event().wait
        self._cpu_clock = cpu_clock
        self._clock = counted.now if counted is not None else clock
        self._is_counted = counted is not None
        self._queued = queued or queued_s
        self._turn = turn
        self._owed = 0.0

    @contextmanager
    def slowed(self) -> Generator[None]:
        """Wait, after the block, for as long as a slower device would still be computing."""
        if self.slowdown == 1:
            yield
            return
        asked, queued = self._clock(), self._queued()
        lost = used = 0.0
        try:
            with self._turn():
                lost = self._clock() - asked
                # What was queued for while waiting for the turn is part of that.
                queued = self._queued() if lost > 0 else queued
                begun = self._cpu_clock()
                try:
                    yield
                finally:
                    used = self._cpu_clock() - begun
                    lost += self._queued() - queued
        finally:
            self._pay((self.slowdown - 1) * used - lost)

    def _pay(self, more: float) -> None:
        if self._is_counted:
            self._wait(more)
            return
        self._owed = max(self._owed + more, -_MOST_LOST_S)
        if self._owed < _SHORTEST_WAIT_S:
            return
        begun = self._clock()
        self._wait(self._owed)
        self._owed = max(self._owed - (self._clock() - begun), -_MOST_CREDIT_S)


class _Queue(threading.local):
    """The kernel's account of the calling thread (Linux: /proc/thread-self/schedstat); -1: there is none."""

    def __init__(self) -> None:
        self.file = -1
        with suppress(OSError):
            self.file = os.open(
                "/proc/thread-self/schedstat", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
            )

    def __del__(self) -> None:
        if self.file >= 0:
            with suppress(OSError):
                os.close(self.file)


_QUEUE: Final = _Queue()


def queued_s() -> float:
    """Seconds for which the calling thread was ready to run and had no core; 0 where the kernel does not tell."""
    if _QUEUE.file < 0:
        return 0.0
    try:
        return int(os.pread(_QUEUE.file, 128, 0).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
