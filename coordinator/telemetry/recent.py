"""The newest samples of each device: enough of the past for rates and a sparkline; and what its link is like. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coordinator.sessions.link_quality import LinkQuality
    from coordinator.telemetry.status import BatteryStatus
    from coordinator.telemetry.watching import Observed
    from tiermesh.v1 import telemetry_pb2 as pb

RATE_SAMPLES: Final = 20
"""Samples that live rates are taken over."""
LOAD_SAMPLES: Final = 96


@dataclass(slots=True)
class DeviceTelemetry:
    """What one device said, and how good the link to it is. `load` is of its processor, 0 to 1, oldest first."""

    samples: deque[pb.Sample] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))
    load: deque[float] = field(default_factory=lambda: deque(maxlen=LOAD_SAMPLES))
    link: LinkQuality | None = None
    received_at: float = 0.0
    why_silent: str = ""

    @property
    def newest(self) -> pb.Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    @property
    def battery(self) -> BatteryStatus | None:
        """Its battery; None where it has none, or does not tell."""
        if self.newest is None:
            return None
        from coordinator.telemetry.status import battery_of

        return battery_of(self.newest)


class RecentTelemetry:
    """The telemetry of all devices, by id. Changed by `observe` only."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceTelemetry] = {}

    def observe(self, observed: Observed) -> None:
        """Take a sample in, or that a device is silent."""
        known = self.devices.get(observed.device.id)
        if known is None:
            known = self.devices[observed.device.id] = DeviceTelemetry()
        sample = observed.sample
        if sample is None:
            known.why_silent = observed.why
            known.samples.clear()
            return
        if known.samples and sample.at < known.samples[-1].at:
            known.samples.clear()
        known.why_silent = ""
        known.received_at = observed.received_at
        known.samples.append(sample)
        known.load.append(sample.cpu_percent / 100)
        known.link = observed.link

    def of(self, device: str) -> DeviceTelemetry:
        """The telemetry of a device; empty where nothing was heard."""
        return self.devices.get(device) or _NEVER_HEARD

    def ends(self, devices: list[str]) -> Mapping[str, list[pb.Sample]]:
        """The oldest and the newest sample of some devices, as `status_of` takes them."""
        found = ((d, self.of(d).samples) for d in devices)
        return {d: [of[0], of[-1]] if len(of) > 1 else list(of) for d, of in found if of}

    def silent(self, devices: list[str]) -> Mapping[str, str]:
        """Why some devices are silent."""
        return {d: why for d in devices if (why := self.of(d).why_silent)}


_NEVER_HEARD: Final = DeviceTelemetry()
