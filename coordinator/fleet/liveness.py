"""Which devices are there, from their heartbeats. Pure: whoever listens says when.

    ready --silent--> suspect --silent for longer--> failed --heard--> held --heard throughout--> ready
                      suspect --heard--> ready                         held --silent--> failed

Time is what the listener listened, not what passed: when it was itself stopped, or the machine slept, no device
could be heard, and none is to blame. A wall clock that is set plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from coordinator.fleet.lifecycle import DeviceState


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When to give a device up, and when to trust it again. All in seconds, `lapses` is a count.

    `gone_after_s` is for a device whose address refuses connections: its process has ended. A step between two
    looks counts as `longest_step_s` at most. Being suspect `lapses` times within `lapse_window_s` is failing, too.
    The hold doubles with each failure from `hold_s` to `hold_max_s`, until one is `forgiven_after_s` ago.
    """

    suspect_after_s: float = 1.0
    failed_after_s: float = 3.0
    gone_after_s: float = 0.3
    longest_step_s: float = 0.5
    lapses: int = 5
    lapse_window_s: float = 60.0
    hold_s: float = 5.0
    hold_max_s: float = 300.0
    forgiven_after_s: float = 600.0


TIMING: Final = Timing()


class LivenessState(StrEnum):
    """Where a device stands with the listener."""

    READY = "ready"
    SUSPECT = "suspect"
    FAILED = "failed"
    HELD = "held"
    """It failed, answers again, and has yet to prove that it stays."""

    @property
    def state(self) -> DeviceState:
        """As the rest of the coordinator sees it."""
        return DeviceState.SUSPECT if self is LivenessState.HELD else DeviceState(self.value)


@dataclass(frozen=True, kw_only=True)
class DeviceLiveness:
    """What is known of one device; times are those of `Vigil.clock`.

    `since` is when it came to stand so; `broken_at` since when its stream is broken, `gone_at` since when its
    address refuses connections.
    """

    standing: LivenessState = LivenessState.READY
    since: float = 0.0
    heard_at: float = 0.0
    broken_at: float | None = None
    gone_at: float | None = None
    why: str = ""
    lapses: tuple[float, ...] = ()
    failures: int = 0
    failed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class LivenessChanged:
    """A device stands otherwise now. `hold_s` is what it will be held for, or is."""

    device: str
    standing: LivenessState
    why: str
    hold_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Vigil:
    """All devices that are listened to. `clock` is the seconds listened so far, `at` when that was noted."""

    timing: Timing = Timing()
    pulses: Mapping[str, DeviceLiveness] = field(default_factory=dict[str, DeviceLiveness])
    clock: float = 0.0
    at: float | None = None


def added(vigil: Vigil, device: str, standing: LivenessState = LivenessState.READY) -> Vigil:
    """Listen to a device, too; it counts as heard just now."""
    if device in vigil.pulses:
        return vigil
    pulse = DeviceLiveness(standing=standing, since=vigil.clock, heard_at=vigil.clock)
    return _with(vigil, device, pulse)


def removed(vigil: Vigil, device: str) -> Vigil:
    """Listen to it no more."""
    return replace(vigil, pulses={d: p for d, p in vigil.pulses.items() if d != device})


def heard(vigil: Vigil, device: str) -> Vigil:
    """A heartbeat has come."""
    pulse = vigil.pulses.get(device)
    if pulse is None:
        return vigil
    return _with(
        vigil, device, replace(pulse, heard_at=vigil.clock, broken_at=None, gone_at=None, why="")
    )


def broken(vigil: Vigil, device: str, why: str, *, gone: bool = False) -> Vigil:
    """Its stream has ended; `gone` when its address refuses connections, too."""
    pulse = vigil.pulses.get(device)
    if pulse is None:
        return vigil
    first = vigil.clock if pulse.broken_at is None else pulse.broken_at
    since = vigil.clock if pulse.gone_at is None else pulse.gone_at
    return _with(
        vigil,
        device,
        replace(pulse, broken_at=first, gone_at=since if gone else None, why=why or pulse.why),
    )


