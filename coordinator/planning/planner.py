"""`solve`: the planner's front door."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from coordinator.planning import assemble, conflict, draws, overflow, pricing, slo
from coordinator.planning import margin as margins
from coordinator.planning.building import build
from coordinator.planning.exact import Found, search_exhaustively, search_greedily
from coordinator.planning.latency import SATURATED
from coordinator.planning.options import Options, PlanObjective, Strategy
from coordinator.planning.solver import Termination, engine_name
from coordinator.planning.spares import with_spares
from tiermesh.documents.plan import MadeFor, Margin, Plan, Predicted, Replica, Rules, Solver
from tiermesh.documents.problem import Problem
from tiermesh.errors import Infeasible, InvalidDocument

SHOWN_DEVICES: Final = 8
SETTLED: Final = 1e-8
"""How much of the objective settling may give away, relative to it."""
SMALL: Final = 32
"""Up to this many devices, links' delays are told apart even where no latency is asked."""


def solve(problem: Problem, options: Options | None = None, *, explain: bool = True) -> Plan:
    """The best plan for a problem under the options.

    Why there is none takes longer to find out than that there is none: without `explain`, nobody wants to know.

    Raises:
        InvalidDocument: the problem makes no sense.
        Infeasible: no plan meets every ask; its fields name the asks that clash.
        Stopped: by the options' `watch`.
    """
    options = options or Options()
    _refuse_endless(problem, options)
    started = time.perf_counter()
    found, latency_s = _search(problem, options)
    if found is None and not explain:
        raise Infeasible("infeasible: constraints conflict")
    if found is None:
        raise conflict.explain(problem, replace(options, watch=options.watch.for_nothing()))
    plan = _plan(found, latency_s, options, time.perf_counter() - started)
    plan = with_spares(plan, problem) if options.spares else plan
    return pricing.priced(problem, plan, options) if options.frontier else plan


def _refuse_endless(problem: Problem, options: Options) -> None:
    """Functions serve whatever is paid for."""
    if options.objective is not PlanObjective.THROUGHPUT or problem.asks.cost_per_hour_at_most:
        return
    functions = [d.name for d in problem.devices if d.serverless is not None]
    if functions:
        raise InvalidDocument(
            "the throughput is unbounded",
            why=f"{', '.join(functions)} has no capacity limit, and no cost ceiling is set",
            fix="Set `cost_per_hour_at_most`, or leave the functions out",
            path="$.asks.cost_per_hour_at_most",
        )


def _search(problem: Problem, options: Options) -> tuple[Found | None, Mapping[str, float]]:
    """What was found, and the percentiles (seconds) that it was checked to have."""
    if options.strategy is Strategy.EXHAUSTIVE:
        return search_exhaustively(problem, options), {}
    if options.strategy is Strategy.GREEDY:
        margin = margins.DeviceTimeMargin.of(problem, options)
        instance = build(problem, exclusive=options.exclusive, margin=margin)
        return search_greedily(instance, options), {}
    if problem.asks.latency_s or options.objective is PlanObjective.LATENCY:
        checked = slo.search(problem, options)
        if checked is None or margins.DeviceTimeMargin.of(problem, options) is None:
            return (checked.found, checked.latency_s) if checked is not None else (None, {})
        return checked.found, slo.check(checked.found, {}).latency_s
    delays = not _priced(problem) and len(problem.devices) <= SMALL
    found = overflow.search(problem, options, delays=delays)
    return found, slo.check(found, {}).latency_s if found is not None else {}


def _priced(problem: Problem) -> bool:
    links = (*problem.links, problem.default_link)
    paid = any(d.price_per_hour or d.serverless for d in problem.devices)
    return paid or any(x.price_per_gib for x in links)


