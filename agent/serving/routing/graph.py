"""What follows from a workflow's shape alone: which sinks end a request, where branches meet, whose requests meet.

A stage with several inputs that is not a join is a union, also where it is a sink or a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tiermesh.documents.assignment import Assignment, StageSpec


def neighbours(assignment: Assignment) -> list[str]:
    """The other devices that this one sends frames to, and gets them from, on some lane. Sinks confirm to sources."""
    stages, where = assignment.stages, assignment.replica_devices
    ways = [(name, after) for name, stage in stages.items() for after in stage.outputs]
    sources = [name for name, stage in stages.items() if stage.kind == "source"]
    ways += [(name, to) for name, s in stages.items() if s.kind == "sink" for to in sources]
    found: set[str] = set()
    for lane in assignment.lanes:
        for ends in ({where[lane.path[a]], where[lane.path[b]]} for a, b in ways):
            found |= ends if assignment.device in ends else set()
    return sorted(found - {assignment.device})


class Graph:
    """The stages of one workflow, by name."""

    def __init__(self, stages: Mapping[str, StageSpec]) -> None:
        self.stages = stages
        # Cached per object: a graph is small, and asked for each frame.
        self.sinks_below = cache(self._sinks_below)
        self.meetings_below = cache(self._meetings_below)
        self.gathered = cache(self._gathered)
        self.run_suffix = cache(self._run_suffix)

    def _sinks_below(self, stage: str) -> tuple[str, ...]:
        """The sinks that requests of a stage reach, in order of name."""
        return tuple(sorted(s for s in self._below(stage) if self.stages[s].kind == "sink"))

    def is_in_order(self, source: str) -> bool:
        """Whether an aggregate takes a source's requests in their order, so that each waits for those before it."""
        return any(self.stages[stage].kind == "aggregate" for stage in self._below(source))

    def least_below(self, least_s: Mapping[str, float]) -> dict[str, float]:
        """How long a request takes at least after each stage, given what each takes at least; a filter may end it."""
        found: dict[str, float] = {}

        def below(stage: str) -> float:
            if stage not in found:
                after = [least_s.get(o, 0.0) + below(o) for o in self.stages[stage].outputs]
                found[stage] = max(after, default=0.0) if self.stages[stage].kind != "filter" else 0
            return found[stage]

        for stage in self.stages:
            below(stage)
        return found

    def meets_others(self, source: str) -> bool:
        """Whether a source's requests meet those of another one in a join."""
        return list(self._joined().values()).count(self._family(source)) > 1

    def _meetings_below(self, stage: str) -> tuple[tuple[str, str], ...]:
        """Where the end of a request that happens at `stage` is told: (the input it counts as, the stage).

        The next sinks, the stages with several inputs, and the aggregates, which take requests in order.
        """
        found: list[tuple[str, str]] = []
        for output in self.stages[stage].outputs:
            spec = self.stages[output]
            if spec.kind in ("sink", "aggregate") or len(spec.inputs) > 1:
                found.append((stage, output))
            else:
                found.extend(self._meetings_below(output))
        return tuple(dict.fromkeys(found))

    def _gathered(self, stage: str, entry: str) -> frozenset[str]:
        """The inputs of a union that carry the same requests as its input `entry`."""
        family = self._family(entry)
        return frozenset(i for i in self.stages[stage].inputs if self._family(i) == family)

    def _run_suffix(self, source: str) -> str:
        """What tells the requests of sources apart that never meet in a join; empty for the first family."""
        mine = self._family(source)
        first = min(
            self._family(name) for name, spec in self.stages.items() if spec.kind == "source"
        )
        return "" if mine == first else "/" + mine

    def _family(self, stage: str) -> str:
        """The name of the set of sources whose requests have ids in common, for those above a stage."""
        return min(self._joined()[source] for source in self._sources_above(stage))

    def _joined(self) -> dict[str, str]:
        """Source to the first of the sources that it meets in joins, directly or through others."""
        leader = {name: name for name, spec in self.stages.items() if spec.kind == "source"}
        for spec in self.stages.values():
            if spec.kind != "join":
                continue
            met = {leader[s] for i in spec.inputs for s in self._sources_above(i)}
            leader = {s: min(met) if own in met else own for s, own in leader.items()}
        return leader

    def _sources_above(self, stage: str) -> set[str]:
        spec = self.stages[stage]
        if spec.kind == "source":
            return {stage}
        return {source for above in spec.inputs for source in self._sources_above(above)}

    def _below(self, stage: str) -> set[str]:
        below = {stage}
        for output in self.stages[stage].outputs:
            below |= self._below(output)
        return below
