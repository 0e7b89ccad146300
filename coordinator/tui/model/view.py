"""All that the screens show from, in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from coordinator.fleet import Fleet
from coordinator.fleet.state import Device
from coordinator.progress import Progress
from coordinator.telemetry.recent import RecentTelemetry

if TYPE_CHECKING:
    from coordinator.journal.store import Entry
    from coordinator.telemetry.status import WorkflowStatus

TIERS: Final = ("edge", "hub", "datacenter", "cloud")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The mesh as it was last heard of. `now` is in Unix seconds; `doing` says what is being done, if something is.

    `refusal` says why nothing can be changed from here; empty where it can. `ended` is what was last done, and how
    it ended.
    """

    fleet: Fleet = field(default_factory=Fleet)
    telemetry: RecentTelemetry = field(default_factory=RecentTelemetry)
    journal: Sequence[Entry] = ()
    progress: Mapping[tuple[str, str], Progress] = field(
        default_factory=dict[tuple[str, str], Progress]
    )
    tiers: Sequence[str] = TIERS
    title: str = ""
    refusal: str = ""
    doing: str = ""
    wanted: str | None = None
    now: float = 0.0
    _statuses: dict[str, WorkflowStatus | None] = field(
        init=False, repr=False, compare=False, default_factory=dict[str, "WorkflowStatus | None"]
    )

    def at(self, now: float) -> View:
        """The same, seen at another time."""
        return replace(self, now=now)

    @property
    def workflow(self) -> str | None:
        """The workflow that is shown: the one that is wanted, else the first that runs, else the last planned."""
        running = sorted(self.fleet.running)
        known = {
            *running,
            *self.fleet.rollouts,
            *(p.plan.workflow for p in self.fleet.plans.values()),
        }
        if self.wanted in known:
            return self.wanted
        if running:
            return running[0]
        newest = max(self.fleet.plans.values(), key=lambda p: p.made_at, default=None)
        return newest.plan.workflow if newest is not None else None

    def tier_order(self, tier: str) -> tuple[int, str]:
        """Sorts tiers, lowest first; those that the fleet file does not name come last."""
        order = list(self.tiers)
        return (order.index(tier) if tier in order else len(order), tier)

    def ordered(self) -> list[Device]:
        """All devices, by tier and name."""
        return sorted(
            self.fleet.devices.values(),
            key=lambda d: (self.tier_order(d.description.tier), d.name),
        )

    def status(self, workflow: str | None = None) -> WorkflowStatus | None:
        """What a workflow does, measured against its plan; None where it does not run. Computed once per view."""
        name = workflow or self.workflow
        if name is None:
            return None
        if name not in self._statuses:
            self._statuses[name] = self._status(name)
        return self._statuses[name]

    def _status(self, name: str) -> WorkflowStatus | None:
        running = self.fleet.running.get(name)
        if running is None or running.plan not in self.fleet.plans:
            return None
        from coordinator.telemetry.status import status_of

        devices = running.devices
        ends, silent = self.telemetry.ends(devices), self.telemetry.silent(devices)
        return status_of(name, self.fleet, ends, silent, self.now)
