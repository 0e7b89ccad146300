"""When to plan again, and whether what comes out is worth rolling out: pure functions, no clock."""

from coordinator.replanning.reasons import Band, Policy, Reason

__all__ = ["Band", "Policy", "Reason"]
