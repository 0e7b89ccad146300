"""Telemetry: samples at the interval asked, each event once, gauges from recorded /proc files."""

import asyncio
from pathlib import Path

import pytest

from agent.telemetry import EventLog, SystemGauges, TelemetryService
from tiermesh.v1 import telemetry_pb2 as pb


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tx\nVmRSS:\t 42 kB\n")
    return tmp_path


def test_gauges_read_what_the_kernel_says(proc: Path) -> None:
    gauges = SystemGauges(proc)
    (proc / "stat").write_text("cpu  150 0 150 750 150 0 0 0 0 0\n")
    assert gauges.cpu_percent() == pytest.approx(50.0)
    assert gauges.memory_used_bytes() == 600 * 1024
    assert gauges.resident_bytes() == 42 * 1024
    assert gauges.resident_bytes(4_000_000) == 0


def service(events: EventLog) -> TelemetryService:
    def fill(sample: pb.Sample) -> None:
        sample.replicas.add(replica="s@d", items=7)

    return TelemetryService(
        clock=lambda: 12.5, events=events, generations=lambda: {"w": 3}, fill=fill
    )


async def test_each_watch_sees_each_event_once() -> None:
    events = EventLog(lambda: 1.0)
    events.add("worker-restarted", "killed by signal 9")
    telemetry = service(events)
    watch = telemetry.Watch(pb.WatchRequest(interval_ms=1), None)
    first = await anext(watch)
    events.add("peer-lost", "hub-1")
    second = await anext(watch)
    assert [e.kind for e in first.events] == ["worker-restarted"]
    assert [e.kind for e in second.events] == ["peer-lost"]
    assert (first.number, second.number) == (1, 2)
    assert (first.at, first.generations["w"], first.replicas[0].items) == (12.5, 3, 7)
    await watch.aclose()


async def test_a_stopping_agent_ends_its_watches() -> None:
    telemetry = service(EventLog(lambda: 1.0))
    watch = telemetry.Watch(pb.WatchRequest(interval_ms=60_000), None)
    await anext(watch)
    telemetry.stop()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(watch), 5)
