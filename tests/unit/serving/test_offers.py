"""Requests that are offered from outside, until they are accepted or refused."""

from __future__ import annotations

import re
from math import inf

import pytest

from agent.serving.endpoints.feeds import FeedRequest, OfferedFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.sinks import result_of
from agent.serving.endpoints.source import SourceState
from agent.serving.instructions import Record
from tiermesh import limits
from tiermesh.frames import EMPTY, Frame, Kind, Packed, pack


def ask(number: int, at: float, payload: Packed = EMPTY) -> FeedRequest:
    return FeedRequest(at, f"ask {number}", payload, number)


def a_source(feed: OfferedFeed, now: float = 0.0) -> SourceState:
    ledger = RequestLedger(["x"], 60.0)
    return SourceState("k", "s", "s@a", workflow="w", run="r", feed=feed, ledger=ledger, now=now)


def accepted(source: SourceState, now: float) -> list[tuple[str, int | None]]:
    records = [i for i in source.accept(now) if isinstance(i, Record)]
    return [(r.item, r.offer) for record in records for r in record.requests]


def test_offers_are_accepted_in_order_with_what_they_carry() -> None:
    source = a_source(OfferedFeed(10.0))
    assert source.next_at() == inf
    assert source.offer(ask(1, 5.0, pack({"n": 1}))) is None
    assert source.offer(ask(2, 5.5)) is None
    assert source.next_at() == 5.0
    assert accepted(source, 6.0) == [("ask 1", 1), ("ask 2", 2)]
    first, second = source.ledger.requests.values()
    assert (first.offered_at, second.offered_at) == (5.0, 5.5), "latency counts from the offer on"
    assert (first.payload, first.is_kept) == (pack({"n": 1}), True)
    source.ledger.recorded(first.id, 6.1)
    assert first.payload is None, "it is on disk, and memory has room again"
    assert not source.is_finished


def test_where_as_many_wait_as_may_an_offer_is_refused() -> None:
    source = a_source(OfferedFeed(10.0))
    for number in range(limits.SOURCE_OFFERED_REQUESTS):
        assert source.offer(ask(number, 0.0)) is None
    assert source.offer(ask(999, 0.0)) == f"{limits.SOURCE_OFFERED_REQUESTS} requests are queued"
    assert source.waiting(0.0) == limits.SOURCE_OFFERED_REQUESTS
    taken = accepted(source, 0.0)
    assert source.waiting(0.0) == limits.SOURCE_OFFERED_REQUESTS - len(taken)
    assert source.offer(ask(999, 0.0)) is None


def test_the_bytes_that_wait_have_a_limit_but_for_one_that_is_alone() -> None:
    feed = OfferedFeed(10.0)
    big = pack({"b": b"x" * (limits.SOURCE_OFFERED_BYTES // 8)})
    assert sum(feed.offer(ask(i, 0.0, big)) for i in range(20)) == 7
    while feed.waiting(0, 0.0):
        feed.take(0)
    assert feed.offer(ask(1, 0.0, big))


def test_a_plan_that_carries_less_slows_offers_and_says_so() -> None:
    source = a_source(OfferedFeed(100.0, admit_rps=2.0))
    for number in range(100):
        source.offer(ask(number, 0.0))
    count, told = 0, []
    for step in range(500):
        count += len(accepted(source, step / 100))
        told += [text for text in [source.throttled(step / 100)] if text is not None]
    assert count == pytest.approx(2.0 * 5, abs=4)
    assert len(told) == 1
    assert re.match(r"back-pressure: 9\d queued; .*, and the plan carries 2$", told[0])


def test_a_source_that_is_retired_refuses_what_waits_and_what_comes() -> None:
    source = a_source(OfferedFeed(10.0))
    source.offer(ask(1, 0.0))
    assert source.refuse() == ()
    source.retire()
    assert source.refuse() == (1,)
    assert source.refuse() == ()
    assert source.offer(ask(2, 0.0)) == "it has been stopped"
    assert source.is_finished


def test_what_waits_goes_over_to_the_next_generation() -> None:
    source = a_source(OfferedFeed(10.0))
    source.offer(ask(1, 0.0))
    source.adopt("s@b", OfferedFeed(20.0), 1.0)
    assert source.planned_rps == 20.0
    assert accepted(source, 1.0) == [("ask 1", 1)]


def test_what_a_confirmation_does_not_say_is_no_result() -> None:
    assert result_of(Frame(Kind.CONFIRM, 1, 0, "0" * 32, 1, "out", "")) is None
    damaged = Frame(Kind.CONFIRM, 1, 0, "0" * 32, 1, "out", "", payload=Packed(b"\xc1"))
    assert result_of(damaged) is None
    said = Frame(Kind.CONFIRM, 1, 0, "0" * 32, 1, "out", "", payload=pack({"result": {"a": 1}}))
    assert result_of(said) == ({"a": 1}, "")
