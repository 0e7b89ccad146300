"""Planning: a problem in, a plan out, or the reason why there is none.

    check -> build (instance) -> formulate -> solve -> continuous -> cut into lanes -> assemble

`building` groups devices into the classes and sites of an `instance`, with `candidates` at the `settings` of batches
that are worth choosing from; `formulation` is the mixed-integer program over them (`relaxation` where combinations
are many, `delay`, `latency_floor` and `slo` where latency is asked, `overflow` where functions are on offer,
`failover` where a device may be lost); `requests` is how requests come, and `figures` what the replicas of a `draft`
come to under them; `margin` is what plans allow for where device times are uncertain, `draws` how far latency may
then lie, and `pricing` what other margins cost; `solver` is the one module that knows the solver. `greedy` and
`exhaustive` are the other strategies. `simulate`, `explain`, `diff`, `conflict` and `verify` answer questions about
problems and plans.

No I/O, no chance, and no clock but the one that `solver.seconds` reports: the same problem and options give the same
plan, unless a time limit ends the search first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.planning.options import Options, PlanObjective, Strategy

if TYPE_CHECKING:
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.problem import Problem

__all__ = ["Options", "PlanObjective", "Strategy", "solve"]


def solve(problem: Problem, options: Options | None = None, *, explain: bool = True) -> Plan:
    """The best plan for a problem under the options; without `explain` it is not found out why there is none.

    The solver and NumPy are imported at the first call: most commands of the coordinator need neither.

    Raises:
        InvalidDocument: the problem makes no sense.
        Infeasible: no plan meets every ask; its fields name the asks that clash.
    """
    from coordinator.planning import planner

    return planner.solve(problem, options, explain=explain)
