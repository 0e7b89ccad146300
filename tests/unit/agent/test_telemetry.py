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
    assert missing.text.startswith("1 event")
    assert events.after(kept[-1].number) == []
