"""Where a source's next request comes from, as state machines: made in time from items, or offered from outside.

A source accepts what its feed has when there is room for it; until then what is due waits in the feed. That is
back-pressure: items wait where they are, and offers wait in a queue with a limit, beyond which they are refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import NamedTuple, Protocol

from agent.serving.endpoints.arrivals import ArrivalSchedule
from tiermesh import limits
from tiermesh.frames import Packed


class FeedRequest(NamedTuple):
    """A request that may be accepted. Unix seconds."""

    due_at: float
    """When it was due or, from outside, offered."""
    item: str
    """What the kind of the source reads its payload by; from outside, what people call it, which may be empty."""
    payload: Packed | None = None
    """None: it is read by `item`."""
    offer: int | None = None
    """The number under which the client that offered it learns its outcome."""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return self.payload.size if self.payload is not None else 0


class RequestFeed(Protocol):
    """The requests of one replica of a source, in order; `accepted` is how many it has accepted."""

    @property
    def rate_rps(self) -> float:
        """Requests a second that are made, or expected, here."""
        ...

    @property
    def admit_rps(self) -> float | None:
        """How many a second may be accepted here; None: as they come."""
        ...

    @property
    def next_at(self) -> float:
        """When the next request is, or was, due; infinity: none is to be seen."""
        ...

    def begin(self, former: RequestFeed | None, accepted: int, now: float) -> None:
        """Go on from here, after the feed of the generation before, if there was one."""
        ...

    def is_over(self, accepted: int) -> bool:
        """Whether there will be no more."""
        ...

    def waiting(self, accepted: int, now: float) -> int:
        """How many requests are due; about, if they are uneven."""
        ...

    def take(self, accepted: int) -> FeedRequest:
        """The next request, which is due; the one after it is the next from now on."""
        ...

    def refuse(self) -> tuple[int, ...]:
        """Give up what was offered and is not accepted: the numbers of the offers."""
        ...


class PacedFeed:
    """Makes a request from one item after another, when it is due, and begins again where items end.

    `items` are what the kind of the source reads payloads by, in order.
    """

    def __init__(self, arrivals: ArrivalSchedule, items: Sequence[str]) -> None:
        self._arrivals = arrivals
        self._items = items
        self._next_at = inf

    @property
    def rate_rps(self) -> float:
        """Requests a second that are made here, on average."""
        return 1 / self._arrivals.mean_gap

    @property
    def admit_rps(self) -> float | None:
        """How many a second may be accepted here; None: as they come."""
        return self._arrivals.admit_rps

    @property
    def next_at(self) -> float:
        """When the next request is, or was, due."""
        return self._next_at

    def begin(self, former: RequestFeed | None, accepted: int, now: float) -> None:
        """Go on with the request that would come next; it comes no later than it would have."""
        gap = 0.0 if self.is_over(accepted) else self._arrivals.gap(accepted)
        before = former.next_at if isinstance(former, PacedFeed) else inf
        self._next_at = min(before, now + gap)

    def is_over(self, accepted: int) -> bool:
        """Whether all requests are accepted."""
        return self._arrivals.count is not None and accepted >= self._arrivals.count

    def waiting(self, accepted: int, now: float) -> int:
        """How many requests are due; about, if they are uneven."""
        due = max(int((now - self._next_at) / self._arrivals.mean_gap), 0)
        count = self._arrivals.count
        return due if count is None else min(due, count - accepted)

    def take(self, accepted: int) -> FeedRequest:
        """The next request; the one after it is due a gap later."""
        taken = FeedRequest(self._next_at, self._items[accepted % len(self._items)])
        if not self.is_over(accepted + 1):
            self._next_at += self._arrivals.gap(accepted + 1)
        return taken

    def refuse(self) -> tuple[int, ...]:
        """Nothing is offered here."""
        return ()


class OfferQueue:
    """Requests that are offered and not accepted: so many, and so many bytes, at most."""

    def __init__(self) -> None:
        self._requests: deque[FeedRequest] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def offered_at(self) -> float:
        """When the oldest was offered; infinity: there is none."""
        return self._requests[0].due_at if self._requests else inf

    def put(self, request: FeedRequest) -> bool:
        """Queue a request; False: there is no room for it. One that is alone always has room."""
        is_full = len(self._requests) >= limits.SOURCE_OFFERED_REQUESTS
        if is_full or (self._requests and self._bytes + request.size > limits.SOURCE_OFFERED_BYTES):
            return False
        self._requests.append(request)
        self._bytes += request.size
        return True

    def take(self) -> FeedRequest:
        """The oldest."""
        taken = self._requests.popleft()
        self._bytes -= taken.size
        return taken

    def clear(self) -> tuple[int, ...]:
        """Give all up: the numbers of the offers."""
        offers = tuple(one.offer for one in self._requests if one.offer is not None)
        self._requests.clear()
        self._bytes = 0
        return offers


class OfferedFeed:
    """Requests that are offered from outside, first come, first served. `rate_rps` is what is expected to come."""

    def __init__(self, rate_rps: float, admit_rps: float | None = None) -> None:
        self._rate_rps = rate_rps
        self._admit_rps = admit_rps
        self.queue = OfferQueue()

    @property
    def rate_rps(self) -> float:
        """Requests a second that are expected here."""
        return self._rate_rps

    @property
    def admit_rps(self) -> float | None:
        """How many a second may be accepted here; None: as they come."""
        return self._admit_rps

    @property
    def next_at(self) -> float:
        """When the oldest that waits was offered; infinity: none does."""
        return self.queue.offered_at

    def begin(self, former: RequestFeed | None, accepted: int, now: float) -> None:
        """Go on with what was offered to the feed before."""
        if isinstance(former, OfferedFeed):
            self.queue = former.queue

    def offer(self, request: FeedRequest) -> bool:
        """Queue a request; False: as many wait as may."""
        return self.queue.put(request)

    def is_over(self, accepted: int) -> bool:
        """There may always be more."""
        return False

    def waiting(self, accepted: int, now: float) -> int:
        """How many requests are offered and not accepted."""
        return len(self.queue)

    def take(self, accepted: int) -> FeedRequest:
        """The oldest request that waits."""
        return self.queue.take()

    def refuse(self) -> tuple[int, ...]:
        """Empty the queue: the numbers of the offers."""
        return self.queue.clear()
