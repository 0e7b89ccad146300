"""Time dilation on a clock in which computing and waiting pass as told."""

from __future__ import annotations

import pytest

from agent.profiling.emulation import CountedTime, Dilation


class Time:
    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.waits: list[float] = []

    def compute(self, seconds: float) -> None:
        self.cpu += seconds
        self.wall += seconds

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.wall += seconds + 0.0001

    def dilation(self, slowdown: float) -> Dilation:
        return Dilation(
            slowdown, wait=self.wait, cpu_clock=lambda: self.cpu, clock=lambda: self.wall
        )


def test_many_pieces_take_k_times_as_long_although_each_wait_is_late() -> None:
    time = Time()
    dilation = time.dilation(5)
    for i in range(200):
        with dilation.slowed():
            time.compute(0.00005 if i % 2 else 0.003)
    assert time.wall == pytest.approx(5 * time.cpu, abs=0.001)
    assert min(time.waits) >= 0.0005


def test_it_waits_also_when_the_work_fails() -> None:
    time = Time()

    def failing() -> None:
        with time.dilation(3).slowed():
            time.compute(1.0)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert time.waits == [2.0]


def test_a_device_that_is_not_emulated_never_waits() -> None:
    time = Time()
    with time.dilation(1).slowed():
        time.compute(1.0)
    assert time.waits == []


def test_no_device_is_emulated_faster_than_it_is() -> None:
    with pytest.raises(ValueError, match="faster"):
        Time().dilation(0.5)


def test_counted_time_rests_a_little_and_counts_the_whole_wait() -> None:
    rests: list[float] = []
    clock = CountedTime(0.02, wait=rests.append)
    begun = clock.now()
    for seconds in (5.0, 0.001, 100.0):
        clock.wait(seconds)
    assert rests == [0.02, 0.001, 0.02]
    assert clock.now() - begun == pytest.approx(105.001, abs=1.0)
