"""What a run of chaos may have ended like, on records made by hand."""

from __future__ import annotations

from tests.mesh.faults import Outage
from tests.mesh.judging import (
    BACK_S,
    Ending,
    Rollout,
    disorder,
    longest_reach_s,
    most_rollouts,
    undue,
)

ERROR = Ending("left: not done by its deadline", 100.0, 115.0)


def test_the_longest_time_in_reach_lies_before_between_or_after_outages() -> None:
    outages = [Outage("a", 20.0, 30.0), Outage("a", 5.0, 8.0), Outage("b", 0.0, 99.0)]
    assert longest_reach_s("a", outages, 0.0, 40.0) == 12.0
    assert longest_reach_s("a", outages, 6.0, 25.0) == 12.0
    assert longest_reach_s("a", outages, 21.0, 29.0) <= 0.0
    assert longest_reach_s("c", outages, 0.0, 40.0) == 40.0


def test_an_error_is_due_only_where_nobody_was_in_reach_for_long_enough() -> None:
    away = [Outage("a", 95.0, 114.0), Outage("b", 99.0, 115.5 - BACK_S), Outage("c", 102.0, 120.0)]
    assert undue([ERROR], away, "abc") == []
    assert undue([ERROR], away[:2], "abc") == [ERROR]
    back = Outage("b", 99.0, 114.5 - BACK_S)
    assert undue([ERROR], [away[0], back, away[2]], "abc") == [ERROR]


def test_generations_grow_and_do_not_overlap() -> None:
    good = [Rollout(1, 0.0, 1.0), Rollout(2, 5.0, None), Rollout(3, 6.0, 7.0)]
    assert disorder(good) == []
    assert disorder([good[1], good[0]]) == ["generation 1 came after 2"]
    assert disorder([Rollout(1, 0.0, 9.0), good[2]]) == ["generation 3 began before 1 was done"]


def test_there_is_one_generation_for_a_loss_and_one_for_a_return_at_most() -> None:
    away = [Outage("a", 0.0, 9.0), Outage("b", 0.0, 0.2)]
    assert most_rollouts(away, 0.3) == 3
