"""What must hold of every state. Tests check it after every event."""

from __future__ import annotations

import re
from collections.abc import Iterator

from coordinator.fleet.lifecycle import DeviceState, Phase
from coordinator.fleet.state import Fleet, Rollout
from tiermesh import ids


def validate(fleet: Fleet) -> None:
    """Raise AssertionError with every invariant that does not hold."""
    broken = [*_devices(fleet), *_profiles(fleet), *_plans(fleet)]
    for workflow, rollout in fleet.rollouts.items():
        broken += [f"rollout of {workflow}: {text}" for text in _rollout(workflow, rollout, fleet)]
    if broken:
        raise AssertionError("; ".join(broken))


def _devices(fleet: Fleet) -> Iterator[str]:
    names = [device.name for device in fleet.devices.values()]
    if len(set(names)) != len(names):
        yield f"names are not unique: {sorted(names)}"
    for key, device in fleet.devices.items():
        if key != device.id:
            yield f"device {device.id} is filed under {key}"
        if not re.fullmatch(ids.NAME_PATTERN, device.name):
            yield f"device {key} has the name {device.name!r}"
        if device.state in (DeviceState.SUSPECT, DeviceState.FAILED) and not device.why:
            yield f"device {key} is {device.state} without a reason"
        if device.state is DeviceState.READY and device.why:
            yield f"device {key} is ready, and has the reason {device.why!r}"
    for key, sighting in fleet.sightings.items():
        if sighting.device is not None and sighting.device not in fleet.devices:
            yield f"sighting {key} leads to {sighting.device}, which is unknown"


def _profiles(fleet: Fleet) -> Iterator[str]:
    for device_class, profiles in fleet.profiles.items():
        for digest, profile in profiles.items():
            if (profile.device_class, profile.variant_digest) != (device_class, digest):
                yield f"the profile of {profile.model}/{profile.variant} is filed wrongly"

    for hardware, priors in fleet.priors.items():
        for digest, prior in priors.items():
            if (prior.hardware.digest, prior.profile.variant_digest) != (hardware, digest):
                yield f"the prior of {prior.profile.model}/{prior.profile.variant} is filed wrongly"


def _plans(fleet: Fleet) -> Iterator[str]:
    for digest, record in fleet.plans.items():
        if record.plan.digest != digest:
            yield f"plan {record.plan.digest} is filed under {digest}"
    for workflow, running in fleet.running.items():
        if running.generation > fleet.generations.get(workflow, 0):
            yield f"{workflow} runs generation {running.generation}, which was never given out"
        if not running.devices:
            yield f"{workflow} runs on no device"
    for workflow, way in fleet.way_back.items():
        generations = [r.generation for r in way]
        if generations != sorted(set(generations)):
            yield f"the way back of {workflow} is not in order: {generations}"


def _rollout(workflow: str, rollout: Rollout, fleet: Fleet) -> Iterator[str]:
    phases = set(rollout.phases.values())
    if rollout.workflow != workflow:
        yield f"it is of {rollout.workflow}"
    if rollout.generation > fleet.generations.get(workflow, 0):
        yield f"generation {rollout.generation} was never given out"
    if Phase.COMMITTED in phases and phases & {Phase.PENDING, Phase.PUSHED}:
        yield "a device has switched while another is not prepared"
    if Phase.STOPPED in phases and phases & {Phase.PENDING, Phase.PUSHED, Phase.PREPARED}:
        yield "a device has stopped while another has not switched"
    open_phases = {Phase.PENDING, Phase.PUSHED, Phase.PREPARED, Phase.FAILED}
    if rollout.outcome is not None and phases & open_phases:
        yield f"it ended {rollout.outcome}, with work left: {rollout.phases}"
