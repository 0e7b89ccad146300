"""Why a workflow is planned again: the reasons, and the policy of when each is acted upon."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tiermesh.errors import InvalidDocument


class ReplanReason(StrEnum):
    """A reason to plan again. Of several that are due at once, the one named first here is given."""

    OPERATOR = "operator"
    """Somebody asked for it: by name, by draining a device, or by a workflow that does not run yet."""
    DEVICE_FAILED = "device-failed"
    """A device that the running plan uses has failed, or was taken out."""
    DEVICE_RETURNED = "device-returned"
    """A device that the running plan does not use is ready: back, or new."""
    PROFILE_DRIFT = "profile-drift"
    """Batches take another time than was measured when the plan was made."""
    LOAD_CHANGE = "load-change"
    """Requests come faster or slower than the plan was made for."""
    SLO_MISSED = "slo-missed"
    """More requests miss the latency SLO than its error budget allows, and nothing above explains it."""
    VARIANT_ADDED = "variant-added"
    """A profile of a variant is there that the running plan could not choose from."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A ratio's hysteresis: what leaves `enter` for `sustained_s` matters until it is back within `leave`.

    Each pair is (lowest, highest) of what is normal; `leave` lies within `enter`.
    """

    enter: tuple[float, float]
    leave: tuple[float, float]
    sustained_s: float

    def __post_init__(self) -> None:
        """Refuse a band without hysteresis."""
        (low, high), (inner_low, inner_high) = self.enter, self.leave
        if not 0 <= low < inner_low <= 1 <= inner_high < high:
            raise InvalidDocument(
                f"the band {self.enter} around {self.leave} has no hysteresis",
                why="it must be that enter's low < leave's low <= 1 <= leave's high < enter's high",
            )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to act, in seconds of the coordinator's monotonic clock.

    A lost device is acted upon at once; the next ones `urgent_dwell_s` after the last replan, doubled for each
    replan that came within `calm_s` of the one before, up to `urgent_dwell_max_s`. All else waits until the mesh
    has not changed for `settle_s`, and until `dwell_s` after the last replan, doubled likewise up to `dwell_max_s`.
    While nothing can be served, there is nothing to lose by planning again: then all is urgent, and no dwell is
    longer than `down_dwell_max_s`.
    """

    urgent_dwell_s: float = 2.0
    urgent_dwell_max_s: float = 60.0
    down_dwell_max_s: float = 4.0
    settle_s: float = 2.0
    dwell_s: float = 10.0
    dwell_max_s: float = 600.0
    calm_s: float = 900.0
    drain_s: float = 15.0
    """How long whoever drains a device may take to move its work himself."""
    retry_s: float = 1.0
    """After a rollout that failed; doubled for each further one, up to `dwell_max_s`."""
    false_alarm_s: float = 30 * 86_400.0
    """While nothing changes, each test (of load, device times, attainment) says that it has so often at most."""
    drift: Band = Band(enter=(0.8, 1.15), leave=(0.9, 1.08), sustained_s=0.0)
    """Measured over predicted device time of a batch: of the plausible ratios the one nearest to 1."""
    headroom: float = 1.1
    """What is planned for is the measured load times this, or the upper end of its interval where that is more."""
    drain_backlog_s: float = 60.0
    """Once the SLO is missed, what waits is worked off within this, besides what comes."""
    unexplained_s: float = 3_600.0
    """How long devices that missed the SLO without an explanation are planned as slower than they are measured."""
    start_price_share: float = 0.02
    """The price of churn: each replica that must start counts this share of the running plan's cost."""
    contingencies: int = 4
    """The losses of single devices that are planned for ahead, those of the busiest devices; 0 for none."""
    contingency_calm_s: float = 1.0
    """They are planned for when nothing has changed for so long."""
    least_saving_share: float = 0.05
    """A plan that saves less than this share of the running one's cost never replaces it."""


DEFAULT: Final = Policy()
