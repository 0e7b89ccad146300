"""Time dilation on a clock in which computing and waiting pass as told."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from agent.model_host.emulation import CountedTime, Dilation
from agent.model_host.turns import LONGEST_S, Turns
from agent.run_delay import run_delay_s


class Time:
    def __init__(self) -> None:
        self.cpu = self.wall = self.queued = 0.0
        self.turn_s = 0.0
        self.waits: list[float] = []

    def compute(self, seconds: float) -> None:
        self.cpu += seconds
        self.wall += seconds

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.wall += seconds + 0.0001

    def queue(self, seconds: float) -> None:
        """Others have the core."""
        self.queued += seconds
        self.wall += seconds

    @contextmanager
    def turn(self) -> Generator[None]:
        self.wall += self.turn_s
        yield

    def dilation(self, slowdown: float) -> Dilation:
        return Dilation(
            slowdown,
            wait=self.wait,
            cpu_clock=lambda: self.cpu,
            clock=lambda: self.wall,
            queued=lambda: self.queued,
            turn=self.turn,
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


def test_what_others_took_of_the_machine_is_no_part_of_an_emulated_device() -> None:
    time = Time()
    time.turn_s = 0.02
    dilation = time.dilation(4)
    for _ in range(50):
        with dilation.slowed():
            time.compute(0.01)
            time.queue(0.005)
            time.compute(0.01)
    assert time.wall == pytest.approx(50 * 4 * 0.02, rel=0.01)


def test_what_was_lost_beyond_the_wait_is_made_good_later_but_not_without_end() -> None:
    time = Time()
    dilation = time.dilation(2)
    with dilation.slowed():
        time.compute(0.01)
        time.queue(0.1)
    for _ in range(20):
        with dilation.slowed():
            time.compute(0.01)
    assert time.wall == pytest.approx(21 * 2 * 0.01, rel=0.05)
    with dilation.slowed():
        time.queue(100.0)
    before = time.wall
    for _ in range(100):
        with dilation.slowed():
            time.compute(0.01)
    assert time.wall - before == pytest.approx(100 * 2 * 0.01 - 0.5, rel=0.05)


def test_a_measurement_counts_what_the_device_takes_and_nothing_that_others_take() -> None:
    time, counted = Time(), CountedTime()

    def turn() -> AbstractContextManager[None]:
        threading.Event().wait(0.02)
        return nullcontext()

    dilation = Dilation(
        3, cpu_clock=lambda: time.cpu, queued=lambda: time.queued, turn=turn, counted=counted
    )
    begun = counted.now()
    for _ in range(3):
        with dilation.slowed():
            time.cpu += 0.001
            threading.Event().wait(0.001)
    assert counted.now() - begun == pytest.approx(3 * 0.003, abs=0.008)


def test_the_kernel_tells_how_long_a_thread_was_without_a_core() -> None:
    first, second = run_delay_s(), run_delay_s()
    if first is None or second is None:
        pytest.skip("this kernel does not count it")
    assert 0.0 <= first <= second


def test_devices_of_one_host_take_turns_and_a_holder_that_is_stopped_is_not_waited_for(
    tmp_path: Path,
) -> None:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    one, other = (Turns(tmp_path, 1, clock=lambda: now, wait=wait) for _ in range(2))
    with one.turn(), other.turn():
        assert now == pytest.approx(LONGEST_S, abs=0.01)
        with other.turn():
            assert now == pytest.approx(LONGEST_S, abs=0.01)
    waited, now = now, now + 10.0
    with other.turn():
        pass
    with one.turn():
        assert now == waited + 10.0


def test_there_is_a_turn_for_each_core_that_is_given(tmp_path: Path) -> None:
    one, other, third = (
        Turns(tmp_path, 2, clock=lambda: 0.0, wait=lambda _: pytest.fail("it waits"))
        for _ in range(3)
    )
    with one.turn():
        with other.turn():
            pass
        with third.turn():
            pass


def test_without_a_folder_for_locks_everyone_goes_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Turns(tmp_path / "file" / "turns", 1).turn():
        pass
