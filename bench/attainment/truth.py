"""What is true of the devices and the requests, whoever serves them: device times, items, and what became of each.

Chance is seeded by what it is of, not by when it is asked: all systems meet the same devices and the same photos.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.serving.batcher import Work
from agent.serving.endpoints.request import Request
from bench.attainment.scenes import Scene, arrivals
from bench.attainment.settings import BYTES, LINES, NOISE, Setting
from bench.attainment.timeline import Timeline
from coordinator.telemetry.drift import expected_s, means_of
from tiermesh import ids
from tiermesh.frames import EMPTY, Frame, Kind, Packed

BIAS: Final = 0.06
"""Standard deviation of the logarithm of the true speed of a kind of device over its profiled one."""
WANDER: Final = 0.04
"""The same, of its speed from one `WANDER_S` to the next."""
WANDER_S: Final = 15.0


@dataclass(slots=True)
class Sent:
    """One request: where and when it was due and accepted, when it ended, and by which variants."""

    device: str
    due: float
    accepted: float | None = None
    ended: float | None = None
    is_result: bool = False
    variants: dict[str, str] = field(default_factory=dict[str, str])


class Truth:
    """One run's devices and requests. `victims` are the devices that a disturbance hits."""

    def __init__(
        self, setting: Setting, scene: Scene, timeline: Timeline, seconds: float, seed: int
    ) -> None:
        self._setting = setting
        self._scene = scene
        self._timeline = timeline
        self._seconds = seconds
        self.seed = seed
        self.victims: frozenset[str] = frozenset()
        problem = setting.problem
        self._means = {
            (p.stage, p.variant, p.device): means_of(p.batches) for p in problem.profiles
        }
        self._rngs = {d.name: random.Random(f"{seed}/{d.name}") for d in problem.devices}
        self._bias = {
            name: math.exp(random.Random(f"{seed}/bias/{kind.name}").gauss(0.0, BIAS))
            for kind in setting.kinds
            for name in kind.names
        }
        source = next(s for s in problem.stages if s.kind == "source")
        self.due = arrivals(scene, setting.rate_rps, seconds, source.pinned, seed)
        self.by_id: dict[str, Sent] = {}
        self.retried = 0
        self.duplicates = 0

    # Devices

    def slower(self, device: str, part: float) -> float:
        """By which factor a device is slower than profiled, in the mean, at a part of the run."""
        hit = device in self.victims
        return self._bias[device] * (self._scene.phase(part).slower if hit else 1.0)

    def _wander(self, device: str) -> float:
        step = int(self._timeline.now / WANDER_S)
        return math.exp(random.Random(f"{self.seed}/{device}/{step}").gauss(0.0, WANDER))

    def service_s(self, device: str, stage: str, variant: str, size: int) -> float:
        """Seconds of a batch on a device now."""
        sigma = NOISE[stage]
        noise = math.exp(self._rngs[device].gauss(-(sigma**2) / 2, sigma))
        part = self._timeline.now / self._seconds
        mean = expected_s(self._means[stage, variant, device], size)
        return mean * noise * self.slower(device, part) * self._wander(device)

    # Requests

    def items(self, request: str, stage: str) -> int:
        """Lines on a photo; a photo is one item to `detect`."""
        return 1 if stage == "detect" else LINES[int(ids.position(request) * 4096) % len(LINES)]

    def payload(self, request: str, stage: str) -> Packed:
        """What a stage makes of a request, by its size alone."""
        sent = BYTES[stage or "photos"]
        packed = Packed(EMPTY.data)
        packed.size = sent if not stage else sent * self.items(request, stage)
        return packed

    def arrivals(self, device: str) -> Sequence[float]:
        """When requests are due at the source of a device."""
        return self.due[device]

    def accepted(self, device: str, requests: Sequence[Request]) -> None:
        """A source has accepted requests."""
        now, due = self._timeline.now, self.due[device]
        for request in requests:
            at = min(due[request.index], now) if request.index < len(due) else now
            self.by_id[request.id] = Sent(device, at, now)

    def ran(self, work: Work, stage: str, variant: str) -> None:
        """A stage has run on a request, as this variant."""
        self.by_id[work.frame.request_id].variants[stage] = variant

    def ended(self, frame: Frame) -> None:
        """A request has ended at a sink."""
        sent = self.by_id[frame.request_id]
        if sent.ended is None:
            sent.ended = self._timeline.now
            sent.is_result = frame.kind is Kind.DATA

    def unaccepted(self) -> list[float]:
        """When the requests were due that no source has accepted."""
        counts: Mapping[str, int] = {
            device: sum(s.device == device for s in self.by_id.values()) for device in self.due
        }
        return [at for device, due in self.due.items() for at in due[counts[device] :]]
