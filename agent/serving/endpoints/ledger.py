"""The requests that a source has accepted and not yet seen confirmed by every sink: the end-to-end promise.

A request is injected, and injected again with the next attempt number when somebody says that it could not be taken on,
or when a device that may have had it is lost. That it is slow is no reason: it would only make others slow. Losses of
which nobody is left to tell are rare; for them a request that is not confirmed late in its time is repeated once. What
is repeated without proof comes out of a budget. Past its deadline a request ends in an error at the sinks instead; that
is repeated until they confirm it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final

from agent.serving.endpoints.attainment import LaneCounts, RequestOutcome, SloAttainment
from agent.serving.endpoints.pacing import InFlightWindow
from agent.serving.endpoints.request import (
    DueRequests,
    FormerSink,
    PossibleDuplicate,
    Request,
    RetryCause,
    SourceCounts,
)
from agent.serving.endpoints.retries import MOST_DOUBLED, STALLED_LEAST_S, Retries, StallDetector
from agent.serving.tuning.durations import DurationWindow

RETRY_FIRST_S: Final = 0.1
FAIL_AGAIN_S: Final = 2.0
UNHEARD_SHARE: Final = 0.5
"""Losses are told, as a rule. For those of which nobody is left to tell, a request is repeated once after this much of
its deadline: requests that are only slow have made the window shrink by then, and there is time for another attempt."""
OFTEN_SHARE: Final = 0.125
"""Without a budget, and where the parts of a request may miss each other, what is not confirmed is repeated each time
so much of the deadline has passed."""
WITHHELD_S: Final = 0.5
"""When a repetition that the budget had no room for is looked at again."""
GRACE_S: Final = 0.5
"""How long after the deadline the source waits for the error of the stage that noticed: it knows more."""
ASK_AGAIN_S: Final = 0.2
ASK_SHARE: Final = 0.25
"""For how much of its deadline a sink's former device is asked about a request, before that goes to the new one."""
LOST_S: Final = 3.0
"""How long lanes through a device that was lost are avoided before they are tried again."""
HELD_S: Final = 0.1
"""How often requests that no lane can take are looked at."""


