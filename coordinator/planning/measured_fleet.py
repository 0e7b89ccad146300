"""The ready devices and the profiles that a workflow can be planned with. Pure.

Named devices that are known and not ready are left out while another named one is ready. Where a device has not
measured a variant, a published profile of its class of hardware stands in, as a prior.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import structs

from coordinator.fleet.file import FleetFile
from coordinator.fleet.priors import Priors
from coordinator.fleet.state import Catalogue, Device, Fleet
from tiermesh.documents.profile import Point, Profile
from tiermesh.documents.variant import Variant
from tiermesh.documents.workflow import Model, Workflow
from tiermesh.errors import InvalidDocument, TiermeshError


@dataclass(frozen=True, slots=True)
class MeasuredFleet:
    """The ready devices, and what is known of serving a workflow on them.

    `measured` are the usable profiles by (stage, variant) and device; `refused` says by stage why others are not.
    Where nothing was measured, a prior stands there; `priors` has the label of its class by (stage, variant, device).
    `workflow` names none of the devices that are lost, where it names others.
    """

    workflow: Workflow
    catalogue: Catalogue
    network: FleetFile
    devices: list[Device]
    measured: dict[tuple[str, str], dict[str, Profile]]
    refused: dict[str, list[str]]
    priors: dict[tuple[str, str, str], str]

    def of_stage(self, name: str) -> dict[str, list[Profile]]:
        """The profiles of a stage, by variant; variants that were measured nowhere are left out."""
        return {
            variant: list(by_device.values())
            for (stage, variant), by_device in self.measured.items()
            if stage == name and by_device
        }


def measured_fleet(
    fleet: Fleet, workflow: Workflow, catalogue: Catalogue, network: FleetFile
) -> MeasuredFleet:
    """What there is to plan a workflow with.

    Raises:
        TiermeshError: no device is ready.
        InvalidDocument: a device's tier is not in the fleet file, or the workflow names a variant that there is not.
    """
    devices = fleet.ready
    if not devices:
        raise TiermeshError(
            "no device is ready", why=_why_none(fleet), fix="Run: coordinator devices"
        )
    for device in devices:
        _check_tier(device, network)
    measured: dict[tuple[str, str], dict[str, Profile]] = {}
    refused: dict[str, list[str]] = {}
    labels: dict[tuple[str, str, str], str] = {}
    known = Priors(fleet)
    for stage, variant in _offered(workflow, catalogue):
        by_device = measured.setdefault((stage, variant.name), {})
        digest = variant.digest
        for device in devices:
            profile = fleet.profile(device, digest)
            prior = known.of(device, digest) if profile is None else None
            if prior is not None:
                profile = prior.profile
                labels[stage, variant.name, device.name] = prior.hardware.label
            if profile is None:
                continue
            if profile.cannot_run is not None or not points_of(profile, device):
                why = profile.cannot_run or "it was not measured with the device's thread count"
                refused.setdefault(stage, []).append(f"{variant.name} on {device.name}: {why}")
            else:
                by_device[device.name] = profile
    there = _narrowed(workflow, fleet)
    return MeasuredFleet(there, catalogue, network, devices, measured, refused, labels)


def _narrowed(workflow: Workflow, fleet: Fleet) -> Workflow:
    """The workflow on those of its named devices that are ready: one camera that is lost must not stop the others.

    A stage whose named devices are all lost keeps them, and is refused by name.
    """
    lost = {device.name for device in fleet.devices.values()} - {d.name for d in fleet.ready}
    stages = {
        name: structs.replace(
            stage, devices=[d for d in stage.devices if d not in lost] or stage.devices
        )
        for name, stage in workflow.stages.items()
    }
    return structs.replace(workflow, stages=stages)


def _why_none(fleet: Fleet) -> str:
    states = [f"{d.name} is {d.state}" for d in fleet.devices.values()]
    return ", ".join(states[:10]) or "none was discovered"


def _check_tier(device: Device, network: FleetFile) -> None:
    if device.description.tier not in network.tiers:
        raise InvalidDocument(
            f"the tier `{device.description.tier}` of {device.name} has no place among the tiers",
            why=f"known, lowest first: {', '.join(network.tiers)}",
            fix="List all tiers in order in the fleet file: `tiers: [edge, hub, cloud]`",
            path="$.tiers",
        )


def _offered(workflow: Workflow, catalogue: Catalogue) -> Iterable[tuple[str, Variant]]:
    """The variants of each model stage that the workflow allows."""
    for name, stage in workflow.stages.items():
        if not isinstance(stage, Model):
            continue
        there = catalogue.variants.get(name, {})
        unknown = [v for v in stage.variants if v not in there]
        if unknown or not there:
            raise InvalidDocument(
                f"the model `{stage.model}` has no variant `{', '.join(unknown)}`"
                if unknown
                else f"no variant of the model `{stage.model}` is fetched",
                why=f"there are: {', '.join(there)}" if there else "none is fetched",
                fix="See: coordinator variants list"
                if there
                else "Run: coordinator variants fetch",
                path=f"$.stages.{name}.variants",
            )
        for variant in there.values():
            if not stage.variants or variant.name in stage.variants:
                yield name, variant


def points_of(profile: Profile, device: Device) -> list[Point]:
    """What was measured with the device's thread count, the smallest batches first."""
    threads = device.description.fingerprint.threads
    points = {p.batch_size: p for p in profile.points if p.threads == threads}
    return [points[size] for size in sorted(points)]
