"""What the coordinator knows of the mesh and what follows from it: pure functions, no clock.

`apply(event, fleet)` is the only way the state changes; `decide(fleet, desired, under_way)` says
what to do next.
"""

from coordinator.fleet.apply import apply, is_news, replay
from coordinator.fleet.decide import Desired, decide, held, obsolete, unmeasured
from coordinator.fleet.state import Fleet
from coordinator.fleet.validate import validate

__all__ = [
    "Desired",
    "Fleet",
    "apply",
    "decide",
    "held",
    "is_news",
    "obsolete",
    "replay",
    "unmeasured",
    "validate",
]
