"""Where branches of a request meet: joins wait for all their inputs, unions for all their filtered ones.

Both take every frame at once and never hold up a stream: what they keep is bounded by what the sources have in
flight. Should there be more all the same (leftovers of requests that ended elsewhere), the oldest is dropped, and a
request that still needed it is injected again by its source.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from tiermesh import limits
from tiermesh.frames import Frame, Kind

KEPT_REQUESTS: Final = 4 * limits.SOURCE_INFLIGHT_REQUESTS
KEPT_BYTES: Final = 4 * limits.STREAM_CREDIT_BYTES


@dataclass(slots=True)
class _Meeting:
    parts: dict[str, Frame] = field(default_factory=dict[str, Frame])
    ended: Frame | None = None
    deadline: float = 0.0

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts.values())


class JoinBuffer:
    """The requests of which some inputs are here, by id."""

    def __init__(
        self, inputs: list[str], *, kept: int = KEPT_REQUESTS, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._inputs = frozenset(inputs)
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._meetings: OrderedDict[str, _Meeting] = OrderedDict()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._meetings)

    def add(self, frame: Frame) -> tuple[Frame, dict[str, Frame]] | None:
        """Take an input: the frame of the whole request and its parts by input, once all are here.

        Where the request has ended on another input already, the frame is that end, for this input's sources, and
        there are no parts.
        """
        meeting = self._at(frame)
        if meeting.ended is not None:
            return replace(meeting.ended, sources=frame.sources), {}
        self._bytes += frame.size - (
            meeting.parts[frame.origin].size if frame.origin in meeting.parts else 0
        )
        meeting.parts[frame.origin] = frame
        if meeting.parts.keys() != self._inputs:
            self._bound()
            return None
        del self._meetings[frame.request_id]
        self._bytes -= meeting.size
        return _merged(frame, meeting.parts), meeting.parts

    def end(self, frame: Frame) -> Frame:
        """One input ended the request: the end to pass on, for the sources of all inputs that are here."""
        meeting = self._at(frame)
        self._bytes -= meeting.size
        ended = replace(frame, sources=_sources([frame, *meeting.parts.values()]))
        meeting.parts.clear()
        meeting.ended = ended
        self._bound()
        return ended

    def expire(self, now: float) -> None:
        """Forget the requests whose deadline has passed; their sources end them."""
        late = [request for request, m in self._meetings.items() if m.deadline < now]
        for request in late:
            self._bytes -= self._meetings.pop(request).size

    def _at(self, frame: Frame) -> _Meeting:
        meeting = self._meetings.setdefault(frame.request_id, _Meeting())
        meeting.deadline = max(meeting.deadline, frame.deadline)
        return meeting

    def _bound(self) -> None:
        while len(self._meetings) > self._kept or self._bytes > self._kept_bytes:
            _, oldest = self._meetings.popitem(last=False)
            self._bytes -= oldest.size
            self.dropped += 1


class Gathering:
    """The filtered inputs of a union, by request: only a request that all of its inputs filtered has ended."""

    def __init__(self, *, kept: int = KEPT_REQUESTS) -> None:
        self._kept = kept
        self._filtered: OrderedDict[str, dict[str, Frame]] = OrderedDict()

    def end(self, frame: Frame, expected: frozenset[str]) -> Frame | None:
        """An input (`frame.origin`) has ended the request: the end to pass on, or None: another may bring data."""
        if frame.kind is not Kind.FILTERED or len(expected) < 2:
            return frame
        parts = self._filtered.setdefault(frame.request_id, {})
        parts[frame.origin] = frame
        if parts.keys() >= expected:
            del self._filtered[frame.request_id]
            return replace(frame, sources=_sources(parts.values()))
        if len(self._filtered) > self._kept:
            self._filtered.popitem(last=False)
        return None


def _merged(frame: Frame, parts: dict[str, Frame]) -> Frame:
    frames = [parts[name] for name in sorted(parts)]
    return replace(
        frame,
        attempt=max(part.attempt for part in frames),
        sources=_sources(frames),
        accepted_at=min(part.accepted_at for part in frames),
        deadline=min(part.deadline for part in frames),
        series=frames[0].series,
        index=frames[0].index,
        settled=min(part.settled for part in frames),
        done=tuple(sorted({sink for part in frames for sink in part.done})),
    )


def _sources(frames: Iterable[Frame]) -> tuple[str, ...]:
    return tuple(sorted({source for frame in frames for source in frame.sources}))
