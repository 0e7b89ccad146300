"""What can happen to the mesh. The journal is a list of these; the state is what they add up to.

Each carries when (`at`, Unix seconds) and who: an operator's user name, or a device id.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from coordinator.fleet.lifecycle import Reach, ReplanOutcome
from coordinator.fleet.state import Catalogue, Description, Inputs, Purpose
from tiermesh.documents.plan import Plan
from tiermesh.documents.profile import Profile
from tiermesh.documents.published import PublishedProfile


def kind_of(event: type) -> str:
    """The name of a kind of event, as the journal and the command line write it."""
    return _kebab(event.__name__)


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Happening(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=_kebab):
    """Base of all events."""

    at: float
    who: str

    @property
    def kind(self) -> str:
        """The event's name, as the journal and the command line write it."""
        return kind_of(type(self))

    @property
    def subject(self) -> str:
        """The device or workflow that it is about, for filters."""
        for field in ("device", "workflow", "sighting"):
            value = getattr(self, field, "")
            if value:
                return str(value)
        return ""


class DeviceDiscovered(Happening, frozen=True, kw_only=True):
    """Something said, or someone wrote, that a device is at these addresses."""

    sighting: str
    addresses: list[str]
    via: str


class Unreached(msgspec.Struct, frozen=True):
    """Why one address of a sighting did not lead to a device."""

    address: str
    reach: Reach
    detail: str = ""


class DeviceUnreachable(Happening, frozen=True, kw_only=True):
    """None of a sighting's addresses led to a device."""

    sighting: str
    reasons: list[Unreached]


class DeviceDescribed(Happening, frozen=True, kw_only=True):
    """A device answered with its description. `name` is what it calls itself."""

    sighting: str
    address: str
    device: str
    name: str
    description: Description


class DeviceLost(Happening, frozen=True, kw_only=True):
    """A device that was there stopped answering."""

    device: str
    why: str


class DeviceFailed(Happening, frozen=True, kw_only=True):
    """A device is given up; once it answers again, it is not ready for `hold_s` seconds."""

    device: str
    why: str
    hold_s: float = 0.0


class DeviceHeld(Happening, frozen=True, kw_only=True):
    """A device that had failed answers again, and is ready if it still does in `hold_s` seconds."""

    device: str
    why: str
    hold_s: float


class DeviceReturned(Happening, frozen=True, kw_only=True):
    """A device that was suspect or held is ready again."""

    device: str
    why: str


class DeviceLeft(Happening, frozen=True, kw_only=True):
    """An operator took a device out of the mesh."""

    device: str
    why: str = ""


class DeviceDraining(Happening, frozen=True, kw_only=True):
    """An operator wants no work on a device: it is left out of plans from now on."""

    device: str
    why: str = ""


class DrainUndone(Happening, frozen=True, kw_only=True):
    """A device that was draining may be planned for again; `why` is set where draining it failed."""

    device: str
    why: str = ""


class ProfileMeasured(Happening, frozen=True, kw_only=True):
    """A device measured a variant, or found that it cannot run it: the `number`-th of `total`.

    The others are expected to take `left_s` seconds more; None where that is not known.
    """

    device: str
    profile: Profile
    number: int = 0
    total: int = 0
    left_s: float | None = None


class ProfileFailed(Happening, frozen=True, kw_only=True):
    """A measurement did not come to an end; nothing is known of the variant there."""

    device: str
    model: str
    variant: str
    variant_digest: str
    why: str


class ProfileDropped(Happening, frozen=True, kw_only=True):
    """An operator wants a variant measured again on a class of devices."""

    device_class: str
    variant_digest: str


class PriorImported(Happening, frozen=True, kw_only=True):
    """A published profile was brought in, for devices of its class that measure nothing themselves."""

    published: PublishedProfile


class WorkflowRecorded(Happening, frozen=True, kw_only=True):
    """A workflow file, kept so that a plan that names its digest can be applied alone."""

    workflow: str
    digest: str
    text: str
    folder: str


class WorkflowRemoved(Happening, frozen=True, kw_only=True):
    """A workflow that does not run is known no longer, in no version."""

    workflow: str


class PlanMade(Happening, frozen=True, kw_only=True):
    """A plan was computed; `inputs` is what of the fleet it was computed from."""

    workflow: str
    plan: Plan
    inputs: Inputs


class ReplanStarted(Happening, frozen=True, kw_only=True):
    """There is a reason to plan again. `before` is the digest of the plan that runs, of `generation`."""

    workflow: str
    reason: str
    why: str
    before: str = ""
    generation: int = 0


