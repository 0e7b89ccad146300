"""Links: round trips of pings, and breaks of the last hour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sessions.link_quality import (
    FAIR_MS,
    GOOD_MS,
    HOUR_S,
    PINGS,
    Grade,
    LinkQuality,
    Pinging,
)


def measured(seconds: list[float], pinging: Pinging) -> LinkQuality | None:
    """The link after round trips of so many seconds, one after another."""
    now = 0.0
    for trip in seconds:
        number = pinging.ping(now)
        now += trip
        pinging.pong(number, now)
    return pinging.link(now)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=2 * PINGS))
def test_the_median_lies_among_the_last_round_trips(seconds: list[float]) -> None:
    link = measured(seconds, Pinging())
    last = [1_000 * s for s in seconds[-PINGS:]]
    assert link is not None
    assert link.pings == len(last)
    assert link.least_ms == pytest.approx(min(last), abs=1e-6)
    assert min(last) - 1e-6 <= link.rtt_ms <= max(last) + 1e-6


def test_only_the_answer_to_the_newest_ping_counts() -> None:
    pinging = Pinging()
    late = pinging.ping(0.0)
    newest = pinging.ping(10.0)
    pinging.pong(late, 10.5)
    assert pinging.link(10.5) is None
    pinging.pong(newest, 10.002)
    pinging.pong(newest, 17.0)
    link = pinging.link(20.0)
    assert link is not None
    assert (link.pings, link.rtt_ms) == (1, pytest.approx(2.0))


def test_a_break_forgets_the_ping_under_way_and_counts_for_an_hour() -> None:
    pinging = Pinging()
    assert measured([0.001], pinging) is not None
    number = pinging.ping(1.0)
    pinging.broke(2.0)
    pinging.pong(number, 3.0)
    soon, later = pinging.link(3.0), pinging.link(2.1 + HOUR_S)
    assert soon is not None
    assert later is not None
    assert (soon.pings, soon.reconnects, later.reconnects) == (1, 1, 0)


@pytest.mark.parametrize(
    ("rtt_ms", "reconnects", "grade"),
    [
        (0.4, 0, Grade.GOOD),
        (0.4, 1, Grade.FAIR),
        (GOOD_MS + 1, 0, Grade.FAIR),
        (FAIR_MS + 1, 0, Grade.POOR),
    ],
)
def test_a_link_in_a_word(rtt_ms: float, reconnects: int, grade: Grade) -> None:
    assert LinkQuality(rtt_ms, rtt_ms, 1, reconnects).grade is grade
