"""The state of the mesh as the coordinator knows it. Immutable; JSON-serialisable for snapshots."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from coordinator.fleet.lifecycle import DeviceState, Phase, ReplanOutcome, RolloutOutcome
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.plan import Plan
from tiermesh.documents.profile import Profile
from tiermesh.documents.published import PublishedProfile
from tiermesh.documents.variant import Artifact, Bundle, Variant

Inputs: TypeAlias = dict[str, dict[str, str | float | int | None]]
"""What a plan was computed from, by name: ``{"device cam-1": {"price_per_hour": 0.1}}``."""

Purpose: TypeAlias = Literal["apply", "rollback", "restore"]
"""A restore goes on without the devices that fail; the others are undone when one does."""
WAY_BACK: Final = 16
"""Generations that a workflow can be rolled back through."""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a device says of itself. `usable_share` is 0 to 1, the price in US dollars per hour."""

    agent_version: str
    protocol_version: int
    tier: str
    price_per_hour: float
    usable_share: float
    data_address: str
    fingerprint: Fingerprint
    generations: dict[str, int] = {}


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A way to a device. `failures` says, per address, why it did not lead there the last time."""

    addresses: list[str]
    via: str
    checked_at: float = 0.0
    device: str | None = None
    failures: list[str] = []


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device that has described itself. `name` is unique in the mesh and fit for a plan file.

    Profiles hold for a `device_class`, the digest of all in the fingerprint that decides speed.
    """

    id: str
    name: str
    state: DeviceState
    address: str
    device_class: str
    description: Description
    seen_at: float
    why: str = ""
    held_until: float = 0.0
    """It has failed, and what it says of itself makes it ready only from then on."""
    hold_s: float = 0.0
    noted_boot: str = ""
    noted_number: int = 0
    """The newest event that it reported: the start of its agent, and the event's number since then."""

    def is_held(self, at: float) -> bool:
        """Whether it is too early after a failure to take it for ready; `at` in Unix seconds.

        Without a coordinator that listens, it is ready at the first contact after that. Where the clock was set back
        meanwhile, it is not held any longer, rather than until the former time comes again.
        """
        is_time = self.held_until - self.hold_s <= at < self.held_until
        return is_time and self.state is not DeviceState.READY

    @property
    def is_on_probation(self) -> bool:
        """Whether it failed, answers again, and has yet to prove that it stays."""
        return self.state is DeviceState.SUSPECT and self.held_until > 0

    @property
    def host(self) -> str:
        """Equal for devices that share a machine."""
        return self.description.fingerprint.host


class WorkflowSource(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow file as it was written, and the folder that its paths are relative to."""

    name: str
    text: str
    folder: str


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A plan and what it was computed from."""

    plan: Plan
    inputs: Inputs
    made_at: float


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """What a workflow's stages can be served with: variants by stage and name, bundles by stage."""

    variants: dict[str, dict[str, Variant]] = {}
    bundles: dict[str, Bundle] = {}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """All that may have to be pushed, by digest."""
        of_variants = [a for vs in self.variants.values() for v in vs.values() for a in v.artifacts]
        return {a.digest: a for a in [*of_variants, *(b.artifact for b in self.bundles.values())]}


class RunningPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What serves a workflow now. `devices` are ids; `spent_usd` is what earlier generations of the run came to."""

    plan: str
    workflow_digest: str
    generation: int
    run: str
    catalogue: Catalogue
    devices: list[str]
    since: float
    spent_usd: float = 0.0


class ReplanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The newest replan of a workflow; without an `outcome` it is under way. See `events.ReplanEnded`."""

    reason: str
    why: str
    at: float
    outcome: ReplanOutcome | None = None
    text: str = ""
    before: str = ""
    after: str = ""
    generation: int = 0


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is expected to do now. See `events.PredictionCorrected`."""

    at: float
    generation: int
    latency_ms: dict[str, float]
    text: str
    latency_interval_ms: dict[str, tuple[float, float]] = {}


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How a workflow was last seen to keep its SLO, and why. See `events.SloVerdict`."""

    at: float
    verdict: str
    causes: list[str] = []


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The newest rollout of a workflow. It is open until it has an outcome."""

    workflow: str
    generation: int
    plan: str
    workflow_digest: str
    run: str
    purpose: Purpose
    catalogue: Catalogue
    phases: dict[str, Phase]
    failures: dict[str, str] = {}
    cancelled: str = ""
    held: bool = False
    """No device begins another step until it is let go on."""
    outcome: RolloutOutcome | None = None

    @property
    def members(self) -> dict[str, Phase]:
        """The phases of the devices that the plan uses."""
        leaving = (Phase.LEAVING, Phase.STOPPED)
        return {device: phase for device, phase in self.phases.items() if phase not in leaving}

    @property
    def giving_up(self) -> bool:
        """Whether the devices that have not switched must forget it."""
        failed = Phase.FAILED in self.phases.values() or Phase.ABORTED in self.phases.values()
        return bool(self.cancelled) or (failed and self.purpose != "restore")


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    `profiles` are by device class and variant digest; `profile_failures` by device and digest. `priors` are published
    profiles by class of hardware and variant digest, and never count as measured. `way_back` is what served each
    workflow before what runs, oldest first: a rollback goes one back, and what it left is off the way.
    """

    sightings: dict[str, Sighting] = {}
    devices: dict[str, Device] = {}
    profiles: dict[str, dict[str, Profile]] = {}
    priors: dict[str, dict[str, PublishedProfile]] = {}
    profile_failures: dict[str, dict[str, str]] = {}
    workflows: dict[str, WorkflowSource] = {}
    plans: dict[str, PlanRecord] = {}
    generations: dict[str, int] = {}
    rollouts: dict[str, Rollout] = {}
    running: dict[str, RunningPlan] = {}
    way_back: dict[str, list[RunningPlan]] = {}
    replans: dict[str, ReplanRecord] = {}
    expected: dict[str, Prediction] = {}
    """By workflow, the prediction as it was corrected last; it holds for its generation only."""
    judged: dict[str, Judged] = {}

    @property
    def ready(self) -> list[Device]:
        """The devices that can be planned for, by name."""
        ready = (d for d in self.devices.values() if d.state is DeviceState.READY)
        return sorted(ready, key=lambda device: device.name)

    def named(self, name: str) -> Device | None:
        """The device of that name or id."""
        by_id = self.devices.get(name)
        return by_id or next((d for d in self.devices.values() if d.name == name), None)

    def profile(self, device: Device, variant_digest: str) -> Profile | None:
        """The profile that holds for a variant on a device."""
        return self.profiles.get(device.device_class, {}).get(variant_digest)

    def next_generation(self, workflow: str) -> int:
        """One more than any generation that the journal or a device knows."""
        on_devices = (d.description.generations.get(workflow, 0) for d in self.devices.values())
        return 1 + max([self.generations.get(workflow, 0), *on_devices])
