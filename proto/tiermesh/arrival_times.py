"""Recorded arrivals: seconds, one a line. The one reader of such files, for agents, simulations and batching alike.

Empty lines and lines that begin with ``#`` are skipped, and so is the mark that some editors put in front (BOM).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tiermesh import limits
from tiermesh.errors import InvalidDocument, LimitExceeded

_SHOWN: Final = 40
_FIX: Final = "Write seconds, one time a line, for example 12.345"


def read(data: bytes, what: str) -> list[float]:
    """The times of a trace that is to be replayed: in order, in seconds from its first one on.

    Times of day (Unix seconds) are told relative to the first as well: nobody waits for 1970 to be over again.

    Raises:
        InvalidDocument: naming the first line that is not a finite number, or is before the one above it.
        LimitExceeded: more than `limits.TRACE_ARRIVALS` times.
    """
    entries = list(_entries(data, what))
    if not entries:
        raise InvalidDocument(f"{what} has no times", fix=_FIX)
    for (_, before), (line, time) in pairwise(entries):
        if time < before:
            raise _wrong(what, line, f"{time:g}", f"it is before {before:g}, the time above it")
    first = entries[0][1]
    return [time - first for _, time in entries]


def raw(data: bytes, what: str) -> list[float]:
    """The numbers of a file of times as they are written, in whatever order.

    Raises:
        InvalidDocument, LimitExceeded: see `read`.
    """
    return [time for _, time in _entries(data, what)]


def _entries(data: bytes, what: str) -> Iterator[tuple[int, float]]:
    """Each time with the number of its line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{what} is not text", why=str(error), fix=_FIX) from None
    count = 0
    for line, written in enumerate(text.split("\n"), start=1):
        entry = written.strip()
        if entry and not entry.startswith("#"):
            count += 1
            _check_count(count, what)
            yield line, _number(entry, line, what)


def _check_count(count: int, what: str) -> None:
    if count > limits.TRACE_ARRIVALS:
        raise LimitExceeded(
            f"{what} has more than {limits.TRACE_ARRIVALS} times",
            why="so many are followed at most",
            limit="TRACE_ARRIVALS",
        )


def _number(entry: str, line: int, what: str) -> float:
    try:
        number = float(entry)
    except ValueError:
        raise _wrong(what, line, entry, "it is not a number") from None
    if not math.isfinite(number):
        raise _wrong(what, line, entry, "it is not a finite number")
    return number


def _wrong(what: str, line: int, entry: str, why: str) -> InvalidDocument:
    return InvalidDocument(
        f"line {line} of {what} is {entry[:_SHOWN]!r}", why=why, fix=_FIX, line=line
    )
