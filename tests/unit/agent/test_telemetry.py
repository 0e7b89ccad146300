"""Telemetry: samples, numbered events, gauges from recorded /proc files."""

from pathlib import Path

import pytest

from agent.host_facts import ProcFacts, PsutilFacts
from agent.telemetry import DROPPED, EventLog, Sampler, SystemGauges
from tests.psutil_answers import answers, facts
from tiermesh import limits
from tiermesh.v1 import telemetry_pb2 as pb


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tx\nVmRSS:\t 42 kB\n")
    return tmp_path


def test_gauges_read_what_the_kernel_says(proc: Path) -> None:
    gauges = SystemGauges(ProcFacts(proc))
    (proc / "stat").write_text("cpu  150 0 150 750 150 0 0 0 0 0\n")
    assert gauges.cpu_percent() == pytest.approx(50.0)
    assert gauges.memory_used_bytes() == 600 * 1024
    assert gauges.resident_bytes() == 42 * 1024
    assert gauges.resident_bytes(4_000_000) == 0


def test_gauges_of_a_machine_without_proc() -> None:
    asked = answers(times={"user": 10.0, "system": 5.0, "idle": 85.0})
    gauges = SystemGauges(PsutilFacts(asked))
    asked.cpu_times = answers(times={"user": 14.0, "system": 6.0, "idle": 90.0}).cpu_times
    assert gauges.cpu_percent() == pytest.approx(50.0)
    assert gauges.memory_used_bytes() == 2 * 2**30
    assert (gauges.resident_bytes(), gauges.resident_bytes(4_000_001)) == (42 * 1024, 0)


async def test_a_sample_says_what_serves_and_counts() -> None:
    def fill(sample: pb.Sample) -> None:
        sample.figures.replicas.add(replica="s@d", items=7)

    sampler = Sampler(clock=lambda: 12.5, generations=lambda: {"w": 3}, fill=fill)
    first, second = await sampler.sample(), await sampler.sample()
    assert (first.number, second.number) == (1, 2)
    assert (first.at, first.generations["w"], first.figures.replicas[0].items) == (12.5, 3, 7)


async def test_a_sample_has_a_battery_where_the_device_has_one(tmp_path: Path) -> None:
    sampler = Sampler(
        clock=lambda: 12.5,
        generations=dict,
        fill=lambda _: None,
        gauges=SystemGauges(facts(), tmp_path),
    )
    assert not (await sampler.sample()).HasField("battery")
    folder = tmp_path / "class/power_supply/BAT0"
    folder.mkdir(parents=True)
    for name, text in (("type", "Battery"), ("capacity", "61"), ("status", "Charging")):
        (folder / name).write_text(text)
    told = (await sampler.sample()).battery
    assert (told.level_percent, told.state) == (61, pb.Battery.STATE_CHARGING)


def test_events_are_numbered_and_those_that_are_gone_are_counted() -> None:
    events = EventLog(lambda: 1.0)
    for i in range(limits.DEVICE_EVENTS_KEPT + 2):
        events.add("peer-lost", f"hub-{i}")
    kept = events.after(5)
    assert [e.number for e in kept] == list(range(6, limits.DEVICE_EVENTS_KEPT + 3))
    missing, oldest, *_ = events.after(1)
    assert (missing.kind, missing.number, oldest.number) == (DROPPED, 2, 3)
    assert missing.text.startswith("1 earlier event")
    assert events.after(kept[-1].number) == []


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def texts(events: EventLog) -> list[str]:
    return [event.text for event in events.after(0)]


def test_an_event_that_comes_again_and_again_is_told_once_and_then_counted() -> None:
    clock = Clock()
    events = EventLog(clock)
    told: list[int] = []
    events.on_add = lambda: told.append(1)
    for _ in range(2_649):
        events.add("sink-blocked", "w, out: No space left on device")
        clock.now += 8 / 2_649
    assert texts(events) == ["w, out: No space left on device"]
    clock.now += 2.0
    events.tell_repeats()
    assert texts(events)[1:] == ["w, out: No space left on device (2648 more times within 10 s)"]
    assert len(told) == 2


def test_counts_come_less_often_the_longer_it_lasts_and_end_with_it() -> None:
    clock = Clock()
    events = EventLog(clock)
    for _ in range(3_600):
        events.add("sink-blocked", "full")
        clock.now += 1.0
    assert len(texts(events)) == 1 + 10, "10 + 20 + 40 + ... s, at most 600 s each"
    for _ in range(3):
        clock.now += 600.0
        events.tell_repeats()
    events.add("sink-blocked", "full")
    assert texts(events)[-1] == "full", "it is over: the next one is new"


def test_other_events_are_told_meanwhile() -> None:
    events = EventLog(Clock())
    for i in range(3):
        events.add("sink-blocked", "full")
        events.add("peer-lost", f"hub-{i}")
        events.add("worker-ended", "the worker ended: killed by signal 9")
    assert texts(events).count("full") == 1
    assert len(texts(events)) == 7


def test_a_clock_that_is_set_back_and_a_flood_of_different_events_leave_nothing_behind() -> None:
    clock = Clock()
    events = EventLog(clock)
    events.add("sink-blocked", "full")
    clock.now -= 3_600
    events.add("sink-blocked", "full")
    assert texts(events) == ["full", "full"]
    for i in range(5_000):
        events.add("request-failed", f"{i}")
    assert len(events._repeated) <= 1_001
