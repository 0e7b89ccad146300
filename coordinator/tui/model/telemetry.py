"""The newest samples of each device: enough of the past for rates and a sparkline; and what its link is like."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coordinator.sessions.link_quality import Link
    from coordinator.telemetry.status import Battery
    from coordinator.telemetry.watching import Observed
    from tiermesh.v1 import telemetry_pb2 as pb

RATE_SAMPLES: Final = 20
"""Samples that live rates are taken over."""
LOAD_SAMPLES: Final = 96


@dataclass(slots=True)
class Pulse:
    """What one device said, and how good the way to it is."""

    samples: deque[pb.Sample] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))
    load: deque[float] = field(default_factory=lambda: deque(maxlen=LOAD_SAMPLES))
    link: Link | None = None
    received_at: float = 0.0
    why_silent: str = ""

    @property
    def newest(self) -> pb.Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    @property
    def battery(self) -> Battery | None:
        """Its battery; None where it has none, or does not tell."""
        if self.newest is None:
            return None
        from coordinator.telemetry.status import battery_of

        return battery_of(self.newest)


class Telemetry:
    """The pulses of all devices, by id. Changed by `observe` only."""

    def __init__(self) -> None:
        self.pulses: dict[str, Pulse] = {}

    def observe(self, observed: Observed, received_at: float) -> None:
        """Take a sample in, or that a device is silent."""
        pulse = self.pulses.get(observed.device.id)
        if pulse is None:
            pulse = self.pulses[observed.device.id] = Pulse()
        sample = observed.sample
        if sample is None:
            pulse.why_silent = observed.why
            pulse.samples.clear()
            return
        if pulse.samples and sample.at < pulse.samples[-1].at:
            pulse.samples.clear()
        pulse.why_silent = ""
        pulse.received_at = received_at
        pulse.samples.append(sample)
        pulse.load.append(sample.cpu_percent / 100)
        pulse.link = observed.link

    def pulse(self, device: str) -> Pulse:
        """The pulse of a device; an empty one where nothing was heard."""
        return self.pulses.get(device) or _NEVER_HEARD

    def ends(self, devices: list[str]) -> Mapping[str, list[pb.Sample]]:
        """The oldest and the newest sample of some devices, as `status_of` takes them."""
        found = ((d, self.pulse(d).samples) for d in devices)
        return {d: [of[0], of[-1]] if len(of) > 1 else list(of) for d, of in found if of}

    def silent(self, devices: list[str]) -> Mapping[str, str]:
        """Why some devices are silent."""
        return {d: why for d in devices if (why := self.pulse(d).why_silent)}


_NEVER_HEARD: Final = Pulse()
