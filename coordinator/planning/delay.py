"""Latency inside the program: what a replica adds, and the longest way through the DAG.

Percentiles do not add, and a queue's wait is not linear in its load. So the program counts with a mean: what a
setting of batches adds on a device that is as busy as it may be (`settings`), summed along every way that requests can
take, within a budget. What budget and load make the promised percentiles come true is found outside (`slo`).
"""

from __future__ import annotations

from collections import defaultdict

from coordinator.planning.formulation import Formulation, Terms
from coordinator.planning.instance import Candidate
from tiermesh.documents.problem import ProblemEdge


def bound_delay(formulation: Formulation, budget_s: float) -> int:
    """Keep every way from source to sink within `budget_s`; returns the column of the longest way's seconds."""
    ways = _Ways(formulation, budget_s)
    return ways.longest


class _Ways:
    def __init__(self, formulation: Formulation, budget_s: float) -> None:
        self.formulation, self.program = formulation, formulation.program
        self.budget_s = budget_s
        self.longest = self.program.column(upper=budget_s)
        self.ends: dict[tuple[str, int], int] = {}
        self.adds: dict[tuple[str, int], int] = {}
        for stage in formulation.instance.placed:
            self._add_stage(stage)
        for index, edge in enumerate(formulation.instance.edges):
            self._add_edge(index, edge)

    def _add_stage(self, stage: str) -> None:
        """Per site: what the slowest replica in use adds, and when a request is done there at the latest."""
        program = self.program
        for site in self.formulation.instance.sites_of(stage, None):
            key = (stage, site.index)
            adds = self.adds[key] = program.column(upper=self.budget_s)
            end = self.ends[key] = program.column(upper=self.budget_s)
            program.row([(end, 1.0), (adds, -1.0)], lower=0.0)
            program.row([(self.longest, 1.0), (end, -1.0)], lower=0.0)
        batches: defaultdict[tuple[str | None, int], Terms] = defaultdict(list)
        for candidate, rate in self.formulation.rates_of(stage):
            if candidate.stay_s is not None:
                serving = self._serving(stage, candidate, rate)
                batches[candidate.variant, candidate.device_class].append((serving, 1.0))
        for terms in batches.values():
            if len(terms) > 1:
                program.row(terms, upper=1.0)

    def _serving(self, stage: str, candidate: Candidate, rate: int) -> int:
        """A column that is 1 where the candidate serves; its replicas then add their seconds."""
        instance, program = self.formulation.instance, self.program
        device_class = instance.classes[candidate.device_class]
        serving = program.column(upper=1.0, integer=True)
        most = self.formulation.top_rate(stage)
        if candidate.seconds > 0:
            usable = device_class.count * device_class.like.usable_share
            most = min(most, usable / candidate.booked_s)
        program.row([(rate, 1.0), (serving, -most)], upper=0.0)
        adds = self.adds[stage, device_class.site]
        takes = candidate.stay_s or 0.0
        if takes > self.budget_s:
            program.row([(serving, 1.0)], upper=0.0)
        else:
            program.row([(adds, 1.0), (serving, -takes)], lower=0.0)
        return serving

    def _add_edge(self, index: int, edge: ProblemEdge) -> None:
        columns = self.formulation.columns
        flows: defaultdict[tuple[int, int], Terms] = defaultdict(list)
        for (_, e, source, target), column in columns.flow.items():
            if e == index:
                flows[source, target].append((column, 1.0))
        if flows:
            for pair, terms in flows.items():
                self._follow(edge, pair, terms)
        elif edge.source in self.formulation.instance.by_stage:
            self._follow_all(edge)

    def _follow(self, edge: ProblemEdge, pair: tuple[int, int], terms: Terms) -> None:
        """Where requests flow between two sites, the later stage ends after the earlier one and the way."""
        instance, program = self.formulation.instance, self.program
        source, target = (instance.sites[i] for i in pair)
        way = instance.link(source, target).rtt_ms / 2e3
        flowing = program.column(upper=1.0, integer=True)
        top = self.formulation.theta_max
        program.row([*terms, (flowing, -top)], upper=0.0)
        end, adds = (c[edge.target, target.index] for c in (self.ends, self.adds))
        before = self.ends[edge.source, source.index]
        slack = self.budget_s + way
        row: Terms = [(end, 1.0), (before, -1.0), (adds, -1.0), (flowing, -slack)]
        program.row(row, lower=way - slack)

    def _follow_all(self, edge: ProblemEdge) -> None:
        """Where the network tells no pair of sites apart, any may follow any."""
        for (stage, _), before in list(self.ends.items()):
            if stage != edge.source:
                continue
            for (later, site), end in self.ends.items():
                if later == edge.target:
                    adds = self.adds[later, site]
                    self.program.row([(end, 1.0), (before, -1.0), (adds, -1.0)], lower=0.0)
