"""How a source's requests ended: windows of bounded memory, totals that outlive the worker, lanes of one generation."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.attainment import (
    BUCKETS,
    WINDOWS_S,
    LaneCounts,
    RequestOutcome,
    SloAttainment,
)
from agent.serving.endpoints.feeds import PacedFeed
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.sinks import Sinks, how_it_ended
from agent.serving.endpoints.source import SourceState
from agent.serving.routing.forwarding import Generations, Post
from tiermesh.documents.assignment import SourceSpec
from tiermesh.frames import Frame, Kind, pack

SLO = {"p50": 1.0, "p95": 3.0}


def asked(slo=SLO, now=100.0):
    attainment = SloAttainment()
    attainment.ask(slo, now)
    return attainment


def of(attainment, now):
    return {window.seconds: window for window in attainment.windows(now)}


def test_a_request_counts_in_every_window_and_only_within_what_it_met():
    attainment = asked()
    attainment.note(RequestOutcome.RESULT, 0.5, 101.0)
    attainment.note(RequestOutcome.FILTERED, 2.0, 101.0)
    attainment.note(RequestOutcome.RESULT, 3.5, 101.0)
    attainment.note(RequestOutcome.ERROR, 0.1, 101.0)
    for window in attainment.windows(102.0):
        assert (window.ended, window.failed) == (4, 1)
        assert window.within == {"p50": 1, "p95": 2}
        assert window.covered_seconds == pytest.approx(2.0)


def test_windows_are_the_shortest_first_and_forget_in_time():
    attainment = asked(now=0.0)
    attainment.note(RequestOutcome.RESULT, 0.5, 0.0)
    assert [w.seconds for w in attainment.windows(1.0)] == [*WINDOWS_S, 0.0]
    later = of(attainment, 11.0)
    assert (later[10.0].ended, later[60.0].ended, later[0.0].ended) == (0, 1, 1)
    assert of(attainment, 1e6)[3_600.0].ended == 0
    assert of(attainment, 1e6)[0.0].ended == 1


@given(st.lists(st.floats(0.0, 400.0), min_size=1, max_size=200), st.floats(0.0, 100.0))
def test_a_window_holds_what_ended_within_it_and_at_most_a_bucket_more(gaps, wait):
    attainment, now, times = asked(now=0.0), 0.0, list[float]()
    for gap in gaps:
        now += gap
        times.append(now)
        attainment.note(RequestOutcome.RESULT, 0.0, now)
    now += wait
    for seconds, window in of(attainment, now).items():
        if seconds:
            least = sum(now - at < seconds for at in times)
            most = sum(now - at <= seconds * (1 + 1 / BUCKETS) + 1e-9 for at in times)
            assert least <= window.ended <= most
            assert window.covered_seconds <= seconds * (1 + 1 / BUCKETS) + 1e-6
    windows = [w for w in attainment.windows(now) if w.seconds]
    assert all(a.ended <= b.ended for a, b in pairwise(windows))


def test_memory_does_not_grow_with_requests():
    attainment = asked(now=0.0)
    for second in range(20_000):
        attainment.note(RequestOutcome.RESULT, 0.0, float(second))
    kept = [len(ring._buckets) for ring in attainment._rings]
    assert max(kept) <= BUCKETS + 1


def test_the_run_goes_on_after_a_restart_and_begins_anew_with_another_slo():
    names: dict[str, int] = {}
    first = asked()
    for latency_s in (0.5, 2.0, 9.0):
        for name in first.note(RequestOutcome.RESULT, latency_s, 101.0):
            names[name] = names.get(name, 0) + 1
    again = SloAttainment()
    again.resume(names, 100.0)
    again.ask(SLO, 160.0)
    again.note(RequestOutcome.RESULT, 0.5, 161.0)
    run, minute = of(again, 170.0)[0.0], of(again, 170.0)[60.0]
    assert (run.ended, run.within, run.covered_seconds) == (4, {"p50": 2, "p95": 3}, 70.0)
    assert (minute.ended, minute.covered_seconds) == (1, 10.0)
    again.ask({"p95": 1.0}, 170.0)
    assert of(again, 170.0)[0.0].ended == 0, "requests were judged by another SLO"
    assert of(again, 171.0)[0.0].within == {"p95": 0}


def test_what_was_asked_before_a_restart_does_not_count_for_another_slo():
    again = SloAttainment()
    again.resume({"p95<=3/ended": 7, "p95<=3/p95": 7}, 10.0)
    again.ask({"p95": 2.0}, 100.0)
    run = of(again, 101.0)[0.0]
    assert (run.ended, run.covered_seconds) == (0, 1.0)


def test_of_several_sinks_the_worst_counts():
    ledger = RequestLedger(["x", "y"], 60.0)
    ledger.attainment.ask(SLO, 0.0)
    for index, ends in enumerate(
        [
            (RequestOutcome.RESULT, RequestOutcome.ERROR),
            (RequestOutcome.FILTERED, RequestOutcome.RESULT),
            (RequestOutcome.FILTERED, RequestOutcome.FILTERED),
        ]
    ):
        request = ledger.accept(index, f"{index:032x}", "f", 0.0)
        for sink, ended in zip("xy", ends, strict=True):
            ledger.confirmed(request.id, sink, 0.5, ended=ended)
    counts = ledger.counts
    assert (counts.results, counts.errors, counts.filtered) == (1, 1, 1)


def test_latency_counts_from_when_a_request_was_due_not_from_when_there_was_room_for_it():
    spec = SourceSpec(path="in", rate_rps=10.0, count=200)
    ledger = RequestLedger(["x"], 60.0)
    ledger.attainment.ask({"p95": 1.0}, 0.0)
    source = SourceState(
        "k", "s", "r", workflow="w", run="r",
        feed=PacedFeed(ArrivalSchedule(spec, 200), ["f"] * 200), ledger=ledger, now=0.0,
    )  # fmt: skip
    source.accept(20.0)
    held_back = list(ledger.requests.values())
    for request in held_back:
        ledger.confirmed(request.id, "x", 20.1)
    run = list(ledger.attainment.windows(21.0))[-1]
    assert run.ended == len(held_back) > 10
    assert run.within == {"p95": 0}
    p95_s = ledger.latency.histogram(20.1).percentile_s(0.95)
    assert p95_s == pytest.approx(0.1, rel=0.011), "accepted to confirmed"


def test_lanes_are_of_the_generation_that_is_current():
    lanes = LaneCounts()
    lanes.begin(3)
    lanes.note(3, 1)
    lanes.note(2, 0)
    lanes.begin(3)
    assert lanes.by_lane == {1: 1}
    lanes.begin(4)
    lanes.note(3, 1)
    assert lanes.by_lane == {}


@pytest.mark.parametrize(
    ("kind", "ended"),
    [
        (Kind.DATA, RequestOutcome.RESULT),
        (Kind.ERROR, RequestOutcome.ERROR),
        (Kind.FILTERED, RequestOutcome.FILTERED),
    ],
)
def test_a_confirmation_says_how_the_request_ended_and_so_does_one_that_is_repeated(kind, ended):
    from agent.serving.endpoints.sink import SinkState
    from agent.serving.instructions import Write

    sent: list[Frame] = []
    post = Post("here", Generations())
    sinks = Sinks(post, Generations())
    sinks.by_stage["out"] = SinkState("run")
    frame = Frame(kind, 2, 1, "0" * 32, 1, "o", "out", ("here",), 5.0, 65.0, pack({"n": 1}))
    sinks.arrive("out", frame, 0.0)
    sinks.written([Write("out", "run", frame)], 0.0)
    late = Frame(Kind.ERROR, 2, 0, "0" * 32, 2, "o", "out", ("here",), 5.0, 65.0, pack({}))
    sinks.arrive("out", late, 1.0)
    while (confirm := post.next_here()) is not None:
        sent.append(confirm)
    assert [(c.kind, how_it_ended(c), c.lane) for c in sent] == [
        (Kind.CONFIRM, ended, 1),
        (Kind.CONFIRM, ended, 0),
    ]


def test_a_confirmation_of_an_older_agent_is_a_result():
    said = Frame(Kind.CONFIRM, 2, 1, "0" * 32, 1, "out", "")
    assert how_it_ended(said) is RequestOutcome.RESULT
    unknown = Frame(Kind.CONFIRM, 2, 1, "0" * 32, 1, "out", "", payload=pack({"ended": "sold"}))
    assert how_it_ended(unknown) is RequestOutcome.RESULT
