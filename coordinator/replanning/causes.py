"""Why a workflow misses its SLO, or may come to: what is measured to be otherwise than planned. Pure.

Only what is significant is a cause. The most harmful comes first: a device that is lost, slowness of devices and its
cause, links, load, bursts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.replanning.load import LoadEstimate
from coordinator.replanning.slo import Burn
from coordinator.telemetry.drift import Ratio

HOT_C: Final = 80.0
"""Most processors slow themselves down from here to 100 degrees Celsius."""
SLOWER: Final = 1.1
"""Less than this over the profile, or the planned dispersion, is not worth a word."""
LINK_SLOWER: Final = 2.0
LINK_MS: Final = 50.0
"""Round trips end in this process, and are late when it is busy: less than this is not worth a word."""
BUSY_PERCENT: Final = 90.0


class CauseKind(StrEnum):
    """What is otherwise than planned."""

    DEVICE_LOST = "device-lost"
    NEIGHBOUR = "neighbour"
    THROTTLED = "throttled"
    DEVICE_SLOWER = "device-slower"
    LINK_SLOWER = "link-slower"
    MORE_LOAD = "more-load"
    BURST = "burst"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause in one sentence; `subject` is the device, host or source that it is about."""

    kind: CauseKind
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Slowness:
    """A replica whose batches take another time than planned: measured over planned, with an interval."""

    replica: str
    device: str
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class Condition:
    """What a device says of itself. `host` is equal for devices that share a machine.

    `throttled` says by what its processors are held back, where that is known: a quota, or its temperature.
    """

    host: str = ""
    state: str = "ready"
    why: str = ""
    temperature_celsius: float = 0.0
    cpu_percent: float = 0.0
    throttled: str = ""


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Round trips to a device in milliseconds: the median of late, and the least that was seen."""

    rtt_ms: float
    least_ms: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is measured. Devices are by name; those that the plan uses count alone."""

    slowness: Sequence[Slowness] = ()
    devices: Mapping[str, Condition] = field(default_factory=dict[str, Condition])
    links: Mapping[str, LinkTimes] = field(default_factory=dict[str, LinkTimes])
    load: LoadEstimate | None = None
    planned_dispersion: float = 1.0
    dispersion: float = 1.0
    burn: Burn | None = None


def causes(evidence: Evidence) -> list[Cause]:
    """All that is otherwise than planned for the worse; that the SLO is missed without any of it is told, too."""
    found = [
        *_lost(evidence),
        *_slow(evidence),
        *_links(evidence),
        *_loads(evidence),
    ]
    if evidence.burn is not None and not found:
        text = f"{evidence.burn}, and nothing that is measured explains it"
        return [Cause(CauseKind.UNEXPLAINED, "", text)]
    return found


def _lost(evidence: Evidence) -> Iterator[Cause]:
    for name, device in sorted(evidence.devices.items()):
        if device.state in ("failed", "left", "suspect"):
            why = f": {device.why}" if device.why else ""
            yield Cause(CauseKind.DEVICE_LOST, name, f"{name} is {device.state}{why}")


def _slow(evidence: Evidence) -> Iterator[Cause]:
    """Devices of a host that are all slower have a neighbour; one alone is throttled, or slower than its profile."""
    slow = {s.device: s for s in _slowest(evidence)}
    hosts: defaultdict[str, set[str]] = defaultdict(set)
    for name in {s.device for s in evidence.slowness}:
        hosts[_condition(evidence, name).host or name].add(name)
    shared = {h: names for h, names in hosts.items() if len(names) > 1 and names <= slow.keys()}
    for host, names in sorted(shared.items()):
        if not any(_held_back(_condition(evidence, name)) for name in names):
            yield _neighbour(host, [slow[name] for name in sorted(names)])
            slow = {name: s for name, s in slow.items() if name not in names}
    for name, slowness in sorted(slow.items()):
        yield _slower(name, slowness, _condition(evidence, name))


def _slowest(evidence: Evidence) -> list[Slowness]:
    """Of each device the replica that is slower for sure by the most, the slowest last."""
    sure = [s for s in evidence.slowness if s.ratio.low > SLOWER]
    return sorted(sure, key=lambda s: s.ratio.low)


def _condition(evidence: Evidence, device: str) -> Condition:
    return evidence.devices.get(device, Condition())


def _neighbour(host: str, slow: Sequence[Slowness]) -> Cause:
    names = ", ".join(s.device for s in slow)
    low, high = min(s.ratio.ratio for s in slow), max(s.ratio.ratio for s in slow)
    text = (
        f"all devices that share a host ({names}) are slower than planned, {low:.2f} to {high:.2f} times: "
        f"something else keeps the host busy, or they disturb each other"
    )
    return Cause(CauseKind.NEIGHBOUR, host, text)


def _slower(name: str, slowness: Slowness, device: Condition) -> Cause:
    told = f"{slowness.replica} takes {_times(slowness.ratio)} its planned device time"
    held_back = _held_back(device)
    if held_back:
        return Cause(CauseKind.THROTTLED, name, f"{name} is throttled ({held_back}): {told}")
    busy = ""
    if device.cpu_percent > BUSY_PERCENT:
        busy = f"; its processors are busy {device.cpu_percent:.0f}%"
    return Cause(CauseKind.DEVICE_SLOWER, name, f"{name} is slower than its profile: {told}{busy}")


def _held_back(device: Condition) -> str:
    if device.throttled:
        return device.throttled
    hot = device.temperature_celsius
    return f"{hot:.0f} degrees Celsius" if hot >= HOT_C else ""


def _times(ratio: Ratio) -> str:
    if not math.isfinite(ratio.high):
        return f"{ratio.ratio:.2f} times"
    return f"{ratio.ratio:.2f} times (interval {ratio.low:.2f} to {ratio.high:.2f})"


def _links(evidence: Evidence) -> Iterator[Cause]:
    for name, link in sorted(evidence.links.items()):
        if link.rtt_ms > max(LINK_SLOWER * link.least_ms, link.least_ms + LINK_MS):
            text = (
                f"the link to {name} is slow: a round trip takes {link.rtt_ms:.0f} ms (median of late), "
                f"{link.least_ms:.0f} ms at best"
            )
            yield Cause(CauseKind.LINK_SLOWER, name, text)


def _loads(evidence: Evidence) -> Iterator[Cause]:
    load = evidence.load
    if load is not None and load.changed and load.ratio > 1:
        yield Cause(CauseKind.MORE_LOAD, "", f"more requests come than planned: {load}")
    if evidence.dispersion > SLOWER * evidence.planned_dispersion:
        text = (
            f"requests come in bursts: the variance of their counts is {evidence.dispersion:.1f} times the mean, "
            f"{evidence.planned_dispersion:.1f} is planned"
        )
        yield Cause(CauseKind.BURST, "", text)
