"""What replanning remembers of one workflow, and what it is told. Times are seconds of a monotonic clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome
from coordinator.replanning.load import LoadEstimate
from coordinator.replanning.reasons import DEFAULT, Policy, ReplanReason
from coordinator.replanning.slo import Burn
from coordinator.telemetry.drift import Ratio


@dataclass(frozen=True, slots=True)
class DeviceMoved:
    """A device (by name) stands otherwise now. `why` says since when or because of what.

    `stale` when it is ready, and serves another generation than the one that runs; `probation` when it answers again
    after a failure, and is suspect for that; `considered` when the newest replan could have used it.
    """

    at: float
    device: str
    state: DeviceState
    why: str = ""
    stale: bool = False
    probation: bool = False
    considered: bool = False


@dataclass(frozen=True, slots=True)
class LoadMeasured:
    """What is, against what was planned for: the load, device time by replica, and the error budget that burns.

    No load, or a replica that is left out, says that nothing was measured; no burn, that the SLO is kept.
    """

    at: float
    load: LoadEstimate | None = None
    drift: Mapping[str, Ratio] = field(default_factory=dict[str, Ratio])
    burn: Burn | None = None


@dataclass(frozen=True, slots=True)
class VariantAdded:
    """A profile has come that the running plan was not made from."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wants a new plan."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class ReplanBegun:
    """A replan has begun: what comes from here on is not part of it."""

    at: float
    reason: ReplanReason


@dataclass(frozen=True, slots=True)
class ReplanFinished:
    """It has ended; `used` are the devices of the plan that runs now, by name, and `stages` those of each stage."""

    at: float
    outcome: ReplanOutcome
    used: frozenset[str]
    stages: frozenset[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class OperatorApplied:
    """An operator has rolled out a plan of his own, on the devices `used`. It stands until something happens."""

    at: float
    used: frozenset[str]
    stages: frozenset[frozenset[str]] = frozenset()


Observation: TypeAlias = (
    DeviceMoved
    | LoadMeasured
    | VariantAdded
    | Asked
    | ReplanBegun
    | ReplanFinished
    | OperatorApplied
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """There is a reason since then."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class HysteresisGauge:
    """A ratio with hysteresis. It is `out` once it was beyond the band for long enough, until it is well within.

    `told` is what was measured.
    """

    ratio: float = 1.0
    beyond_since: float | None = None
    out: bool = False
    told: Ratio | None = None


@dataclass(frozen=True, slots=True)
class ReplanPace:
    """How fast replans follow each other: when the last one ended, and how many came without a calm between."""

    ended_at: float = -math.inf
    spree: int = 0


@dataclass(frozen=True, kw_only=True)
class State:
    """Of one workflow. `used` are the devices of the running plan, by name; all triggers are by device or replica.

    `urgent` is the pace of replans for lost devices, `pace` that of all but an operator's. `stages` are the devices of
    each stage, `lost` those that do not answer; one that answers again serves what it did. `hesitant` are those that
    have been considered, and are late with their heartbeats: that they are ready again is no news. `load` and `burn`
    are as measured last.
    """

    policy: Policy = DEFAULT
    used: frozenset[str] = frozenset()
    stages: frozenset[frozenset[str]] = frozenset()
    lost: frozenset[str] = frozenset()
    failed: Mapping[str, Trigger] = field(default_factory=dict[str, Trigger])
    returned: Mapping[str, Trigger] = field(default_factory=dict[str, Trigger])
    drained: Mapping[str, Trigger] = field(default_factory=dict[str, Trigger])
    hesitant: frozenset[str] = frozenset()
    load: LoadEstimate | None = None
    drift: Mapping[str, HysteresisGauge] = field(default_factory=dict[str, HysteresisGauge])
    burn: Burn | None = None
    variants: Trigger | None = None
    asked: Trigger | None = None
    moved_at: float = -math.inf
    urgent: ReplanPace = ReplanPace()
    pace: ReplanPace = ReplanPace()
    under_way: ReplanBegun | None = None
    failures: int = 0
    retry_at: float = -math.inf

    @property
    def is_down(self) -> bool:
        """Whether nothing can be served: nothing runs yet, or each device of some stage is lost."""
        return not self.used or any(devices <= self.lost for devices in self.stages)


@dataclass(frozen=True, slots=True)
class ReplanDue:
    """A plan should be made again, for this reason."""

    reason: ReplanReason
    why: str
