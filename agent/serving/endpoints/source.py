"""One replica of a source, as a state machine: what it offers when, and the ledger of what it has accepted."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from agent.serving.endpoints.feeds import FeedRequest, OfferedFeed, RequestFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.pacing import RateLimiter
from agent.serving.endpoints.request import Request
from agent.serving.instructions import Instruction, Read, Record
from agent.serving.steering.steering import Steering
from tiermesh import ids

ACCEPTED_AT_ONCE: Final = 32
THROTTLED_S: Final = 2.0
"""A source whose next request has been due for so long is throttled, and says so."""


@dataclass(frozen=True, slots=True)
class Steered:
    """What moves a source's requests between its lanes in a generation; `lanes` are their numbers, as in `Steering`."""

    generation: int
    lanes: tuple[int, ...]
    steering: Steering | None
    """None: they stay as planned."""

    @property
    def shares(self) -> dict[int, float]:
        """By lane of the plan, its share now of what this source makes; empty where shares stay as planned."""
        if self.steering is None:
            return {}
        return dict(zip(self.lanes, self.steering.shares, strict=True))

    def lane(self, index: int) -> int:
        """The number, in `Steering`, of a lane of the plan."""
        return self.lanes.index(index)


class SourceState:
    """Accepts what its `feed` has, as far as there is room; `run` names the run, and tells its requests apart."""

    def __init__(
        self,
        key: str,
        stage: str,
        replica: str,
        *,
        workflow: str,
        run: str,
        feed: RequestFeed,
        ledger: RequestLedger,
        now: float,
    ) -> None:
        self.key = key
        self.stage = stage
        self.replica = replica
        self.ledger = ledger
        self.retired = False
        self.steered: Steered | None = None
        self._workflow = workflow
        self._run = run
        self._feed = feed
        self._limiter = RateLimiter(feed.admit_rps)
        self._throttled = False
        feed.begin(None, self._accepted, now)

    def adopt(self, replica: str, feed: RequestFeed, now: float) -> None:
        """Go on as a replica of a newer generation of the same run."""
        self.replica = replica
        self.retired = False
        if feed.admit_rps != self._limiter.rate_rps:
            self._limiter = RateLimiter(feed.admit_rps)
        feed.begin(self._feed, self._accepted, now)
        self._feed = feed

    @property
    def _accepted(self) -> int:
        return self.ledger.counts.accepted

    @property
    def shares(self) -> dict[int, float]:
        """By lane of the plan, its share now of what this source makes; empty where shares stay as planned."""
        return self.steered.shares if self.steered is not None else {}

    @property
    def planned_rps(self) -> float:
        """The rate that the plan has found lanes for, in requests a second."""
        made = self._feed.rate_rps
        return min(made, self._limiter.rate_rps or made)

    @property
    def _is_over(self) -> bool:
        return self.retired or self._feed.is_over(self._accepted)

    @property
    def is_finished(self) -> bool:
        """Whether all its requests are accepted and have ended."""
        return self._is_over and not self.ledger.requests

    def retire(self) -> None:
        """Accept no more; what is in flight is brought to its end."""
        self.retired = True

    def next_at(self) -> float:
        """When the next request is due, or something must be done about an accepted one."""
        arrival = max(self._feed.next_at, self._limiter.next_at)
        if self._is_over or not self.ledger.may_accept:
            arrival = inf
        return min(arrival, self.ledger.next_due)

    def waiting(self, now: float) -> int:
        """Requests that are due and not accepted, since there is no room for them below; about, if they are uneven."""
        return 0 if self._is_over else self._feed.waiting(self._accepted, now)

    def throttled(self, now: float) -> str | None:
        """What to tell people where the source has come to be throttled, or is no longer; None: nothing is new."""
        behind_s = 0.0 if self._is_over else now - self._feed.next_at
        made = self._feed.rate_rps
        if not self._throttled and behind_s > THROTTLED_S:
            self._throttled = True
            carried = self._limiter.rate_rps
            why = (
                "the devices take no more" if carried is None else f"the plan carries {carried:.3g}"
            )
            queued = self.waiting(now)
            return (
                f"back-pressure: {queued} queued; it makes {made:.3g} requests a second, and {why}"
            )
        if self._throttled and behind_s <= 1 / made:
            self._throttled = False
            return "back-pressure has ended: no request is queued"
        return None

    def offer(self, request: FeedRequest) -> str | None:
        """Take a request from outside into the queue; why it is refused, or None."""
        if self.retired:
            return "it has been stopped"
        if not isinstance(self._feed, OfferedFeed):
            return "it makes its own requests"
        if not self._feed.offer(request):
            return f"{self._feed.waiting(0, request.due_at)} requests are queued"
        return None

    def refuse(self) -> tuple[int, ...]:
        """Once nothing is accepted any more, give up what was offered until then: the numbers of the offers."""
        return self._feed.refuse() if self.retired else ()

    def accept(self, now: float) -> list[Instruction]:
        """Accept what is due, as far as the window allows."""
        accepted: list[Request] = []
        while (
            not self._is_over
            and max(self._feed.next_at, self._limiter.next_at) <= now
            and self.ledger.may_accept
            and len(accepted) < ACCEPTED_AT_ONCE
        ):
            accepted.append(self._accept_next(now))
            self._limiter.passed(now)
        return [Record(self.key, tuple(accepted))] if accepted else []

    def _accept_next(self, now: float) -> Request:
        index = self._accepted
        taken = self._feed.take(index)
        request = self.ledger.accept(
            index, ids.request_id(self._workflow, self._run, index), taken.item, now, taken.due_at
        )
        request.payload, request.offer = taken.payload, taken.offer
        request.is_kept = taken.payload is not None
        return request

    def due(
        self, now: float, *, blocked: bool = False
    ) -> tuple[list[Instruction], list[str], list[Request]]:
        """What is due of the accepted ones: payloads to read, ids of requests to fail, requests to ask about."""
        due = self.ledger.due(now, blocked=blocked)
        return [Read(self.key, r) for r in due.inject], [r.id for r in due.fail], due.ask