class RequestLedger:
    """The accepted requests of one source, by id."""

    def __init__(self, sinks: Iterable[str], deadline_s: float) -> None:
        self._sinks = frozenset(sinks)
        self._deadline_s = deadline_s
        self.requests: dict[str, Request] = {}
        self.counts = SourceCounts()
        self.window = InFlightWindow(deadline_s)
        self.retries = Retries()
        self.progress = StallDetector(deadline_s)
        self.meets_others = False
        """Its requests meet those of another source: parts of one may be on different lanes, and miss each other."""
        self.in_order = False
        """An aggregate takes its requests in order, so that each waits for all before it."""
        self.latency = DurationWindow()
        self.attainment = SloAttainment()
        self.lanes = LaneCounts()
        self._lost: dict[str, float] = {}
        self._trying = ""
        """The request that tries the lanes while none is free of lost devices."""
        self._epochs: dict[str, int] = {}
        self._next_due = inf
        self.sink_devices: dict[str, str] = {}
        self.formers: list[FormerSink] = []
        self.addresses: dict[str, str] = {}
        """Where the devices on which sinks are, or were, take frames."""
        self.duplicates: dict[tuple[str, str, str], PossibleDuplicate] = {}
        self._given_up: frozenset[str] = frozenset()

    def sinks_at(
        self,
        devices: Mapping[str, str],
        *,
        lost: Iterable[str] = (),
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        """Where each sink is from now on; one that was on another device before may know of requests in flight.

        Devices that are `lost` are not asked: what was to end there is due at once.
        """
        self._given_up = frozenset(lost)
        for request in self.requests.values():
            if request.cause is RetryCause.SILENT and request.devices & self._given_up:
                request.cause = RetryCause.LOST
        self.addresses |= {d: a for d, a in (addresses or {}).items() if d in devices.values()}
        for sink, device in self.sink_devices.items():
            if sink in devices and devices[sink] != device:
                self.formers.append(FormerSink(sink, device, self.counts.accepted))
        self.sink_devices = dict(devices)
        self.formers = [f for f in self.formers if f.below > self.settled]
        for request in self.requests.values():
            if not request.reading and not request.failed and self._is_stuck(request):
                request.cause = RetryCause.LOST
                self._put(request, -inf)

    def _is_stuck(self, request: Request) -> bool:
        """Whether a sink of a request that is on its way has moved from a device that is lost."""
        return any(former.device in self._given_up for former in self._unheard(request))

    def done(self, request: Request) -> tuple[str, ...]:
        """The sinks that have confirmed a request while others have not."""
        if len(request.unconfirmed) == len(self._sinks):
            return ()
        return tuple(sorted(self._sinks - request.unconfirmed))

    def unclear(self, request: Request) -> list[FormerSink]:
        """The devices that have not yet said whether a request ended there, and are asked."""
        return [
            former
            for former in self._unheard(request)
            if former.device not in self._given_up
            and (former.sink, former.device) not in request.forsaken
        ]

    def _unheard(self, request: Request) -> list[FormerSink]:
        """The devices where a request may have ended."""
        if not self.formers or not request.attempt:
            return []
        return [
            former
            for former in self.formers
            if request.index < former.below
            and former.sink in request.unconfirmed
            and former.device != self.sink_devices.get(former.sink)
            and (former.sink, former.device) not in request.cleared
        ]

    def _waits(self, request: Request, now: float) -> bool:
        """Whether a request waits for what a sink's former device says."""
        unclear = self.unclear(request)
        if not unclear:
            request.asked_since = inf
            return False
        request.asked_since = min(request.asked_since, now)
        if now < request.asked_since + ASK_SHARE * self._deadline_s:
            return True
        request.forsaken |= {(former.sink, former.device) for former in unclear}
        return False

    def cleared(self, request_id: str, sink: str, device: str, now: float) -> None:
        """A sink's former device says that a request has not ended there, and will not."""
        request = self.requests.get(request_id)
        if request is not None:
            request.cleared.add((sink, device))
            if not request.reading and not self.unclear(request):
                request.cause = RetryCause.LOST
                self._put(request, min(request.due, now))

    @property
    def in_flight(self) -> int:
        """Requests accepted and not confirmed."""
        return len(self.requests)

    @property
    def settled(self) -> int:
        """All requests below this number have ended."""
        # Requests are accepted, and restored, in the order of their numbers.
        oldest = next(iter(self.requests.values()), None)
        return oldest.index if oldest is not None else self.counts.accepted

    @property
    def may_accept(self) -> bool:
        """Whether one more request may be accepted; false is backpressure."""
        return len(self.requests) < self.window.limit

    def restore(self, requests: Iterable[Request], counts: SourceCounts, now: float) -> None:
        """Go on from what the spool kept; all that was in flight is due at once.

        Over a reboot only the wall clock tells the time. Where it was set back, no request gets longer than it had.
        """
        self.counts = counts
        for request in requests:
            request.unconfirmed = set(self._sinks)
            request.accepted_at = min(request.accepted_at, now)
            if request.offered_at is not None:
                request.offered_at = min(request.offered_at, request.accepted_at)
            request.deadline = min(request.deadline, now + self._deadline_s)
            self.requests[request.id] = request
            self._put(request, -inf)

    def accept(
        self, index: int, request_id: str, item: str, now: float, offered_at: float | None = None
    ) -> Request:
        """A request, due since `offered_at`, is accepted; `record` it before it is injected."""
        deadline = now + self._deadline_s
        request = Request(index, request_id, item, now, deadline, set(self._sinks))
        request.offered_at = offered_at
        self.requests[request_id] = request
        self.counts.accepted += 1
        self.retries.accepted(now)
        return request

    def recorded(self, request_id: str, now: float) -> None:
        """The request is on disk: it may be injected."""
        request = self.requests.get(request_id)
        if request is not None:
            request.payload = None
            self._put(request, now)

    def due(self, now: float, *, blocked: bool = False) -> DueRequests:
        """Take what is due; the caller injects or fails it and says so.

        While each lane is `blocked` by a lost device, one request at a time tries, and the others are held: the stages
        above the lost one would work on them in vain, and be busy when there is a way again.
        """
        found = DueRequests()
        if now < self._next_due:
            return found
        if not blocked:
            self._trying = ""
        for request in self.requests.values():
            if request.due > now:
                continue
            end = request.deadline + (GRACE_S if request.attempt else 0.0)
            late = now >= end
            if request.deadline <= now < end and not request.failed:
                request.due = end
                continue
            if not late and not request.failed and not self._may_go(request, now):
                request.due = min(now + WITHHELD_S, end)
                continue
            if self._waits(request, now):
                request.due = now + ASK_AGAIN_S
                found.ask.append(request)
                continue
            if blocked and not late and not request.failed and not self._tries(request):
                request.due = min(now + HELD_S, request.deadline)
                continue
            request.due = inf
            request.reading = True
            request.attempt += 1
            (found.fail if late or request.failed else found.inject).append(request)
        self._next_due = min((r.due for r in self.requests.values()), default=inf)
        return found

    def _may_go(self, request: Request, now: float) -> bool:
        """Whether a request that is due may be injected; what nobody says is lost, only within the budget."""
        if request.cause is RetryCause.LOST:
            return True
        is_guess = request.cause is RetryCause.UNHEARD
        if is_guess and self.in_order and not self._holds_up_all(request, now):
            return False
        cause = RetryCause.SILENT if is_guess and self.meets_others else request.cause
        if not self.retries.may(request, cause, now):
            return False
        if is_guess:
            request.guessed = True
            self.progress.repeated()
        request.cause = RetryCause.LOST
        return True

    def _holds_up_all(self, request: Request, now: float) -> bool:
        """Whether a request is the oldest, and all have come to a halt."""
        return request.index == self.settled and now >= self.progress.halts_at(request)

    def _tries(self, request: Request) -> bool:
        """Whether this is the one that tries lanes that are blocked."""
        if self._trying not in self.requests:
            self._trying = request.id
        request.why = request.why or "each lane leads through a device that is lost"
        return self._trying == request.id

    @property
    def next_due(self) -> float:
        """When `due` should be asked next."""
        return self._next_due

    def injected(self, request: Request, devices: frozenset[str], now: float) -> None:
        """The request has been sent on its way over a lane with these devices."""
        if request.attempt > 1:
            self.counts.retried += 1
        request.reading = False
        request.devices = devices
        request.injected_at = now
        request.cause = RetryCause.UNHEARD
        end = max(request.deadline, now) + GRACE_S
        self._put(request, min(now + self._patience_s(request), end))

    def _patience_s(self, request: Request) -> float:
        """How long nothing is to be heard of a request before that is looked into."""
        if self.in_order:
            return STALLED_LEAST_S
        if self.meets_others or not self.retries.are_bounded:
            return self._deadline_s * OFTEN_SHARE
        return inf if request.guessed else self._deadline_s * UNHEARD_SHARE

    def postponed(self, request: Request, now: float) -> None:
        """The request was not sent: there is something to ask first."""
        request.reading = False
        self._put(request, now)

    def failed(self, request: Request, now: float) -> None:
        """The request's error has been sent to the sinks; it is repeated until they confirm it."""
        request.failed = True
        request.reading = False
        self._put(request, now + min(FAIL_AGAIN_S * 2 ** min(request.attempt, 4), 10.0))

    def confirmed(
        self,
        request_id: str,
        sink: str,
        now: float,
        attempt: int = 0,
        by: str = "",
        *,
        ended: RequestOutcome = RequestOutcome.RESULT,
    ) -> Request | None:
        """A sink, on device `by`, has confirmed an attempt of a request: the request once all sinks have, else None."""
        request = self.requests.get(request_id)
        if request is None:
            return None
        if request_id == self._trying and attempt == request.attempt:
            self._lost.clear()
        if sink in request.unconfirmed:
            self._note_duplicates(request, sink, by)
            request.ended = ended if request.ended is None else request.ended.with_another(ended)
        request.unconfirmed.discard(sink)
        if request.unconfirmed:
            return None
        del self.requests[request_id]
        self.progress.ended(request, now)
        self._count(request, now)
        return request

    def _count(self, request: Request, now: float) -> None:
        ended = request.ended or RequestOutcome.RESULT
        self.counts.end(ended)
        since = request.accepted_at if request.offered_at is None else request.offered_at
        request.counted = self.attainment.note(ended, now - since, now)
        seconds = now - request.accepted_at
        self.latency.add(seconds, now)
        self.window.confirmed(seconds, len(self.requests))

    def _note_duplicates(self, request: Request, sink: str, by: str) -> None:
        """A request has ended at one device of a sink: where else it may have ended, it must not count."""
        devices = {former.device for former in self._unheard(request) if former.sink == sink}
        if devices and sink in self.sink_devices:
            devices.add(self.sink_devices[sink])
        until = request.deadline + GRACE_S
        duplicates = [
            PossibleDuplicate(request.id, sink, device, until) for device in sorted(devices - {by})
        ]
        request.duplicates += duplicates
        self.duplicates |= {(s.request, s.sink, s.device): s for s in duplicates}

    def dropped(
        self, request_id: str, sink: str, device: str, now: float
    ) -> PossibleDuplicate | None:
        """A device says that a request does not count there; the duplicate, once that is for good."""
        duplicate = self.duplicates.get((request_id, sink, device))
        if duplicate is None or now < duplicate.until:
            return None
        return self.duplicates.pop((request_id, sink, device))

    def lost(self, request_id: str, attempt: int, device: str, why: str, now: float) -> None:
        """A device says that it could not take on, or pass on, an attempt of a request."""
        if device:
            self._lost[device] = now
        request = self.requests.get(request_id)
        if request is None or attempt < request.attempt or request.reading:
            return
        request.why = why
        doubled = 0 if request_id == self._trying else min(request.attempt - 1, MOST_DOUBLED)
        wait = min(RETRY_FIRST_S * 2**doubled, self._deadline_s / 12)
        request.cause = RetryCause.LOST
        self._put(request, min(request.due, now + wait))

    def device_lost(self, device: str, epoch: int, *, gone: bool, now: float) -> int:
        """What a device had in its care is gone: how many requests are due again because of it."""
        since = self._lost.get(device, -inf)
        repeated = epoch <= self._epochs.get(device, 0) and (not gone or now - since < LOST_S)
        self._epochs[device] = max(epoch, self._epochs.get(device, 0))
        if gone:
            self._lost[device] = max(since, now) if repeated else now
        else:
            # Whoever tells has it in reach.
            self._lost.pop(device, None)
        there = [r for r in self.requests.values() if device in r.devices and not r.reading]
        if repeated:
            # What waits for room in the budget since the device fell silent is lost indeed.
            there = [r for r in there if r.cause is RetryCause.SILENT and not gone]
        for request in there:
            request.cause = max(request.cause, RetryCause.SILENT if gone else RetryCause.LOST)
            self._put(request, min(request.due, now))
        return len(there) if not repeated else 0

    def lost_devices(self, now: float) -> frozenset[str]:
        """Devices that lanes should avoid."""
        self._lost = {device: at for device, at in self._lost.items() if now - at < LOST_S}
        return frozenset(self._lost)

    def _put(self, request: Request, due: float) -> None:
        request.due = due
        self._next_due = min(self._next_due, due)