class ReplanEnded(Happening, frozen=True, kw_only=True):
    """How a replan ended, and `text` why so. `after` is the digest of the plan that was found, if one was.

    `generation` is the one that serves from then on.
    """

    workflow: str
    reason: str
    why: str
    outcome: ReplanOutcome
    text: str
    before: str = ""
    after: str = ""
    generation: int = 0


class PredictionCorrected(Happening, frozen=True, kw_only=True):
    """What a generation is expected to do with device times as they are measured; latencies in milliseconds."""

    workflow: str
    generation: int
    latency_ms: dict[str, float]
    text: str
    latency_interval_ms: dict[str, tuple[float, float]] = {}
    """Where they lie with 90 % probability, where that is known."""


class RolloutStarted(Happening, frozen=True, kw_only=True):
    """A plan goes to `devices`; `leaving` are those of the last plan that this one leaves out."""

    workflow: str
    generation: int
    plan: str
    workflow_digest: str
    run: str
    purpose: Purpose
    catalogue: Catalogue
    devices: list[str]
    leaving: list[str] = []


class _RolloutStep(Happening, frozen=True, kw_only=True):
    workflow: str
    generation: int
    device: str


class ArtifactsPushed(_RolloutStep, frozen=True, kw_only=True):
    """A device has every artifact of its assignment: what lacked was sent from here or fetched from peers, by name."""

    sent_bytes: int = 0
    fetched_bytes: dict[str, int] = {}


class RolloutPrepared(_RolloutStep, frozen=True, kw_only=True):
    """A device has loaded, warmed and tested its replicas."""


class RolloutCommitted(_RolloutStep, frozen=True, kw_only=True):
    """A device serves the generation."""


class RolloutFailed(_RolloutStep, frozen=True, kw_only=True):
    """A device could not take a step of the rollout."""

    step: str
    failure: dict[str, str]


class RolloutAborted(_RolloutStep, frozen=True, kw_only=True):
    """A device forgot the generation; `why` is set when it could not be told."""

    why: str = ""


class RolloutStopped(_RolloutStep, frozen=True, kw_only=True):
    """A device stopped serving the workflow; `why` is set when it could not be told."""

    why: str = ""


class RolloutCancelled(Happening, frozen=True, kw_only=True):
    """An operator gave the rollout up, or the coordinator ended in the middle of it."""

    workflow: str
    generation: int
    why: str


class RolloutHeld(Happening, frozen=True, kw_only=True):
    """An operator lets no device begin another step of the rollout (`hold`), or lets them go on."""

    workflow: str
    generation: int
    hold: bool


class _Reported(Happening, frozen=True, kw_only=True):
    """What a device reports has a `number` since the start of its agent, which `boot` names."""

    device: str
    boot: str = ""
    number: int = 0


class WorkerRestarted(_Reported, frozen=True, kw_only=True):
    """A device's worker ended and was started again."""

    text: str


class DeviceNoted(_Reported, frozen=True, kw_only=True):
    """A device reported something else that people should see."""

    note: str
    text: str


class SloVerdict(Happening, frozen=True, kw_only=True):
    """Whether a workflow keeps its SLO has changed: `verdict` is met, at-risk or missed, and `why` the reason.

    `causes` are what is measured to be otherwise than planned, in a sentence each, the most harmful first.
    """

    workflow: str
    generation: int
    verdict: str
    before: str
    why: str
    causes: list[str] = []


class OperatorNoted(Happening, frozen=True, kw_only=True):
    """What an operator did or wrote, for the audit."""

    text: str


Event: TypeAlias = (
    DeviceDiscovered
    | DeviceUnreachable
    | DeviceDescribed
    | DeviceLost
    | DeviceFailed
    | DeviceHeld
    | DeviceReturned
    | DeviceLeft
    | DeviceDraining
    | DrainUndone
    | ProfileMeasured
    | PriorImported
    | ProfileFailed
    | ProfileDropped
    | WorkflowRecorded
    | WorkflowRemoved
    | PlanMade
    | ReplanStarted
    | ReplanEnded
    | PredictionCorrected
    | RolloutStarted
    | ArtifactsPushed
    | RolloutPrepared
    | RolloutCommitted
    | RolloutFailed
    | RolloutAborted
    | RolloutStopped
    | RolloutCancelled
    | RolloutHeld
    | WorkerRestarted
    | DeviceNoted
    | SloVerdict
    | OperatorNoted
)
