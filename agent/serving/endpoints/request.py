"""An accepted request, and what its source keeps of it until every sink has confirmed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import Any, NamedTuple

from agent.serving.endpoints.attainment import RequestOutcome
from tiermesh.frames import Packed


class RetryCause(IntEnum):
    """Why a request is due, the weakest reason first."""

    UNHEARD = 0
    """It has not been confirmed; nobody says that it is lost."""
    SILENT = 1
    """A device on its lane is silent: it may be lost, and it may be slow."""
    LOST = 2
    """It is known to be lost, or was never sent."""


@dataclass(frozen=True, slots=True)
class PossibleDuplicate:
    """A request has ended at a sink; at another device, where the sink was, or to which it had moved, it may have, too.

    That device is told that it does not count there, at least `until` nothing of the request can be on its way.
    """

    request: str
    sink: str
    device: str
    until: float


class SinkResult(NamedTuple):
    """What a sink returns of a request: the values of a result, or why it failed."""

    values: Mapping[str, Any] | None
    """None: it has no result, or the sink does not have it any more."""
    error: str = ""


@dataclass(slots=True)
class Request:
    """One accepted request. `due` is when something must be done about it next.

    The kind of its source reads its payload by `item`; the ends of the request have that as their name.
    """

    index: int
    id: str
    item: str
    accepted_at: float
    deadline: float
    unconfirmed: set[str]
    attempt: int = 0
    devices: frozenset[str] = frozenset()
    due: float = inf
    cause: RetryCause = RetryCause.LOST
    guessed: bool = False
    """It was repeated because nothing was heard of it; that is done once."""
    withheld: bool = False
    """The budget has no room for it."""
    injected_at: float = -inf
    reading: bool = False
    """It is being read from the disk, to be injected."""
    failed: bool = False
    why: str = ""
    """What was last heard to stand in its way."""
    cleared: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Sinks and their former devices that have said that it has not ended there."""
    asked_since: float = inf
    forsaken: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Sinks and their former devices that have not said so in time: it goes to the new device nevertheless."""
    duplicates: list[PossibleDuplicate] = field(default_factory=list["PossibleDuplicate"])
    offered_at: float | None = None
    """When it was due at its source; None where that is not known, such as of one that an older agent accepted."""
    ended: RequestOutcome | None = None
    """How it ended at the sinks that have confirmed it."""
    payload: Packed | None = None
    """What was offered from outside, until it is on disk."""
    is_kept: bool = False
    """Its payload is in the spool; otherwise it is read by `item` each time."""
    offer: int | None = None
    """The number under which the client that offered it learns its outcome; None: nobody is."""
    results: tuple[tuple[str, SinkResult], ...] = ()
    """By sink, what came of it, from sinks that return that; only for requests that were offered."""
    counted: tuple[str, ...] = ()
    """What it adds to the totals of the run; see `SloAttainment`."""


@dataclass(frozen=True, slots=True)
class FormerSink:
    """A sink was on another device for the requests below a number: some may have ended there."""

    sink: str
    device: str
    below: int


@dataclass(slots=True)
class DueRequests:
    """What is due: requests to inject, requests to fail, and requests to ask a sink's former device about."""

    inject: list[Request] = field(default_factory=list[Request])
    fail: list[Request] = field(default_factory=list[Request])
    ask: list[Request] = field(default_factory=list[Request])


@dataclass(slots=True)
class SourceCounts:
    """What a source has done in its run, restarts included.

    `accepted == confirmed + in flight` and `confirmed == results + errors + filtered`, always.
    """

    accepted: int = 0
    confirmed: int = 0
    retried: int = 0
    errors: int = 0
    filtered: int = 0

    @property
    def results(self) -> int:
        """Of the confirmed ones, those with a result."""
        return self.confirmed - self.errors - self.filtered

    def end(self, ended: RequestOutcome) -> None:
        """One more is confirmed."""
        self.confirmed += 1
        self.errors += ended is RequestOutcome.ERROR
        self.filtered += ended is RequestOutcome.FILTERED
