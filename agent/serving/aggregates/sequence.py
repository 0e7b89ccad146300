"""The order in which requests reach an aggregate: that of their sources, whatever happened on the way. Pure.

A source numbers its requests, and each frame says below which number all have ended (`settled`). An aggregate takes
the requests of a source one after the other; those that ended above it (filtered, failed) are told to it and passed
over. So it sees each request once, in order, and what is missing is injected again by its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from tiermesh import limits
from tiermesh.frames import Frame

T = TypeVar("T")

_SERIES: Final = 1_024
_KEPT: Final = 4 * limits.SOURCE_INFLIGHT_REQUESTS
_KEPT_BYTES: Final = 4 * limits.STREAM_CREDIT_BYTES


@dataclass(slots=True)
class _Series(Generic[T]):
    next: int
    """The number whose turn it is."""
    settled: int
    """All requests below have ended at the sinks."""
    waiting: dict[int, tuple[Frame, T]] = field(default_factory=dict[int, tuple[Frame, T]])
    passed: set[int] = field(default_factory=set[int])


class Sequence(Generic[T]):
    """The requests at one aggregate; `positions` are the numbers whose turn it is, where a state was kept.

    While it is `closed`, nobody's turn comes: the positions are yet to be known.
    """

    def __init__(self, positions: Mapping[str, int] | None = None, *, closed: bool = False) -> None:
        self.closed = closed
        self._series: dict[str, _Series[T]] = {
            name: _Series[T](number, 0) for name, number in (positions or {}).items()
        }
        self._frames = self._bytes = 0
        self.dropped = 0

    def open(
        self, positions: Mapping[str, int], passed: Mapping[str, Iterable[int]] | None = None
    ) -> list[T]:
        """The positions are known: the items whose turn it is now, and those that were there before."""
        for name, numbers in (passed or {}).items():
            series = self._series.setdefault(name, _Series[T](0, 0))
            series.passed |= {n for n in numbers if n not in series.waiting}
        self.closed = False
        found: list[T] = []
        for name, number in positions.items():
            series = self._series.setdefault(name, _Series[T](0, 0))
            for index in sorted(i for i in series.waiting if i < number):
                found.append(series.waiting[index][1])
                self._drop(series, index)
            series.next = max(series.next, number)
            series.passed = {i for i in series.passed if i >= series.next}
        for series in self._series.values():
            found += self._turns(series)
        return found

    @property
    def passed(self) -> dict[str, list[int]]:
        """By series, what ended above and whose turn has not come."""
        return {name: sorted(series.passed) for name, series in self._series.items()}

    def clear(self) -> list[T]:
        """Take out all that waits, in order."""
        found: list[T] = []
        for series in self._series.values():
            for index in sorted(series.waiting):
                found.append(series.waiting[index][1])
                self._drop(series, index)
        return found

    def begins(self, frame: Frame) -> bool:
        """Whether nothing of the frame's series has come before, though its source has had requests end."""
        return not self.closed and frame.series not in self._series and frame.settled > 0

    def add(self, frame: Frame, item: T) -> list[T]:
        """A request has come: the items whose turn it is now, in order."""
        series = self._at(frame)
        if frame.index < series.settled:
            # A late copy of what has ended.
            return self._turns(series)
        if frame.index < series.next:
            # It was here before: what was made of it then is sent again.
            return [*self._turns(series), item]
        self._drop(series, frame.index)
        if frame.index != series.next and (
            self._frames >= _KEPT or self._bytes + frame.size > _KEPT_BYTES
        ):
            self.dropped += 1
            return self._turns(series)
        series.waiting[frame.index] = frame, item
        self._frames += 1
        self._bytes += frame.size
        return self._turns(series)

    def ended(self, frame: Frame) -> list[T]:
        """A request has ended above: the items whose turn it is now."""
        series = self._at(frame)
        if frame.index >= series.next and len(series.passed) < _KEPT:
            self._drop(series, frame.index)
            series.passed.add(frame.index)
        return self._turns(series)

    def expire(self, now: float) -> None:
        """Forget what waits past its deadline; the sources end it."""
        for series in self._series.values():
            late = [i for i, (frame, _) in series.waiting.items() if frame.deadline < now]
            for index in late:
                self._drop(series, index)

    @property
    def waiting(self) -> int:
        """Requests that wait for others before them."""
        return self._frames

    def _at(self, frame: Frame) -> _Series[T]:
        series = self._series.get(frame.series)
        if series is None:
            series = self._series[frame.series] = _Series[T](frame.settled, frame.settled)
            idle = [n for n, s in self._series.items() if not s.waiting and n != frame.series]
            for name in idle[: len(self._series) - _SERIES]:
                del self._series[name]
        series.settled = max(series.settled, frame.settled)
        if frame.settled > series.next:
            for index in [i for i in series.waiting if i < frame.settled]:
                self._drop(series, index)
            series.passed = {i for i in series.passed if i >= frame.settled}
            series.next = frame.settled
        return series

    def _turns(self, series: _Series[T]) -> list[T]:
        found: list[T] = []
        while not self.closed:
            if series.next in series.passed:
                series.passed.discard(series.next)
            elif series.next in series.waiting:
                found.append(series.waiting[series.next][1])
                self._drop(series, series.next)
            else:
                break
            series.next += 1
        return found

    def _drop(self, series: _Series[T], index: int) -> None:
        former = series.waiting.pop(index, None)
        if former is not None:
            self._frames -= 1
            self._bytes -= former[0].size
