"""Which requests cannot be quick enough, whatever the load: what a latency ask says without any queue.

A request is at least as slow as the longest way through the workflow on which it takes a given replica and, at every
other stage, the quickest there is. What is slower than asked may take a part of the requests only: 5 % where a p95 is
asked. Every plan that keeps the ask keeps this, so a program that holds it still bounds them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator.planning.instance import Candidate, Instance
from coordinator.planning.service_times import curve
from tiermesh.documents.problem import BatchTime, ProblemEdge
from tiermesh.documents.workflow import PERCENTILES

NOISE: Final = 0.01
"""What a simulation may err in the part of the requests that is too slow, in the plan's favour."""
Key = tuple[str, str | None, int]
"""A stage, its variant and the class."""


@dataclass(frozen=True, slots=True)
class Slow:
    """A part of some candidates' items that cannot be more than `most` items of a request, for all requests."""

    parts: dict[Key, float]
    most: float


def too_slow(instance: Instance) -> Iterator[Slow]:
    """What the latency asks say of each stage's candidates."""
    asked = instance.problem.asks.latency_s
    if not asked or not instance.branches:
        return
    batches, reach = _batches(instance), _reach(instance)
    least = {
        stage: min((_quickest(b) for key, b in batches.items() if key[0] == stage), default=0.0)
        if reach[stage] >= 1
        else 0.0
        for stage in instance.placed
    }
    rest = _rest(instance, least)
    for name, seconds in asked.items():
        slower = min(1 - PERCENTILES[name] + NOISE, 1.0)
        for stage in instance.placed:
            left = seconds - rest[stage]
            parts = {
                key: min(_later(b, left) for b in found)
                for key, found in batches.items()
                if key[0] == stage
            }
            if any(parts.values()) and reach[stage] > 0:
                items = max(b.rates[stage] for b in instance.branches) / instance.request_rate
                yield Slow(parts, slower * items / reach[stage])


def key_of(candidate: Candidate) -> Key:
    """The key of a candidate."""
    return candidate.stage, candidate.variant, candidate.device_class


def _batches(instance: Instance) -> dict[Key, list[BatchTime]]:
    """All batches that were measured, of every memory size of a function; as slow as the margin allows for."""
    known: defaultdict[tuple[str, str | None, str], list[BatchTime]] = defaultdict(list)
    margin = instance.margin
    for profile in instance.problem.profiles if margin is None else margin.slowed.profiles:
        known[profile.stage, profile.variant, profile.device] += profile.batches
    return {
        key_of(c): known[c.stage, c.variant, instance.classes[c.device_class].like.name]
        for c in instance.candidates
        if c.batch is not None
    }


def _reach(instance: Instance) -> dict[str, float]:
    """The part of the requests that surely come to each stage: some may have no items there."""
    found = dict.fromkeys(instance.stages, 1.0)
    order = [n for n in instance.stages if n not in instance.placed] + list(instance.placed)
    for stage in order:
        inputs = [e for e in instance.edges if e.target == stage]
        found[stage] = min((found[e.source] * _not_empty(e) for e in inputs), default=1.0)
    return found


def _not_empty(edge: ProblemEdge) -> float:
    """The least part of written items that are items of the reading stage as well."""
    rows = [row.ratio for row in edge.by_variants if row.ratio is not None]
    seen = [sum(n > 0 for n in edge.items_seen) / len(edge.items_seen)] if edge.items_seen else []
    return min(1.0, edge.ratio, *edge.ratio_by_variant.values(), *rows, *seen)


def _quickest(batches: Sequence[BatchTime]) -> float:
    return min(curve(batch)[1][0] for batch in batches)


def _rest(instance: Instance, least: dict[str, float]) -> dict[str, float]:
    """The least seconds that the longest way through each stage takes at the other stages."""
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for stage in instance.placed:
        inputs = [e.source for e in instance.edges if e.target == stage and e.source in before]
        before[stage] = max((before[u] + least[u] for u in inputs), default=0.0)
    for stage in reversed(instance.placed):
        outputs = [e.target for e in instance.edges if e.source == stage and e.target in after]
        after[stage] = max((after[v] + least[v] for v in outputs), default=0.0)
    return {stage: before[stage] + after[stage] for stage in instance.placed}


def _later(batch: BatchTime, seconds: float) -> float:
    """The part of a batch's runs that take longer."""
    levels, values = curve(batch)
    if seconds < values[0]:
        return 1.0
    if seconds >= values[-1]:
        return 0.0
    return 1.0 - float(np.interp(seconds, values, levels))
