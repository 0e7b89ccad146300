"""A sink's memory, as a state machine: which requests have ended here, so that none ends twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tiermesh import limits
from tiermesh.frames import Frame, Kind


class SinkAction(Enum):
    """What to do with a frame that ends a request."""

    WRITE = "write"
    CONFIRM = "confirm"
    """It has ended here before: say so again."""
    WAIT = "wait"
    """There is nothing to do: it is being written, and the confirmation is to come."""


@dataclass(slots=True)
class OutcomeCounts:
    """How many requests have ended here, and how many frames were repetitions."""

    results: int = 0
    errors: int = 0
    filtered: int = 0
    duplicates: int = 0

    def count(self, kind: Kind, by: int = 1) -> None:
        """One request has ended with such a frame."""
        if kind is Kind.DATA:
            self.results += by
        elif kind is Kind.ERROR:
            self.errors += by
        else:
            self.filtered += by


class SinkState:
    """Removes duplicates, and counts how the requests of a run ended.

    `remembered` are the ids of the requests that ended before a restart, and how, oldest first.
    """

    def __init__(
        self,
        run: str,
        remembered: Mapping[str, Kind] | None = None,
        counts: OutcomeCounts | None = None,
        *,
        returns_results: bool = False,
        kept: int = limits.SINK_REMEMBERED_IDS,
    ) -> None:
        self.run = run
        self.returns_results = returns_results
        """Whether confirmations carry what came of a request, to the source that accepted it."""
        self._kept = kept
        self._ended: dict[bytes, Kind | None] = {
            bytes.fromhex(request): kind for request, kind in (remembered or {}).items()
        }
        """By id, how the request has ended here; None where it has ended elsewhere, as its source says."""
        self._writing: dict[str, Frame] = {}
        self.counts = counts or OutcomeCounts()
        self.since = 0
        """The generation since which this sink is here without a break. What was sent under an earlier one may have
        been sent to another device, too."""

    def has_ended(self, request_id: str) -> bool:
        """Whether a request has ended here."""
        return bytes.fromhex(request_id) in self._ended

    def has_written(self, request_id: str) -> bool:
        """Whether the end of a request is in the file here."""
        return self.ended(request_id) is not None

    def ended(self, request_id: str) -> Kind | None:
        """How a request has ended here; None where it has not."""
        return self._ended.get(bytes.fromhex(request_id))

    def is_writing(self, request_id: str) -> bool:
        """Whether the end of a request is on its way to the disk."""
        return request_id in self._writing

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being written."""
        return not self._writing

    def begin(self, run: str) -> None:
        """Count the ends of this run's requests from now on."""
        if run != self.run:
            self.run = run
            self.counts = OutcomeCounts()

    def arrive(self, frame: Frame) -> SinkAction:
        """A frame ends a request here; WRITE: the caller writes it and calls `written`."""
        if bytes.fromhex(frame.request_id) in self._ended:
            self.counts.duplicates += 1
            return SinkAction.CONFIRM
        if frame.request_id in self._writing:
            self.counts.duplicates += 1
            return SinkAction.WAIT
        self._writing[frame.request_id] = frame
        return SinkAction.WRITE

    def written(self, request_id: str, kind: Kind, run: str) -> None:
        """The end of a request is on disk."""
        del self._writing[request_id]
        self._remember(request_id, kind)
        if run == self.run:
            self.counts.count(kind)

    def refuse(self, request_id: str) -> None:
        """A request has ended elsewhere: it does not end here."""
        self._remember(request_id, None)

    def dropped(self, request_id: str, kind: Kind | None) -> None:
        """The end of a request, of this kind and in this run, is not in the file any more."""
        self.refuse(request_id)
        if kind is not None:
            self.counts.count(kind, -1)

    def _remember(self, request_id: str, kind: Kind | None) -> None:
        self._ended[bytes.fromhex(request_id)] = kind
        if len(self._ended) > self._kept:
            del self._ended[next(iter(self._ended))]
