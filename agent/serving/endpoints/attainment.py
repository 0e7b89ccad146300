"""How the requests of a source ended, over several lengths of time, and within the latency SLO or not. Pure.

Latency counts from when a request was *due* at its source to the confirmation of the last sink. Counted from when it
was accepted, a source that is held back would hide exactly the requests that wait longest (coordinated omission;
G. Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tiermesh.v1 import telemetry_pb2 as pb

WINDOWS_S: Final = (10.0, 60.0, 600.0, 3_600.0)
BUCKETS: Final = 30
"""Of each window: it is longer than it says by one in so many at most."""


class RequestOutcome(StrEnum):
    """How a request ended. Of several sinks the worst counts: an error, else a result, else filtered."""

    RESULT = "result"
    FILTERED = "filtered"
    ERROR = "error"

    def with_another(self, other: RequestOutcome) -> RequestOutcome:
        """How a request ended that ended so at one sink, and like `other` at another."""
        return next(
            e
            for e in (RequestOutcome.ERROR, RequestOutcome.RESULT, RequestOutcome.FILTERED)
            if e in (self, other)
        )


@dataclass(slots=True)
class OutcomeTally:
    """Requests that ended; `within` by the percentile of the SLO that they met."""

    ended: int = 0
    failed: int = 0
    within: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, ended: RequestOutcome, met: tuple[str, ...]) -> None:
        """One more has ended."""
        self.ended += 1
        self.failed += ended is RequestOutcome.ERROR
        for percentile in met:
            self.within[percentile] = self.within.get(percentile, 0) + 1

    def join(self, other: OutcomeTally) -> None:
        """Add what another has counted."""
        self.ended += other.ended
        self.failed += other.failed
        for percentile, count in other.within.items():
            self.within[percentile] = self.within.get(percentile, 0) + count


class _Ring:
    """What ended within the last `seconds`, in buckets that are dropped whole."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._width = seconds / BUCKETS
        self._buckets: deque[tuple[int, OutcomeTally]] = deque()

    def bucket(self, now: float) -> OutcomeTally:
        """Where what ends now is counted."""
        at = int(now // self._width)
        self._drop(at)
        if not self._buckets or self._buckets[-1][0] < at:
            self._buckets.append((at, OutcomeTally()))
        return self._buckets[-1][1]

    def window(self, began: float, now: float, limits: Mapping[str, float]) -> pb.SloWindow:
        """What the buckets add up to."""
        at = int(now // self._width)
        self._drop(at)
        total = OutcomeTally(within=dict.fromkeys(limits, 0))
        for _, tally in self._buckets:
            total.join(tally)
        return _window(self.seconds, total, now - max(began, (at - BUCKETS) * self._width))

    def _drop(self, at: int) -> None:
        while self._buckets and self._buckets[0][0] < at - BUCKETS:
            self._buckets.popleft()


def _window(seconds: float, total: OutcomeTally, covered_s: float) -> pb.SloWindow:
    return pb.SloWindow(
        seconds=seconds,
        ended=total.ended,
        failed=total.failed,
        within=total.within,
        covered_seconds=max(covered_s, 0.0),
    )


class SloAttainment:
    """The windows of one source. A request costs the same however many came before; so does the memory.

    The totals of the run outlive the worker: `note` returns the names of the counts that a request adds one to, for
    the spool, and `resume` takes them back. Windows begin anew with the worker, and all does with another SLO.
    """

    def __init__(self) -> None:
        self._limits: dict[str, float] = {}
        self._asked: str | None = None
        self._began = 0.0
        self._kept: Mapping[str, int] = {}
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._run = OutcomeTally(within=dict.fromkeys(self._limits, 0))
        self._run_began = self._began = now
        self._rings = [_Ring(seconds) for seconds in WINDOWS_S]

    def resume(self, kept: Mapping[str, int], began: float) -> None:
        """What requests that ended before this worker began had added, by name; and when the run began."""
        self._kept, self._run_began = kept, began

    def ask(self, latency_s: Mapping[str, float], now: float) -> None:
        """The latency SLO from now on, in seconds by percentile."""
        asked = " ".join(f"{p}<={limit:g}" for p, limit in sorted(latency_s.items()))
        if asked == self._asked:
            return
        is_first, run_began = self._asked is None, self._run_began
        self._limits, self._asked = dict(latency_s), asked
        self._begin(now)
        if is_first and self._kept.get(f"{asked}/ended"):
            self._run_began = run_began
            self._run.ended = self._kept[f"{asked}/ended"]
            self._run.failed = self._kept.get(f"{asked}/failed", 0)
            self._run.within = {p: self._kept.get(f"{asked}/{p}", 0) for p in latency_s}

    def note(self, ended: RequestOutcome, latency_s: float, now: float) -> tuple[str, ...]:
        """A request has ended `latency_s` after it was due: what it adds to the totals of the run."""
        is_error = ended is RequestOutcome.ERROR
        met = tuple(p for p, limit in self._limits.items() if not is_error and latency_s <= limit)
        self._run.add(ended, met)
        for ring in self._rings:
            ring.bucket(now).add(ended, met)
        names = ("ended", *(("failed",) if is_error else ()), *met)
        return tuple(f"{self._asked or ''}/{name}" for name in names)

    def windows(self, now: float) -> Iterator[pb.SloWindow]:
        """All windows, the shortest first, and the run (`seconds` 0) last."""
        for ring in self._rings:
            yield ring.window(self._began, now, self._limits)
        yield _window(0.0, self._run, now - self._run_began)


class LaneCounts:
    """Requests that ended without an error, by lane of the current generation.

    A lane says which variants were planned to serve a request. Where a backup served a stage of it, the variant may
    have been another; that is not told apart.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.by_lane: dict[int, int] = {}

    def begin(self, generation: int) -> None:
        """Count for this generation from now on."""
        if generation != self.generation:
            self.generation, self.by_lane = generation, {}

    def note(self, generation: int, lane: int) -> None:
        """A request has ended on a lane of a generation; the lanes of an older one are others."""
        if generation == self.generation:
            self.by_lane[lane] = self.by_lane.get(lane, 0) + 1
