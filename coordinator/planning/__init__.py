"""Planning: a problem in, a plan out, or the reason why there is none.

    check -> build (instance) -> formulate -> solve -> settle -> cut into lanes -> assemble

`instance` groups devices into classes and sites; `formulation` is the mixed-integer program over them (`relaxation`
where combinations are many, `delay` and `slo` where latency is asked, `survive` where a device may be lost);
`solver` is the one module that knows the solver. `greedy` and `exhaustive` are the other strategies. `simulate`,
`explain`, `diff`, `conflict` and `verify` answer questions about problems and plans.

No I/O, no chance, and no clock but the one that `solver.seconds` reports: the same problem and options give the same
plan, unless a time limit ends the search first.
"""

from __future__ import annotations

from coordinator.planning.options import Objective, Options, Strategy
from coordinator.planning.planner import solve

__all__ = ["Objective", "Options", "Strategy", "solve"]