def _plan(found: Found, latency_s: Mapping[str, float], options: Options, seconds: float) -> Plan:
    draft, problem = found.draft, found.draft.instance.problem
    replicas = assemble.replicas(draft)
    return Plan(
        workflow=problem.name,
        made_for=MadeFor(
            problem=problem.digest, workflow=problem.workflow_digest, fleet=problem.fleet_digest
        ),
        rules=Rules(
            objective=options.objective.value,
            strategy=options.strategy.value,
            exclusive=options.exclusive,
            single_variant=options.single_variant,
        ),
        solver=_proof(found, options, seconds),
        cost=assemble.cost(draft),
        predicted=_predicted(draft, latency_s, options),
        replicas=replicas,
        lanes=assemble.lanes(draft),
        warnings=_warnings(draft, problem, replicas),
        margin=_margin(draft.instance.margin, replicas),
    )


def _margin(margin: margins.DeviceTimeMargin | None, replicas: Sequence[Replica]) -> Margin | None:
    if margin is None:
        return None
    factors = margin.by_device(replicas)
    return Margin(confidence=margin.confidence, device_time_factor=factors)


def _predicted(
    draft: assemble.Draft, latency_s: Mapping[str, float], options: Options
) -> Predicted:
    """At device times as profiled, with where it may lie where the problem says how uncertain they are."""
    if not latency_s:
        return assemble.predicted(draft)
    latency_ms: dict[Any, float] = {name: seconds * 1e3 for name, seconds in latency_s.items()}
    return Predicted(
        throughput_rps=draft.instance.request_rate * draft.scale,
        accuracy=assemble.accuracy(draft),
        latency_ms=latency_ms,
        latency_interval_ms=_intervals(draft) if options.intervals else {},
    )


def _intervals(draft: assemble.Draft) -> dict[Any, tuple[float, float]]:
    problem = draft.instance.problem
    if problem.uncertainty is None or len(draft.rates()) > slo.SIMULATED:
        return {}
    return draws.intervals_ms(problem, slo.served(draft))


def objective_value(found: Found, options: Options) -> float:
    """The objective of a draft, computed from its replicas and lanes."""
    if options.objective is PlanObjective.LATENCY:
        return found.objective
    return assemble.objective(found.draft, options)


def _proof(found: Found, options: Options, seconds: float) -> Solver:
    objective = objective_value(found, options)
    bound = found.bound
    if bound is not None and options.objective in (
        PlanObjective.THROUGHPUT,
        PlanObjective.ACCURACY,
    ):
        bound = max(-bound, objective)
    elif bound is not None:
        bound = min(bound, objective)
    gap = None if bound is None else abs(objective - bound) / max(abs(objective), 1e-12)
    proved = gap is not None and gap <= options.gap + SETTLED
    stopped = "time-limit" if found.termination is not Termination.OPTIMAL else "gap-limit"
    if options.strategy is Strategy.GREEDY or found.longest_s is not None:
        proved, stopped = False, "heuristic"
    return Solver(
        name="greedy" if options.strategy is Strategy.GREEDY else engine_name(),
        status="ok" if proved else "warning",
        termination="optimal" if proved else stopped,
        objective=objective,
        bound=bound,
        gap=0.0 if gap is not None and gap < 1e-12 else gap,
        seconds=seconds,
    )


def _warnings(draft: assemble.Draft, problem: Problem, replicas: Sequence[Replica]) -> list[str]:
    warnings = prior_warnings(problem, replicas)
    full = assemble.saturated(draft, SATURATED)
    if full:
        shown = _shown(full)
        warnings.append(f"busy all of their time, so that queues grow without bound: {shown}")
    return warnings


def prior_warnings(problem: Problem, replicas: Sequence[Replica]) -> list[str]:
    """A line for each class of hardware whose published profiles replicas are planned with, instead of their own."""
    priors = {(p.stage, p.variant, p.device): p.prior for p in problem.profiles if p.prior}
    by_class: dict[str, list[str]] = {}
    for replica in replicas:
        label = priors.get((replica.stage, replica.variant, replica.device))
        if label is not None:
            by_class.setdefault(label, []).append(replica.id)
    return [
        f"prior from class {label}, not measured here: {_shown(names)}"
        for label, names in sorted(by_class.items())
    ]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_DEVICES]) + (" ..." if len(names) > SHOWN_DEVICES else "")
