"""When to plan again, and whether what comes out is worth rolling out: pure functions, no clock.

`observe(observation, state)` is the only way the state changes; `decide(state, now)` says whether a replan is due,
and for which reason; `worth(problem, running, found, policy)` whether the new plan replaces the running one.
"""

from coordinator.replanning.decide import decide, next_due
from coordinator.replanning.observe import observe, overtaken
from coordinator.replanning.reasons import DEFAULT, Band, Policy, ReplanReason
from coordinator.replanning.state import ReplanDue, State

__all__ = [
    "DEFAULT",
    "Band",
    "Policy",
    "ReplanDue",
    "ReplanReason",
    "State",
    "decide",
    "next_due",
    "observe",
    "overtaken",
]
