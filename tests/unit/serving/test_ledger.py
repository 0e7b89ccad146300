"""The source's promise: what it accepted stays its own until every sink has confirmed it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.feeds import PacedFeed
from agent.serving.endpoints.ledger import (
    ASK_AGAIN_S,
    ASK_SHARE,
    GRACE_S,
    HELD_S,
    LOST_S,
    RETRY_FIRST_S,
    UNHEARD_SHARE,
    WITHHELD_S,
    RequestLedger,
)
from agent.serving.endpoints.pacing import InFlightWindow
from agent.serving.endpoints.request import FormerSink, Request, SourceCounts
from agent.serving.endpoints.retries import STALLED_LEAST_S
from agent.serving.endpoints.source import SourceState
from agent.serving.instructions import Record
from tiermesh import limits
from tiermesh.documents.assignment import SourceSpec
from tiermesh.errors import InvalidDocument


def accepted(ledger: RequestLedger, index: int = 0, now: float = 0.0) -> Request:
    request = ledger.accept(index, f"{index:032x}", f"{index}.jpg", now)
    ledger.recorded(request.id, now)
    return request


def injected(ledger: RequestLedger, devices: str = "ab", now: float = 0.0) -> list[Request]:
    due = ledger.due(now).inject
    for request in due:
        ledger.injected(request, frozenset(devices), now)
    return due


def test_a_request_ends_when_every_sink_has_confirmed_it() -> None:
    ledger = RequestLedger(["x", "y"], 60.0)
    request = accepted(ledger)
    assert injected(ledger) == [request]
    assert ledger.confirmed(request.id, "x", 1.0) is None
    assert ledger.confirmed(request.id, "x", 1.0) is None
    assert ledger.confirmed(request.id, "y", 2.0) is request
    assert ledger.confirmed(request.id, "y", 2.0) is None
    assert ledger.counts == SourceCounts(accepted=1, confirmed=1, retried=0)
    assert ledger.latency.histogram(2.0).percentile_s(0.5) == pytest.approx(2.0, rel=0.011)


def test_nothing_is_injected_before_it_is_on_disk() -> None:
    ledger = RequestLedger(["x"], 60.0)
    request = ledger.accept(0, "0" * 32, "f", 0.0)
    assert ledger.due(5.0).inject == []
    ledger.recorded(request.id, 6.0)
    assert ledger.due(6.0).inject == [request]
    assert ledger.due(6.0).inject == [], "it is being read already"


def test_what_a_device_could_not_take_on_is_due_again_ever_later() -> None:
    ledger = RequestLedger(["x"], 60.0)
    request = accepted(ledger)
    waits = []
    now = 0.0
    for attempt in range(1, 12):
        injected(ledger, now=now)
        assert request.attempt == attempt
        ledger.lost(request.id, attempt, "b", "b is gone", now)
        waits.append(request.due - now)
        now = request.due
    assert waits == sorted(waits)
    assert waits[0] < 0.2
    assert waits[-1] == 5.0
    assert ledger.counts.retried == 10


def test_a_loss_of_an_earlier_attempt_changes_nothing() -> None:
    ledger = RequestLedger(["x"], 60.0)
    request = accepted(ledger)
    injected(ledger)
    ledger.lost(request.id, 1, "b", "", 0.0)
    injected(ledger, now=1.0)
    before = request.due
    ledger.lost(request.id, 1, "b", "", 1.0)
    assert request.due == before


def test_while_no_lane_has_a_way_one_request_tries_and_the_others_are_held() -> None:
    ledger = RequestLedger(["x"], 60.0)
    first, *others = [accepted(ledger, i) for i in range(4)]
    ledger.lost(first.id, 0, "b", "b cannot be reached", 0.0)
    assert ledger.due(0.0, blocked=True).inject == [first]
    ledger.injected(first, frozenset("b"), 0.0)
    assert ledger.next_due == HELD_S
    assert ledger.due(HELD_S, blocked=True).inject == []
    ledger.lost(first.id, 1, "b", "b cannot be reached", 1.0)
    again = ledger.due(1.0 + RETRY_FIRST_S, blocked=True).inject
    assert again == [first], "it tries again soon, however often it has"
    assert [request.attempt for request in others] == [0, 0, 0]


def test_the_request_that_tries_tells_by_its_confirmation_that_there_is_a_way() -> None:
    ledger = RequestLedger(["x"], 60.0)
    first, second = accepted(ledger, 0), accepted(ledger, 1)
    ledger.device_lost("b", 4, gone=True, now=0.0)
    assert ledger.due(0.0, blocked=True).inject == [first]
    ledger.injected(first, frozenset("b"), 0.0)
    ledger.confirmed(first.id, "x", 0.5, attempt=1)
    assert ledger.lost_devices(0.5) == frozenset()
    assert ledger.due(0.5).inject == [second]


def test_what_an_earlier_attempt_brings_tells_nothing_of_the_way() -> None:
    ledger = RequestLedger(["x"], 60.0)
    first = accepted(ledger, 0)
    injected(ledger, "b")
    ledger.device_lost("b", 4, gone=True, now=0.0)
    assert ledger.due(0.0, blocked=True).inject == [first]
    ledger.injected(first, frozenset("b"), 0.0)
    ledger.confirmed(first.id, "x", 0.5, attempt=1)
    assert ledger.lost_devices(0.5) == {"b"}


def test_what_is_held_ends_at_its_deadline_and_says_why() -> None:
    ledger = RequestLedger(["x"], 1.0)
    _, held = accepted(ledger, 0), accepted(ledger, 1)
    ledger.due(0.0, blocked=True)
    assert held in ledger.due(1.0, blocked=True).fail
    assert "lost" in held.why


def test_a_device_that_somebody_has_reached_again_is_lost_no_longer() -> None:
    ledger = RequestLedger(["x"], 60.0)
    ledger.device_lost("b", 4, gone=True, now=1.0)
    ledger.device_lost("b", 4, gone=False, now=1.5)
    assert ledger.lost_devices(1.5) == frozenset()


def test_a_lost_device_makes_its_requests_due_once_per_loss() -> None:
    ledger = RequestLedger(["x"], 60.0)
    accepted(ledger, 0)
    injected(ledger, "ab")
    accepted(ledger, 1)
    injected(ledger, "ac")
    assert ledger.device_lost("b", 4, gone=True, now=1.0) == 1
    assert ledger.device_lost("b", 4, gone=True, now=1.1) == 0, "another sender tells the same"
    assert ledger.lost_devices(1.2) == {"b"}
    assert ledger.lost_devices(1.2 + LOST_S) == frozenset()
    assert len(injected(ledger, "ac", now=1.2)) == 1
    assert ledger.device_lost("b", 5, gone=False, now=9.0) == 0, "nothing is there any more"


def test_a_late_request_fails_after_a_grace_until_the_sinks_confirm_that() -> None:
    ledger = RequestLedger(["x"], 10.0)
    request = accepted(ledger)
    injected(ledger)
    ledger.lost(request.id, 1, "b", "b is gone", 9.99)
    assert ledger.due(10.1) == ledger.due(10.2), "neither injected nor failed"
    assert ledger.due(10.0 + GRACE_S).fail == [request]
    ledger.failed(request, 10.5)
    again = request.due
    assert 10.5 < again < inf
    assert ledger.due(again).fail == [request]
    ledger.failed(request, again)
    assert ledger.confirmed(request.id, "x", again) is request


def test_after_a_restart_everything_in_flight_is_due_at_once() -> None:
    ledger = RequestLedger(["x"], 60.0)
    kept = Request(3, "3" * 32, "f", 100.0, 160.0, set(), attempt=1)
    ledger.restore([kept], SourceCounts(accepted=8, confirmed=7), 110.0)
    assert ledger.due(110.0).inject == [kept]
    assert kept.attempt == 2
    assert kept.unconfirmed == {"x"}


def test_a_clock_that_was_set_back_over_a_reboot_gives_no_request_longer_than_it_had() -> None:
    ledger = RequestLedger(["x"], 60.0)
    kept = Request(3, "3" * 32, "f", 4_100.0, 4_160.0, set(), attempt=1)
    ledger.restore([kept], SourceCounts(accepted=8, confirmed=7), 500.0)
    assert (kept.accepted_at, kept.deadline) == (500.0, 560.0)


def test_a_request_waits_for_the_device_where_its_sink_was() -> None:
    ledger = RequestLedger(["x", "y"], 60.0)
    ledger.sinks_at({"x": "a", "y": "c"})
    request = accepted(ledger)
    injected(ledger)
    ledger.confirmed(request.id, "y", 1.0)
    assert ledger.done(request) == ("y",)
    ledger.sinks_at({"x": "b", "y": "d"})
    assert ledger.unclear(request) == [FormerSink("x", "a", 1)], "y has confirmed it"
    ledger.lost(request.id, 1, "", "moved", 2.0)
    due = ledger.due(2.2)
    assert (due.ask, due.inject) == ([request], [])
    assert ledger.due(2.2 + ASK_AGAIN_S).ask == [request], "it is asked again"
    ledger.cleared(request.id, "x", "a", 3.0)
    assert ledger.due(3.0).inject == [request]
    later = accepted(ledger, 1, now=3.0)
    assert ledger.unclear(later) == []
    ledger.confirmed(request.id, "x", 4.0)
    ledger.sinks_at({"x": "b", "y": "d"})
    assert ledger.formers == [], "all that was in flight has ended"


def moved(*, lost: tuple[str, ...] = ()) -> tuple[RequestLedger, Request]:
    """A request that is on its way to a sink on a while that moves to b."""
    ledger = RequestLedger(["x"], 20.0)
    ledger.sinks_at({"x": "a"})
    request = accepted(ledger)
    injected(ledger)
    ledger.sinks_at({"x": "b"}, lost=lost)
    return ledger, request


def test_where_nobody_answers_for_a_while_a_request_goes_to_the_new_device() -> None:
    ledger, request = moved()
    ledger.lost(request.id, 1, "", "moved", 1.0)
    assert ledger.due(2.0).ask == [request]
    patience = ASK_SHARE * 20.0
    assert ledger.due(1.9 + patience).ask == [request]
    assert ledger.due(2.2 + patience).inject == [request]
    assert ledger.unclear(request) == []


def test_where_nobody_answers_a_request_that_is_late_ends_in_an_error() -> None:
    ledger, request = moved()
    ledger.due(20.0)
    assert ledger.due(20.0 + GRACE_S).ask == [request]
    assert ledger.due(20.6 + GRACE_S + ASK_SHARE * 20.0).fail == [request]


def test_a_device_that_is_given_up_is_not_asked() -> None:
    ledger, request = moved(lost=("a",))
    assert ledger.unclear(request) == []
    assert ledger.due(0.0).inject == [request]


def test_what_may_have_ended_twice_is_told_until_nothing_of_it_can_be_on_its_way() -> None:
    ledger, request = moved(lost=("a",))
    assert ledger.confirmed(request.id, "x", 1.0, by="b") is request
    (duplicate,) = request.duplicates
    assert (duplicate.sink, duplicate.device, duplicate.until) == ("x", "a", 20.0 + GRACE_S)
    assert list(ledger.duplicates.values()) == [duplicate]
    assert ledger.dropped(request.id, "x", "a", 2.0) is None
    assert ledger.dropped(request.id, "x", "a", 21.0) == duplicate
    assert ledger.duplicates == {}


def test_a_former_device_that_confirms_after_all_counts_and_the_new_one_does_not() -> None:
    ledger, request = moved(lost=("a",))
    ledger.confirmed(request.id, "x", 1.0, by="a")
    assert [duplicate.device for duplicate in request.duplicates] == ["b"]


def test_what_a_former_device_has_cleared_leaves_nothing_to_settle() -> None:
    ledger, request = moved()
    ledger.cleared(request.id, "x", "a", 1.0)
    ledger.confirmed(request.id, "x", 2.0, by="b")
    assert ledger.duplicates == {}


@given(st.lists(st.tuples(st.sampled_from("aicrld"), st.integers(0, 5)), max_size=60))
def test_the_ledger_balances_whatever_happens(events: list[tuple[str, int]]) -> None:
    ledger = RequestLedger(["x"], 20.0)
    now = 0.0
    for what, index in events:
        now += 0.3
        request = f"{index:032x}"
        match what:
            case "a" if request not in ledger.requests:
                accepted(ledger, index, now)
            case "i":
                injected(ledger, now=now)
            case "c":
                ledger.confirmed(request, "x", now)
            case "l":
                ledger.lost(request, index, "b", "", now)
            case "d":
                ledger.device_lost("b", index, gone=index % 2 == 0, now=now)
            case _:
                for late in ledger.due(now).fail:
                    ledger.failed(late, now)
        assert ledger.counts.accepted == ledger.counts.confirmed + ledger.in_flight


def test_the_window_follows_what_the_mesh_can_do() -> None:
    pace = InFlightWindow(deadline_s=40.0)
    first = pace.limit
    for _ in range(5_000):
        pace.confirmed(1.0, 20)
    assert pace.limit == limits.SOURCE_INFLIGHT_REQUESTS
    pace.confirmed(11.0, 200)
    assert pace.limit == 200, "more than are in flight were never tried"
    for _ in range(5_000):
        pace.confirmed(11.0, 200)
    assert 1 <= pace.limit < first


def test_a_request_that_is_only_slow_is_not_repeated_before_half_its_deadline_and_then_once() -> (
    None
):
    ledger = RequestLedger(["x"], 60.0)
    for index in range(300):
        quick = accepted(ledger, index, now=index / 100)
        injected(ledger, now=index / 100)
        ledger.confirmed(quick.id, "x", index / 100 + 0.05)
    slow = accepted(ledger, 300, now=3.0)
    injected(ledger, now=3.0)
    late = 3.0 + UNHEARD_SHARE * 60.0
    assert ledger.due(late - 0.1).inject == []
    assert injected(ledger, now=late) == [slow]
    assert ledger.next_due == slow.deadline + GRACE_S, "it is not repeated again"


def test_where_all_are_slow_the_budget_bounds_how_many_are_repeated() -> None:
    ledger = RequestLedger(["x"], 60.0)
    for index in range(1_000):
        accepted(ledger, index)
    injected(ledger)
    now = UNHEARD_SHARE * 60.0
    again = 0
    while now < 60.0:
        again += len(injected(ledger, now=now))
        now += WITHHELD_S
    assert 0 < again <= 0.01 * 1_000 + 5
    assert ledger.counts.retried == again
    assert ledger.retries.withheld >= 1_000 - again


def test_what_is_known_to_be_lost_needs_no_budget() -> None:
    ledger = RequestLedger(["x"], 60.0)
    for index in range(1_000):
        accepted(ledger, index)
    injected(ledger, "b")
    assert ledger.device_lost("b", 5, gone=False, now=1.0) == 1_000
    assert len(injected(ledger, "c", now=1.0)) == 1_000


def test_a_device_that_falls_silent_over_and_over_does_not_multiply_the_work() -> None:
    ledger = RequestLedger(["x"], 60.0)
    for index in range(100):
        accepted(ledger, index)
    injected(ledger, "b")
    again, now = 0, 0.0
    for _ in range(12):
        now += LOST_S + 1.0
        ledger.device_lost("b", 5, gone=True, now=now)
        again += len(injected(ledger, "b", now=now))
    assert 100 <= again <= 350
    assert ledger.retries.withheld > 0
    ledger.device_lost("b", 5, gone=False, now=now)
    waiting = sum(request.withheld for request in ledger.requests.values())
    assert len(injected(ledger, "c", now=now)) == waiting, "that device has been started again"


def test_what_waits_for_the_oldest_at_an_aggregate_is_not_repeated() -> None:
    ledger = RequestLedger(["x"], 60.0)
    ledger.in_order = True
    oldest, *others = [accepted(ledger, i) for i in range(20)]
    injected(ledger)
    now = STALLED_LEAST_S
    assert injected(ledger, now=now) == [oldest], "nothing moves"
    again = [r for step in range(4, 40) for r in injected(ledger, now=now + step / 2)]
    assert again == [oldest, oldest], "ever more seldom"
    for index, one in enumerate([oldest, *others]):
        # Slow, but in motion: all are older than that by far.
        now = 30.0 + index
        ledger.confirmed(one.id, "x", now)
        assert injected(ledger, now=now + WITHHELD_S) == []


def a_source(spec: SourceSpec, files: int = 3, ledger: RequestLedger | None = None) -> SourceState:
    return SourceState(
        "k", "s", "s@a", workflow="w", run="r",
        feed=PacedFeed(ArrivalSchedule(spec, files), [f"{i}.jpg" for i in range(files)]),
        ledger=ledger or RequestLedger(["x"], 60.0), now=0.0,
    )  # fmt: skip


def files_of(source: SourceState, now: float) -> list[str]:
    return [r.item for i in source.accept(now) if isinstance(i, Record) for r in i.requests]


def test_files_are_offered_in_order_at_their_rate_and_end() -> None:
    source = a_source(SourceSpec(path="in", rate_rps=10.0))
    assert files_of(source, 0.0) == ["0.jpg"]
    assert files_of(source, 0.05) == []
    assert files_of(source, 0.25) == ["1.jpg", "2.jpg"]
    assert files_of(source, 99.0) == []
    assert not source.is_finished
    for request in list(source.ledger.requests.values()):
        source.ledger.confirmed(request.id, "x", 100.0)
    assert source.is_finished


def test_a_full_window_delays_acceptance() -> None:
    source = a_source(SourceSpec(path="in", rate_rps=1e6, repeat=True))
    for step in range(100):
        source.accept(1.0 + step / 1e3)
    assert source.ledger.in_flight == source.ledger.window.limit
    assert source.next_at() == inf, "nothing is to be done until one has ended"
    one = next(iter(source.ledger.requests))
    source.ledger.confirmed(one, "x", 2.0)
    assert len(files_of(source, 2.0)) == 2, "the window has grown by one, too"


def test_a_source_accepts_no_more_than_its_plan_carries_and_tells_what_waits() -> None:
    source = a_source(SourceSpec(path="in", rate_rps=10.0, repeat=True, admit_rps=4.0))
    accepted, told = 0, []
    for step in range(1_000):
        accepted += len(files_of(source, step / 100))
        told += [text for text in [source.throttled(step / 100)] if text is not None]
    assert accepted == pytest.approx(4.0 * 10, abs=5)
    assert accepted + source.waiting(10.0) == pytest.approx(10.0 * 10, abs=2)
    assert len(told) == 1
    assert "10 requests a second, and the plan carries 4" in told[0]
    full = ArrivalSchedule(SourceSpec(path="in", rate_rps=10.0, repeat=True), 3)
    source.adopt("s@b", PacedFeed(full, ["0.jpg"]), 10.0)
    for one in list(source.ledger.requests):
        source.ledger.confirmed(one, "x", 10.0)
    while source.waiting(10.0):
        assert files_of(source, 10.0), "what waits is taken in at once"
        for one in list(source.ledger.requests):
            source.ledger.confirmed(one, "x", 10.0)
    assert source.throttled(10.0) == "back-pressure has ended: no request is queued"


def test_a_burst_passes_a_plan_that_carries_its_rate_on_average() -> None:
    spec = SourceSpec(path="in", arrivals="trace", trace="t", repeat=True, admit_rps=4.0)
    burst = [*(1.0 + i / 100 for i in range(4)), 2.0]
    ledger = RequestLedger(["x"], 60.0)
    source = SourceState(
        "k", "s", "s@a", workflow="w", run="r",
        feed=PacedFeed(ArrivalSchedule(spec, 1, trace=burst), ["0.jpg"]), ledger=ledger, now=0.0,
    )  # fmt: skip
    assert len(files_of(source, 1.03)) == 4
    assert source.waiting(1.03) == 0


def test_a_source_goes_on_at_the_index_where_it_stopped() -> None:
    ledger = RequestLedger(["x"], 60.0)
    ledger.restore([], SourceCounts(accepted=4, confirmed=4), 0.0)
    source = a_source(SourceSpec(path="in", rate_rps=10.0, repeat=True), ledger=ledger)
    assert files_of(source, 1e6)[:3] == ["1.jpg", "2.jpg", "0.jpg"]


def test_poisson_arrivals_repeat_by_seed_and_have_their_rate() -> None:
    arrivals = [
        ArrivalSchedule(SourceSpec(path="in", rate_rps=20.0, arrivals="poisson", seed=seed), 1)
        for seed in (1, 1, 2)
    ]
    gaps = [[one.gap(i) for i in range(4_000)] for one in arrivals]
    assert gaps[0] == gaps[1] != gaps[2]
    assert sum(gaps[0]) / 4_000 == pytest.approx(0.05, rel=0.05)
    squares = sum(g * g for g in gaps[0]) / 4_000
    assert squares == pytest.approx(2 * 0.05**2, rel=0.1)


def test_a_trace_is_followed_and_repeated() -> None:
    spec = SourceSpec(path="in", arrivals="trace", trace="t", repeat=True)
    arrivals = ArrivalSchedule(spec, 1, trace=[1.0, 1.5, 4.0])
    assert [arrivals.gap(i) for i in range(5)] == [1.0, 0.5, 2.5, 1.0, 0.5]
    assert (
        ArrivalSchedule(
            SourceSpec(path="in", arrivals="trace", trace="t"), 9, trace=[1.0, 2.0]
        ).count
        == 2
    )
    for wrong in ([], [2.0, 1.0], [-1.0]):
        with pytest.raises(InvalidDocument):
            ArrivalSchedule(spec, 1, trace=wrong)


@given(st.integers(1, 50), st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5))
def test_replicas_of_a_source_share_its_requests(count: int, weights: list[float]) -> None:
    spec = SourceSpec(path="in", rate_rps=10.0, count=count)
    total, done, counts = sum(weights), 0.0, 0
    for weight in weights:
        share = (done / total, (done + weight) / total)
        made = ArrivalSchedule(spec, 100, share).count
        assert made is not None
        counts += made
        done += weight
    assert counts == count
