"""The worker's clock: Unix seconds, and setting the machine's clock moves no deadline."""

from __future__ import annotations

import time

import pytest

from agent.serving.clock import Clock, anchor


@pytest.mark.parametrize("seconds", [3_600.0, -3_600.0])
def test_a_wall_clock_that_is_set_moves_no_deadline(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock = Clock()
    before, real = clock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    assert clock() - before == pytest.approx(0.0, abs=5.0)
    moved = anchor(Clock()()).zero - anchor(clock()).zero
    assert moved == pytest.approx(seconds, abs=5.0), "a worker that starts now has another zero"
