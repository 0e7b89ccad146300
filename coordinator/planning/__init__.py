"""Planning: a problem in, a plan out, or the reason why there is none.

No I/O, no clock but the one that `solver.seconds` reports, no chance: the same problem and options give the same plan.
"""

from __future__ import annotations

from coordinator.planning.options import Objective, Options, Strategy
from coordinator.planning.planner import solve

__all__ = ["Objective", "Options", "Strategy", "solve"]
