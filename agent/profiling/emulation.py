"""Time dilation: a device that is slower than the machine it runs on, by waiting.

After each piece of computing the thread waits (slowdown - 1) times the CPU time that it took. CPU
time and not wall time, so that what other processes take from this machine is not multiplied, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

_SHORTEST_WAIT_S: Final = 0.0005
_MOST_CREDIT_S: Final = 0.005


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
        """Let time pass."""
        begun = time.perf_counter()
        if self._longest_s > 0:
            self._wait(min(seconds, self._longest_s))
        self._skipped += seconds - (time.perf_counter() - begun)


class Dilation:
    """Slows one thread's work down by a factor; 1 costs nothing.

    A wait ends a little late and a very short one much too late. So what was waited too long is
    taken off the next wait, up to 5 ms, and waits below half a millisecond add up until they are
    worth one: the mean is right.
    """

    def __init__(
        self,
        slowdown: float,
        *,
        wait: Callable[[float], object] | None = None,
        cpu_clock: Callable[[], float] = time.thread_time,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if slowdown < 1:
            raise ValueError(f"a device cannot be emulated faster than it is: slowdown {slowdown}")
        self.slowdown = slowdown
        self._wait = wait or threading.Event().wait
        self._cpu_clock = cpu_clock
        self._clock = clock
        self._owed = 0.0

    @contextmanager
    def slowed(self) -> Generator[None]:
        """Wait, after the block, for as long as a slower device would still be computing."""
        if self.slowdown == 1:
            yield
            return
        begun = self._cpu_clock()
        try:
            yield
        finally:
            self._pay((self.slowdown - 1) * (self._cpu_clock() - begun))

    def _pay(self, more: float) -> None:
        self._owed += more
        if self._owed < _SHORTEST_WAIT_S:
            return
        begun = self._clock()
        self._wait(self._owed)
        self._owed = max(self._owed - (self._clock() - begun), -_MOST_CREDIT_S)
