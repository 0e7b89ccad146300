"""What is offered to a source from outside, and who is told what becomes of it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from agent.serving.driver import FlowDriver
from agent.serving.endpoint_io.kinds import RequestEnd
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.feeds import FeedRequest
from agent.serving.endpoints.request import Request
from agent.serving.flow import Flow
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.frames import Packed, Payload, pack

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Offer:
    """A request whose asker is told what becomes of it."""

    accepted: Future[str]
    ended: Callable[[RequestEnd], None] | None


class SourceIntake:
    """Offers of one source, by number, until they have ended. Methods may be called from any thread."""

    def __init__(self, driver: FlowDriver, flow: Flow, key: str) -> None:
        self._driver = driver
        self._flow = flow
        self._key = key
        self._numbers = itertools.count()
        self._offers: dict[int, _Offer] = {}
        self._lock = threading.RLock()
        self._closed = False

    def offer(
        self,
        payload: Payload,
        *,
        name: str = "",
        ended: Callable[[RequestEnd], None] | None = None,
    ) -> Future[str]:
        """See `kinds.Intake`."""
        offer = _Offer(Future(), ended)
        # A lone surrogate, such as of a file name of other bytes, fits into no frame and no database.
        name = name.encode("utf-8", "backslashreplace").decode()
        # It cannot be cancelled: a caller that stops waiting for the id still has a request in the system.
        offer.accepted.set_running_or_notify_cancel()
        try:
            packed = pack(payload)
            number = self._add(offer)
        except TiermeshError as error:
            offer.accepted.set_exception(error)
            return offer.accepted
        self._driver.event(self._flow, lambda f, now: self._hand_in(f, name, packed, number, now))
        return offer.accepted

    def _add(self, offer: _Offer) -> int:
        with self._lock:
            if self._closed:
                raise TiermeshError(
                    f"{self._key} takes no more requests", why="it has been stopped"
                )
            number = next(self._numbers)
            self._offers[number] = offer
            return number

    def _hand_in(self, flow: Flow, name: str, packed: Packed, number: int, now: float) -> None:
        flow.sources.offered(self._key, FeedRequest(now, name, packed, number))

    def accepted(self, requests: Iterable[Request]) -> None:
        """Requests are on disk."""
        for request in requests:
            offer = self._offers.get(request.offer) if request.offer is not None else None
            if offer is not None:
                self._tell(offer, request.id)

    def refused(self, numbers: Iterable[int], why: str) -> None:
        """Requests are not accepted."""
        for number in numbers:
            offer = self._take(number)
            if offer is not None:
                what = f"{self._key} takes no more requests now"
                self._tell(offer, LimitExceeded(what, why=why, fix="Offer it later"))

    def _tell(self, offer: _Offer, said: str | TiermeshError) -> None:
        with self._lock:
            if offer.accepted.done():
                return
            if isinstance(said, str):
                offer.accepted.set_result(said)
            else:
                offer.accepted.set_exception(said)

    def ended(self, request: Request) -> None:
        """A request has ended at every sink."""
        offer = self._take(request.offer) if request.offer is not None else None
        if offer is None or offer.ended is None:
            return
        outcome = request.ended or RequestOutcome.RESULT
        try:
            offer.ended(RequestEnd(request.id, outcome, dict(request.results)))
        except Exception:
            # What a front door does with an answer must not end the thread that all spools share.
            log.exception("%s: cannot answer the client of request %s", self._key, request.id)

    def close(self) -> None:
        """Nobody waits any more: requests that are accepted go on, and those that are not have failed."""
        with self._lock:
            self._closed = True
        self.refused(list(self._offers), "it has been stopped")

    def _take(self, number: int) -> _Offer | None:
        with self._lock:
            return self._offers.pop(number, None)
