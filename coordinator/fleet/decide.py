"""`decide(fleet, desired, under_way) -> instructions`: what to do next, without doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from coordinator.fleet.instructions import (
    AbortGeneration,
    CommitGeneration,
    Describe,
    Instruction,
    Measure,
    PrepareGeneration,
    Push,
    RolloutInstruction,
    StopWorkflow,
)
from coordinator.fleet.lifecycle import Phase
from coordinator.fleet.state import Device, Fleet, Rollout


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted.

    Descriptions of what was never asked, and newer ones than those that `described` knows (when each sighting was
    last asked; a clock that was set meanwhile plays no part); profiles of the `variants` of these digests, on the
    `devices` of these ids or on all; the open rollouts of `workflows` ended.
    """

    described: Mapping[str, float] | None = None
    variants: tuple[str, ...] = ()
    devices: frozenset[str] | None = None
    workflows: frozenset[str] = field(default_factory=frozenset)


def decide(
    fleet: Fleet, desired: Desired, under_way: Collection[Instruction] = ()
) -> list[Instruction]:
    """The instructions that can be carried out now and are not under way."""
    asked = frozenset(under_way)
    wanted = [
        *_describe(fleet, desired),
        *_measure(fleet, desired, [i for i in asked if isinstance(i, Measure)]),
        *(
            i
            for name in sorted(desired.workflows)
            for i in _roll_out(fleet.rollouts.get(name), asked)
        ),
    ]
    return [instruction for instruction in wanted if instruction not in asked]


def obsolete(instruction: Instruction, fleet: Fleet) -> bool:
    """Whether an instruction under way no longer serves: its rollout has been given up, or ended without it."""
    if isinstance(instruction, StopWorkflow):
        rollout = fleet.rollouts.get(instruction.workflow)
        return rollout is None or instruction.device not in rollout.phases
    if not isinstance(instruction, Push | PrepareGeneration):
        return False
    rollout = fleet.rollouts.get(instruction.workflow)
    return rollout is None or rollout.generation != instruction.generation or rollout.giving_up


def _describe(fleet: Fleet, desired: Desired) -> Iterator[Instruction]:
    former = desired.described
    if former is None:
        return
    for key, sighting in fleet.sightings.items():
        never = sighting.checked_at == 0
        if never or (sighting.device is not None and sighting.checked_at == former.get(key)):
            yield Describe(key)


def _measure(fleet: Fleet, desired: Desired, running: list[Measure]) -> Iterator[Instruction]:
    """One measurement per host at a time, and one device per class and variant; a variant on all devices first."""
    hosts = {measure.host for measure in running}
    claimed = {
        (fleet.devices[m.device].device_class, m.variant_digest)
        for m in running
        if m.device in fleet.devices
    }
    for measure in _lacking(fleet, desired):
        key = (fleet.devices[measure.device].device_class, measure.variant_digest)
        if measure.host not in hosts and key not in claimed:
            hosts.add(measure.host)
            claimed.add(key)
            yield measure


def _chosen(device: Device, desired: Desired) -> bool:
    return desired.devices is None or device.id in desired.devices


def _lacking(fleet: Fleet, desired: Desired) -> Iterator[Measure]:
    """What the ready devices may measure, in the order of the variants; also what another of a class may, too."""
    ready = [device for device in fleet.ready if _chosen(device, desired)]
    for digest in desired.variants:
        for device in ready:
            failed = digest in fleet.profile_failures.get(device.id, {})
            if not failed and fleet.profile(device, digest) is None:
                yield Measure(device.id, digest, device.host)


def unmeasured(fleet: Fleet, desired: Desired) -> list[Measure]:
    """All that is to be measured, once for each class: on the host with the fewest measurements so far."""
    of_class: dict[tuple[str, str], list[Measure]] = {}
    for measure in _lacking(fleet, desired):
        key = (fleet.devices[measure.device].device_class, measure.variant_digest)
        of_class.setdefault(key, []).append(measure)
    hosts = Counter[str]()
    found: list[Measure] = []
    for ways in of_class.values():
        measure = min(ways, key=lambda way: hosts[way.host])
        hosts[measure.host] += 1
        found.append(measure)
    return found


def _roll_out(rollout: Rollout | None, asked: frozenset[Instruction]) -> Iterator[Instruction]:
    """The next step of a rollout, for devices that are not in the middle of another step."""
    if rollout is None or rollout.outcome is not None or on_hold(rollout):
        return
    make, phases = _next_step(rollout)
    busy = {
        i.device
        for i in asked
        if isinstance(i, RolloutInstruction) and i.workflow == rollout.workflow
    }
    for device, phase in sorted(rollout.phases.items()):
        if phase in phases and device not in busy:
            yield make(device, rollout.workflow, rollout.generation)


def on_hold(rollout: Rollout) -> bool:
    """Whether devices wait for an operator.

    One that is given up is undone, and one in which devices switch goes on: two generations would serve meanwhile.
    """
    switching = Phase.COMMITTED in rollout.phases.values()
    return rollout.held and not rollout.giving_up and not switching


def held(fleet: Fleet, desired: Desired) -> bool:
    """Whether work is left that waits for an operator, so that nothing to do is not the end."""
    found = (fleet.rollouts.get(name) for name in desired.workflows)
    return any(r is not None and r.outcome is None and on_hold(r) for r in found)


def _next_step(
    rollout: Rollout,
) -> tuple[
    type[Push | PrepareGeneration | CommitGeneration | AbortGeneration | StopWorkflow],
    frozenset[Phase],
]:
    """The step that is due, and the phases of the devices that must take it.

    Nobody prepares before all have the artifacts, nobody switches before all are
    prepared, and nobody that is left out stops before all have switched.
    """
    members = set(rollout.members.values())
    if rollout.giving_up:
        return AbortGeneration, frozenset(
            {Phase.PENDING, Phase.PUSHED, Phase.PREPARED, Phase.FAILED}
        )
    if Phase.PENDING in members:
        return Push, frozenset({Phase.PENDING})
    if Phase.PUSHED in members:
        return PrepareGeneration, frozenset({Phase.PUSHED})
    if Phase.PREPARED in members:
        return CommitGeneration, frozenset({Phase.PREPARED})
    if Phase.FAILED in members:
        return AbortGeneration, frozenset({Phase.FAILED})
    return StopWorkflow, frozenset({Phase.LEAVING})