def passed(vigil: Vigil, at: float) -> tuple[Vigil, list[LivenessChanged]]:
    """Time has passed until `at`, in seconds of a monotonic clock; who stands otherwise now, by device."""
    elapsed = 0.0 if vigil.at is None else max(at - vigil.at, 0.0)
    step = min(elapsed, vigil.timing.longest_step_s)
    vigil = replace(vigil, at=at, clock=vigil.clock + step)
    moved: list[LivenessChanged] = []
    for device, pulse in sorted(vigil.pulses.items()):
        after, why = _moved(pulse, vigil.clock, vigil.timing)
        if after.standing is not pulse.standing:
            hold_s = _hold_s(after, vigil.timing) if after.failures else 0.0
            moved.append(LivenessChanged(device, after.standing, why, hold_s))
        if after is not pulse:
            vigil = _with(vigil, device, after)
    return vigil, moved


def _with(vigil: Vigil, device: str, pulse: DeviceLiveness) -> Vigil:
    return replace(vigil, pulses={**vigil.pulses, device: pulse})


def _moved(pulse: DeviceLiveness, clock: float, timing: Timing) -> tuple[DeviceLiveness, str]:
    silent_s = clock - pulse.heard_at
    # A broken stream is a sign at once, silence only after a while.
    if pulse.broken_at is not None or silent_s >= timing.suspect_after_s:
        return _unheard(pulse, clock, timing)
    return _audible(pulse, clock, timing)


def _unheard(pulse: DeviceLiveness, clock: float, timing: Timing) -> tuple[DeviceLiveness, str]:
    match pulse.standing:
        case LivenessState.READY:
            return _lapsed(pulse, clock, timing)
        case LivenessState.SUSPECT if _is_lost(pulse, clock, timing):
            return _failed(pulse, clock, timing), _explained(pulse, clock)
        case LivenessState.HELD:
            return _failed(pulse, clock, timing), _explained(pulse, clock)
        case _:
            return pulse, ""


def _audible(pulse: DeviceLiveness, clock: float, timing: Timing) -> tuple[DeviceLiveness, str]:
    hold_s = _hold_s(pulse, timing)
    match pulse.standing:
        case LivenessState.SUSPECT:
            return _to(
                pulse, LivenessState.READY, clock
            ), f"heard again after {_spell(pulse, clock)}"
        case LivenessState.FAILED:
            held = _to(pulse, LivenessState.HELD, clock)
            return held, f"it answers again, and is ready if it stays for {hold_s:g} s"
        case LivenessState.HELD if clock - pulse.since >= hold_s:
            return _to(
                pulse, LivenessState.READY, clock
            ), f"recovered: stable for {_spell(pulse, clock)}"
        case _:
            return pulse, ""


def _to(pulse: DeviceLiveness, standing: LivenessState, clock: float) -> DeviceLiveness:
    return replace(pulse, standing=standing, since=clock)


def _lapsed(pulse: DeviceLiveness, clock: float, timing: Timing) -> tuple[DeviceLiveness, str]:
    recent = tuple(at for at in pulse.lapses if clock - at < timing.lapse_window_s)
    pulse = replace(pulse, lapses=(*recent, clock))
    if len(pulse.lapses) >= timing.lapses:
        why = f"not heard {timing.lapses} times within {timing.lapse_window_s:g} s"
        return _failed(replace(pulse, lapses=()), clock, timing), why
    return _to(pulse, LivenessState.SUSPECT, clock), _explained(pulse, clock)


def _is_lost(pulse: DeviceLiveness, clock: float, timing: Timing) -> bool:
    gone = pulse.gone_at is not None and clock - pulse.gone_at >= timing.gone_after_s
    return gone or clock - pulse.heard_at >= timing.failed_after_s


def _failed(pulse: DeviceLiveness, clock: float, timing: Timing) -> DeviceLiveness:
    forgiven = clock - pulse.failed_at >= timing.forgiven_after_s
    failures = 1 if forgiven else pulse.failures + 1
    pulse = replace(pulse, failures=failures, failed_at=clock)
    return _to(pulse, LivenessState.FAILED, clock)


def _hold_s(pulse: DeviceLiveness, timing: Timing) -> float:
    # The exponent is bounded so that a device may fail for years.
    doubled = timing.hold_s * 2.0 ** min(pulse.failures - 1, 64)
    return min(doubled, timing.hold_max_s)


def _explained(pulse: DeviceLiveness, clock: float) -> str:
    silence = f"no heartbeat for {clock - pulse.heard_at:.1f} s"
    if pulse.gone_at is not None:
        return f"its process has ended: {pulse.why}" if pulse.why else "its process has ended"
    return pulse.why or silence


def _spell(pulse: DeviceLiveness, clock: float) -> str:
    return f"{clock - pulse.since:.1f} s"
