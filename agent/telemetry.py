"""Telemetry: what the device does, sampled for whoever watches. Each sample is also a heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.host_facts import HostFacts, HostTime, host_facts
from agent.profiling.fingerprint import power
from tiermesh import limits
from tiermesh.v1 import telemetry_pb2 as pb

log = logging.getLogger(__name__)

DROPPED: Final = "events-dropped"
_EACH: Final = "worker-"
_REPEATS_S: Final = 10.0
_REPEATS_MOST_S: Final = 600.0
_REPEATS: Final = 1_000


@dataclass
class _Repeated:
    """How often an event came again since `began`, and for how long that is counted before it is told."""

    began: float
    lasts_s: float = _REPEATS_S
    count: int = 0


class EventLog:
    """The last events of the device, numbered from its start. `on_add` is called after each.

    An event that comes again with the same text is counted, and the count told after 10 s, then after 20 s, and so on
    up to 10 min: a full disk fails a hundred times a second. Events of the worker's life are each told.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[pb.DeviceEvent] = deque(maxlen=limits.DEVICE_EVENTS_KEPT)
        self._number = 0
        self._repeated: dict[tuple[str, str], _Repeated] = {}
        self.on_add: Callable[[], None] = lambda: None

    def add(self, kind: str, text: str) -> None:
        """Note something that people should see."""
        self.tell_repeats()
        text = text[: limits.DEVICE_EVENT_CHARS]
        repeated = self._repeated.get((kind, text))
        if repeated is not None:
            repeated.count += 1
            return
        if not kind.startswith(_EACH):
            self._repeated[kind, text] = _Repeated(self._clock())
        self._put(kind, text)

    def tell_repeats(self) -> None:
        """Tell how often events came again whose time is over; to be called now and then."""
        now = self._clock()
        for (kind, text), repeated in list(self._repeated.items()):
            # A clock that was set back ends a time, too.
            if 0 <= now - repeated.began < repeated.lasts_s and len(self._repeated) <= _REPEATS:
                continue
            if not repeated.count:
                del self._repeated[kind, text]
                continue
            longer_s = min(2 * repeated.lasts_s, _REPEATS_MOST_S)
            self._repeated[kind, text] = _Repeated(now, longer_s)
            told = f" ({repeated.count} more times within {repeated.lasts_s:g} s)"
            self._put(kind, text[: limits.DEVICE_EVENT_CHARS - len(told)] + told)

    def _put(self, kind: str, text: str) -> None:
        self._number += 1
        log.info("%s: %s", kind, text)
        self._events.append(
            pb.DeviceEvent(number=self._number, at=self._clock(), kind=kind, text=text)
        )
        self.on_add()

    def after(self, number: int) -> list[pb.DeviceEvent]:
        """The events with a greater number; where some are no longer kept, the first says how many."""
        events = [event for event in self._events if event.number > number]
        missing = events[0].number - number - 1 if events else 0
        if missing:
            events.insert(0, self._missing(events[0], missing))
        return events

    @staticmethod
    def _missing(first: pb.DeviceEvent, count: int) -> pb.DeviceEvent:
        text = f"{count} earlier events were dropped: no coordinator collected them"
        return pb.DeviceEvent(number=first.number - 1, at=first.at, kind=DROPPED, text=text)


class SystemGauges:
    """Processor, memory, temperature and battery: cheap enough for every heartbeat."""

    def __init__(self, facts: HostFacts | None = None, sys: Path = Path("/sys")) -> None:
        self._facts, self._sys = facts or host_facts(), sys
        self._before = self._time()

    def cpu_percent(self) -> float:
        """Share of all cores that was busy since the last call, 0 to 100."""
        now, before = self._time(), self._before
        self._before = now
        busy = now.busy_s + now.stolen_s - before.busy_s - before.stolen_s
        return 100.0 * busy / max(now.total_s - before.total_s, 1e-9)

    def memory_used_bytes(self) -> int:
        """Memory in use on the device; 0 where it cannot be told."""
        memory = self._facts.memory()
        return memory.used_bytes if memory is not None else 0

    def resident_bytes(self, pid: int | None = None) -> int:
        """Resident memory of a process, None for this one; 0 where it cannot be told."""
        return self._facts.resident_bytes(pid)

    def temperature(self) -> float:
        """The hottest thermal zone in degrees Celsius; 0 where there is none."""
        hottest = 0.0
        for zone in (self._sys / "class/thermal").glob("thermal_zone*/temp"):
            with contextlib.suppress(OSError, ValueError):
                hottest = max(hottest, int(zone.read_text()) / 1000)
        return hottest

    def battery(self) -> pb.Battery | None:
        """How full the device's battery is; None where it has none."""
        found = power.battery(self._sys, self._facts)
        if found is None:
            return None
        state = pb.Battery.State.Value(f"STATE_{found.state.upper()}")
        return pb.Battery(level_percent=found.level_percent, state=state)

    def _time(self) -> HostTime:
        return self._facts.time() or HostTime(0.0, 0.0, 0.0)


class Sampler:
    """Samples of the device, each with the next number. `fill` adds what serving knows; `also` is called for each."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        generations: Callable[[], Mapping[str, int]],
        fill: Callable[[pb.Sample], None],
        gauges: SystemGauges | None = None,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        self._also = also
        self._clock = clock
        self._generations = generations
        self._fill = fill
        self._gauges = gauges or SystemGauges()
        self._number = 0

    async def sample(self) -> pb.Sample:
        """The state of the device now."""
        self._number += 1
        self._also()
        sample = pb.Sample(
            number=self._number,
            at=self._clock(),
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
        battery = gauges.battery()
        if battery is not None:
            sample.battery.CopyFrom(battery)
        sample.agent_memory_bytes = gauges.resident_bytes()
        if sample.worker.pid:
            sample.worker.memory_bytes = gauges.resident_bytes(sample.worker.pid)
