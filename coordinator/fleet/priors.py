"""Priors: published profiles, for devices that have not measured a variant themselves. Pure.

A prior is used where nothing was measured, for a device of the same class of hardware, and never counts as measured:
the device still measures when it can, and what it measures takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from coordinator.fleet.profile_text import is_disturbed
from tiermesh.documents.profile import Profile
from tiermesh.documents.published import HardwareClass, PublishedProfile, hardware_class, publish

if TYPE_CHECKING:
    from coordinator.fleet.state import Device, Fleet

BETWEEN_DEVICES: Final = 0.25
"""Standard deviation of the logarithm of one device's speed over that of another with the same processor. How far they
lie apart was not measured, so it is as for a mean of which no interval is known: wide enough for another cooling,
another generation behind the same name, and neighbours on a shared machine."""


class Priors:
    """The priors of a fleet, by device and variant; what is asked of equal devices is worked out once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._classes: dict[str, list[HardwareClass]] = {}

    def of(self, device: Device, variant_digest: str) -> PublishedProfile | None:
        """The prior for a variant that no device of this device's class has measured; None where there is none."""
        if not self._fleet.priors or self._fleet.profile(device, variant_digest) is not None:
            return None
        for hardware in self._of(device):
            found = self._fleet.priors.get(hardware.digest, {}).get(variant_digest)
            if found is not None:
                return found
        return None

    def _of(self, device: Device) -> list[HardwareClass]:
        """The device's classes that have priors, one for each of its runtimes."""
        if device.device_class not in self._classes:
            print_ = device.description.fingerprint
            classes = [hardware_class(print_, runtime.name) for runtime in print_.runtimes]
            self._classes[device.device_class] = [c for c in classes if c is not None]
        return self._classes[device.device_class]


def is_fresh(fleet: Fleet, published: PublishedProfile) -> bool:
    """Whether no prior is known of its class and variant, or an older one."""
    of_class = fleet.priors.get(published.hardware.digest, {})
    known = of_class.get(published.profile.variant_digest)
    return known is None or known.profile.measured_at < published.profile.measured_at


def exported(
    fleet: Fleet, model: str = "", variant: str = "", only: Device | None = None
) -> list[PublishedProfile]:
    """What the fleet measured, ready to be published: of a model, a variant or a device's class, where these are given.

    Left out are emulated devices, measurements that other processes disturbed, and what devices cannot run. Of several
    devices of a class that measured a variant, the least disturbed counts, and then the newest.
    """
    found: dict[tuple[str, str], PublishedProfile] = {}
    for profile, hardware in _measured(fleet):
        if (model and profile.model != model) or (variant and profile.variant != variant):
            continue
        if only is not None and profile.device_class != only.device_class:
            continue
        key = (hardware.digest, profile.variant_digest)
        if key not in found or _worth(found[key].profile) < _worth(profile):
            found[key] = publish(profile, hardware)
    return sorted(
        found.values(), key=lambda p: (p.hardware.folder, p.profile.model, p.profile.variant)
    )


def _measured(fleet: Fleet) -> Iterable[tuple[Profile, HardwareClass]]:
    """The profiles of real devices that are known, with their classes of hardware."""
    prints = {d.device_class: d.description.fingerprint for d in fleet.devices.values()}
    for device_class, profiles in fleet.profiles.items():
        for profile in profiles.values():
            print_ = prints.get(device_class)
            if print_ is None or profile.emulated is not None or is_disturbed(profile):
                continue
            hardware = hardware_class(print_, profile.runtime)
            # A profile of another version of the runtime is of another class than the device is now.
            if hardware is None or hardware.runtime_version != profile.runtime_version:
                continue
            if any(point.threads == hardware.threads for point in profile.points):
                yield profile, hardware


def _worth(profile: Profile) -> tuple[float, str]:
    disturbed = 1.0 if profile.disturbed is None else profile.disturbed
    return -disturbed, profile.measured_at
