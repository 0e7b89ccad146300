"""Plans with functions: base load on devices, and what they cannot serve as cheaply on a provider's servers.

In the program an item has one price wherever its requests come from. A function's true price depends on the share that
it gets, since that decides how full its batches are. So the program is solved with the least price that an item could
ever have, whose optimum bounds every plan; then with the price at the share that came out, until the two agree. What a
plan costs is always computed from its own shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from coordinator.planning import assemble, exact, failover
from coordinator.planning.building import build
from coordinator.planning.candidates import Choosing
from coordinator.planning.draft import Draft
from coordinator.planning.exact import Found
from coordinator.planning.instance import Instance
from coordinator.planning.margin import DeviceTimeMargin
from coordinator.planning.options import Options, PlanObjective
from tiermesh.documents.problem import Problem

ROUNDS: Final = 4
AGREE: Final = 0.02
"""Shares this near to those that prices were computed for are taken to agree."""


def search(problem: Problem, options: Options, *, delays: bool = False) -> Found | None:
    """The best plan, latency aside; None where there is none, or none was found."""
    made = partial(
        build,
        problem,
        exclusive=options.exclusive,
        delays=delays,
        margin=DeviceTimeMargin.of(problem, options),
    )
    instance = made(choosing=Choosing(floor=True))
    watch = options.watch
    if instance.serverless:
        options = replace(options, watch=watch.for_bounds())
    loose = _search(instance, options)
    if loose is None or not shares_of(loose.draft):
        return loose
    best: Found | None = None
    shares = shares_of(loose.draft)
    options = replace(options, watch=watch.for_nothing())
    for _ in range(ROUNDS):
        found = _search(made(choosing=Choosing(shares=shares)), options)
        if found is None:
            break
        found = truly_priced(found, options)
        if best is None or found.objective < best.objective:
            best = found
            watch.know(objective=best.objective)
        seen = shares_of(found.draft)
        if agree(shares, seen):
            break
        shares = {**shares, **seen}
    return replace(best, bound=loose.bound) if best is not None else None


def _search(instance: Instance, options: Options) -> Found | None:
    lossless = instance.problem.asks.any_device_lost is None
    return (exact if lossless else failover).search(instance, options)


def shares_of(draft: Draft) -> dict[str, float]:
    """The part of the requests whose items functions take, by stage; stages without any are left out."""
    if not draft.instance.serverless:
        return {}
    parts = {stage: draft.part(stage) for stage in draft.instance.placed}
    return {stage: part for stage, part in parts.items() if part > 0}


def agree(priced: Mapping[str, float], seen: Mapping[str, float]) -> bool:
    """Whether prices hold for the shares that came out; what gets nothing has no price to be wrong."""
    return all(abs(part - priced.get(stage, 1.0)) <= AGREE * part for stage, part in seen.items())


def truly_priced(found: Found, options: Options) -> Found:
    """With the objective (minimised) of the draft's own figures, where functions have a part in it."""
    if not found.draft.instance.serverless or options.objective in _NOT_PAID:
        return found
    return replace(found, objective=assemble.objective(found.draft, options))


_NOT_PAID: Final = {PlanObjective.THROUGHPUT, PlanObjective.ACCURACY, PlanObjective.POWER}
