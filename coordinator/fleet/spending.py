"""What a workflow costs: an hour of what serves it, and its run so far."""

from __future__ import annotations

from typing import Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Fleet, RunningPlan

_SERVING: Final = (DeviceState.READY, DeviceState.SUSPECT, DeviceState.DRAINING)


def price_per_hour(fleet: Fleet, running: RunningPlan) -> float:
    """US dollars an hour: of the devices that serve a workflow and are there, and of the traffic that was planned."""
    devices = [fleet.devices[d] for d in running.devices if d in fleet.devices]
    prices = sum(d.description.price_per_hour for d in devices if d.state in _SERVING)
    record = fleet.plans.get(running.plan)
    return prices + (record.plan.cost.network_per_hour if record is not None else 0.0)


def spent_usd(fleet: Fleet, running: RunningPlan, at: float) -> float:
    """US dollars of a run until `at` (Unix seconds): its earlier generations, and the one that serves.

    A generation costs, from its first second to its last, what its devices that are there at its end cost.
    """
    hours = max(at - running.since, 0.0) / 3_600
    return running.spent_usd + price_per_hour(fleet, running) * hours
