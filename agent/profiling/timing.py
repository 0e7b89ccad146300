"""Timing one batch size of a loaded variant, batch by batch."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.model_host.emulation import CountedTime
from agent.model_host.inference import Inference, Item
from agent.profiling.disturbance import DisturbanceWatch
from agent.profiling.repeating import TYPICAL, Samples, StoppingRule
from agent.profiling.rotation import Rotation
from tiermesh.documents.profile import Point

PAUSE_S: Final = 0.02
"""Longer ones change little: what is lost by resting is lost by then."""
FEWEST_BATCHES: Final = 3
COARSE: Final = StoppingRule(interval=0.25, min_repeats=3, max_repeats=3)
"""How well a time must be known that is certain to be beaten."""


@dataclass(frozen=True, slots=True)
class DeviceClock:
    """How time passes on this device: its clock, and its rests, which an emulated device has made already."""

    clock: CountedTime
    slowdown: float

    def rest(self) -> None:
        """As between batches."""
        if self.slowdown == 1:
            threading.Event().wait(PAUSE_S)


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Stage code: seconds of each item, and the half width of their mean's interval over the mean."""

    shares: Sequence[float]
    interval: float

    def part(self, size: int, model_s: float) -> float:
        """What its interval adds to that of a batch whose model runs take `model_s`."""
        mean = statistics.fmean(self.shares) * size
        return self.interval * mean / max(mean + model_s, 1e-9)


@dataclass
class Batches:
    """The batches of one size, their times so far, and whether these are enough.

    `to_beat_s` is what a better variant takes for such a batch, 0 where there is none.
    """

    inference: Inference
    rotation: Rotation
    stage: StageTiming
    pace: DeviceClock
    rule: StoppingRule
    to_beat_s: float
    watch: DisturbanceWatch = field(default_factory=DisturbanceWatch)
    repeated: int = 0
    _cpu: list[float] = field(default_factory=list[float])
    _samples: Samples = field(init=False)

    def __post_init__(self) -> None:
        self._samples = Samples(self.rotation.works, TYPICAL)
        self._starts = self.rotation.starts()

    def measure(self, ends_at: float) -> bool:
        """Time the next batch, again while others disturb it; whether to go on.

        It ends at `ends_at` (on `time.perf_counter`), but not before two batches: one says nothing of the spread.
        """
        first = next(self._starts)
        disturbed = self._time(first)
        while disturbed and self.repeated < self.rule.min_repeats and time.perf_counter() < ends_at:
            self.repeated += 1
            self._forget()
            disturbed = self._time(first)
        is_late = time.perf_counter() > ends_at and len(self._samples.seconds) > 1
        return not (is_late or self.enough)

    @property
    def enough(self) -> bool:
        """Whether the mean is known well enough for what will be decided by it."""
        return self._samples.enough(self.rule) or self._is_beaten

    @property
    def _is_beaten(self) -> bool:
        if self.to_beat_s <= 0 or not self._samples.enough(COARSE):
            return False
        found = self._samples.estimate()
        return (
            found.interval <= COARSE.interval and found.mean * (1 - found.interval) > self.to_beat_s
        )

    def said(self) -> str:
        """The time so far, for people."""
        found = self._samples.estimate()
        return f"{found.mean * 1e3:.3g} ms ± {found.interval:.0%}"

    def point(self, size: int, threads: int, peak_memory_bytes: int, quota: float | None) -> Point:
        """What was measured; with a CPU quota, what a device takes that is kept busy."""
        found, cpu = self._samples.estimate(), statistics.fmean(self._cpu)
        of_stage = self.stage.part(size, found.mean - statistics.fmean(self.stage.shares) * size)
        seconds = self._samples.distribution()
        slower = sustained(seconds.mean, cpu, quota) / seconds.mean
        seconds = seconds.times(slower)
        return Point(
            batch_size=size,
            threads=threads,
            samples=len(self._samples.seconds),
            seconds=seconds,
            items_per_second=size / seconds.mean,
            interval=min(math.hypot(found.interval, of_stage), 1.0),
            peak_memory_bytes=peak_memory_bytes,
            cpu_seconds=cpu,
        )

    def _time(self, first: int) -> bool:
        batch, now = self.rotation.batch(first), self.pace.clock.now
        self.pace.rest()
        self.watch.begin()
        cpu, begun = time.process_time(), now()
        run(self.inference, batch)
        seconds = now() - begun
        self._cpu.append(time.process_time() - cpu)
        disturbed = self.watch.was_disturbed()
        self._samples.add(seconds + self.rotation.stage_seconds(first), first)
        return disturbed

    def _forget(self) -> None:
        self._cpu.pop()
        self._samples.drop_last()


def affordable(size: int, takes: Mapping[int, float], left_s: float) -> bool:
    """Whether there is time for a few batches of a size, by what smaller ones took (seconds by size)."""
    last = max(takes, default=0)
    likely = takes[last] * size / last * FEWEST_BATCHES if last else 0.0
    return likely <= left_s and left_s > 0


def sustained(seconds: float, cpu_seconds: float, quota_cores: float | None) -> float:
    """What a batch takes on a device that is kept busy: no less than its processor time over the quota (cores).

    A quota lets a short burst run at full speed and stops the device later in the same period (of 0.1 s, usually):
    batches with rests between them do not meet it, those of a device that serves do (kernel documentation,
    scheduler/sched-bwc).
    """
    return seconds if quota_cores is None else max(seconds, cpu_seconds / quota_cores)


def run(inference: Inference, batch: Sequence[Sequence[Item]]) -> None:
    """The items of a batch, in a run for each of their shapes."""
    for alike in batch:
        inference.infer(alike)
