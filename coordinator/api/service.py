"""The service: every call of the API on one mesh, whether it comes over the socket or from this process."""

from __future__ import annotations

from coordinator.api.handlers.devices import DeviceHandlers
from coordinator.api.handlers.models import ModelHandlers
from coordinator.api.handlers.plans import PlanHandlers
from coordinator.api.handlers.rollouts import RolloutHandlers
from coordinator.api.handlers.runs import RunHandlers


class CoordinatorService(DeviceHandlers, ModelHandlers, PlanHandlers, RolloutHandlers, RunHandlers):
    """Every call of `coordinator.proto` as a method of its name in snake case; errors are TiermeshErrors.

    A call that streams is an async generator: closing it ends the work, and what had been begun is undone first.
    """
