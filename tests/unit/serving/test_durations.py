"""Durations over a moving window, as a histogram."""

from __future__ import annotations

import random

import pytest

from agent.serving.tuning.durations import SLICES, WINDOW_S, DurationWindow
from tiermesh.histogram import PERCENTILES, histogram


def test_percentiles_are_of_the_window_and_by_nearest_rank() -> None:
    measured = DurationWindow()
    measured.add(1e6, 0.0)
    for i in range(100):
        measured.add(float(i + 1), 50.0 + i / 10)
    seen = measured.histogram(62.0)
    assert seen.count == 100
    for share in PERCENTILES.values():
        assert seen.percentile_s(share) == pytest.approx(100 * share, rel=seen.relative_error)
    assert measured.rate(60.0) == pytest.approx(10.0, rel=0.05)
    assert DurationWindow().histogram(1.0).count == 0


def test_it_holds_what_ended_within_the_window_however_often_it_is_read() -> None:
    chance = random.Random(5)
    often, seldom = DurationWindow(), DurationWindow()
    ended: list[tuple[float, float]] = []
    now = 0.0
    for _ in range(5_000):
        now += chance.expovariate(20.0)
        ended.append((now, chance.lognormvariate(-2.0, 1.0)))
        for window in (often, seldom):
            window.add(ended[-1][1], now)
        if chance.random() < 0.05:
            often.histogram(now)
    assert often.histogram(now) == seldom.histogram(now)
    least, most = WINDOW_S, WINDOW_S * (1 + 1 / SLICES)
    counts = [sum(at > now - seconds for at, _ in ended) for seconds in (least, most)]
    assert counts[0] <= often.histogram(now).count <= counts[1]
    first = len(ended) - often.histogram(now).count
    assert often.histogram(now) == histogram(seconds for _, seconds in ended[first:])
    assert often.histogram(now + 2 * WINDOW_S).count == 0


def test_what_comes_between_two_readings_is_bounded_and_still_counts() -> None:
    window = DurationWindow()
    for i in range(10_000):
        window.add(0.1, i / 1_000)
    assert len(window._added) < 2_100
    assert window.histogram(10.0).count == 10_000
    assert len(window.kept) == 2_048
