"""What a profile says, in words: how fast, how well that is known, and whether the machine was disturbed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tiermesh.documents.profile import Profile

if TYPE_CHECKING:
    from coordinator.fleet.state import Device, Fleet

DISTURBED: Final = 0.1
"""Where others took more of the processor time, a profile may be too slow for an undisturbed device."""


def is_disturbed(profile: Profile) -> bool:
    """Whether others took so much processor time that people should know."""
    return profile.disturbed is not None and profile.disturbed > DISTURBED


def disturbed_share(fleet: Fleet, device: Device) -> float | None:
    """The most that others took of the CPU time of a measurement on this very device; None where it made none."""
    shares = [
        profile.disturbed
        for profile in fleet.profiles.get(device.device_class, {}).values()
        if profile.device == device.id and profile.disturbed is not None
    ]
    return max(shares, default=None)


def disturbance(profile: Profile) -> str:
    """What others took, such as ``23 % of CPU time taken by other processes``; empty where that is little."""
    if not is_disturbed(profile):
        return ""
    return f"{100 * (profile.disturbed or 0.0):.0f} % of CPU time taken by other processes"


def summary(profile: Profile) -> str:
    """A profile in a line: the time of the smallest batch that was measured, and what casts doubt on it."""
    if profile.cannot_run:
        return f"cannot run: {profile.cannot_run}"
    words = "measured"
    if profile.points:
        point = min(profile.points, key=lambda p: (p.threads, p.batch_size))
        batch = "" if point.batch_size == 1 else f"batch of {point.batch_size}, "
        words += f", {batch}{1e3 * point.seconds.mean:.3g} ms ± {100 * point.interval:.0f} %"
    disturbed = disturbance(profile)
    return words + (f" (disturbed: {disturbed})" if disturbed else "")
