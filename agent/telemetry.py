"""Telemetry: what the device does, sampled for whoever watches. Each sample is also a heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc.aio

from tiermesh import limits
from tiermesh.v1 import telemetry_pb2 as pb
from tiermesh.v1 import telemetry_pb2_grpc

KEPT_EVENTS: Final = 256


class EventLog:
    """The last events of the device, numbered, so that each watcher gets each of them once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[pb.DeviceEvent] = deque(maxlen=KEPT_EVENTS)
        self._number = 0

    def add(self, kind: str, text: str) -> None:
        """Note something that people should see."""
        self._number += 1
        self._events.append(
            pb.DeviceEvent(number=self._number, at=self._clock(), kind=kind, text=text[:1_000])
        )

    def after(self, number: int) -> list[pb.DeviceEvent]:
        """The events with a greater number that are still kept."""
        return [event for event in self._events if event.number > number]


class SystemGauges:
    """Processor, memory and temperature of the device, from /proc and /sys: cheap enough for every heartbeat."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._busy = self._cpu_times()

    def cpu_percent(self) -> float:
        """Share of all cores that was busy since the last call, 0 to 100."""
        (busy, total), (busy_before, total_before) = self._cpu_times(), self._busy
        self._busy = (busy, total)
        return 100.0 * (busy - busy_before) / max(total - total_before, 1e-9)

    def memory_used_bytes(self) -> int:
        """Memory in use on the device; 0 where it cannot be told."""
        fields = self._fields("meminfo")
        return 1024 * max(fields.get("MemTotal:", 0) - fields.get("MemAvailable:", 0), 0)

    def resident_bytes(self, pid: int | str = "self") -> int:
        """Resident memory of a process; 0 where it cannot be told."""
        return 1024 * self._fields(f"{pid}/status").get("VmRSS:", 0)

    def temperature(self) -> float:
        """The hottest thermal zone in degrees Celsius; 0 where there is none."""
        hottest = 0.0
        for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
            with contextlib.suppress(OSError, ValueError):
                hottest = max(hottest, int(zone.read_text()) / 1000)
        return hottest

    def _cpu_times(self) -> tuple[float, float]:
        try:
            first = (self._proc / "stat").read_text().split("\n", 1)[0]
        except OSError:
            return 0.0, 0.0
        times = [float(word) for word in first.split()[1:9]]
        return sum(times) - times[3] - times[4], sum(times)

    def _fields(self, name: str) -> dict[str, int]:
        try:
            lines = (self._proc / name).read_text().splitlines()
        except OSError:
            return {}
        words = (line.split() for line in lines)
        return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


class TelemetryService(telemetry_pb2_grpc.TelemetryServicer):
    """`tiermesh.v1.Telemetry`. `fill` adds what serving knows to a sample."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        events: EventLog,
        generations: Callable[[], Mapping[str, int]],
        fill: Callable[[pb.Sample], None],
        gauges: SystemGauges | None = None,
    ) -> None:
        self._clock = clock
        self._events = events
        self._generations = generations
        self._fill = fill
        self._gauges = gauges or SystemGauges()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all watches."""
        self._stopping.set()

    async def Watch(  # noqa: N802 - the name in the .proto
        self, request: pb.WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.Sample]:
        """A sample at once, then one per interval."""
        interval = max(request.interval_ms, limits.TELEMETRY_INTERVAL_MIN_MS) / 1000
        seen = number = 0
        while not self._stopping.is_set():
            number += 1
            sample = await self.sample(number, seen)
            seen = max((event.number for event in sample.events), default=seen)
            yield sample
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), interval)

    async def sample(self, number: int = 1, seen: int = 0) -> pb.Sample:
        """The state of the device now, with the events after number `seen`."""
        sample = pb.Sample(
            number=number,
            at=self._clock(),
            events=self._events.after(seen),
            generations=dict(self._generations()),
        )
        self._fill(sample)
        await asyncio.to_thread(self._gauge, sample)
        return sample

    def _gauge(self, sample: pb.Sample) -> None:
        gauges = self._gauges
        sample.cpu_percent = gauges.cpu_percent()
        sample.memory_used_bytes = gauges.memory_used_bytes()
        sample.temperature_celsius = gauges.temperature()
        sample.agent_memory_bytes = gauges.resident_bytes()
        if sample.worker.pid:
            sample.worker.memory_bytes = gauges.resident_bytes(sample.worker.pid)
