"""A smaller program whose optimum bounds the full one: shares per variant instead of per combination.

With hundreds of combinations the full program has a flow for each of them. Here a stage's variant has one flow,
whatever combination its requests belong to; only the shares of the combinations tie the variants together. Every
plan is a solution of it, so its bound holds, and the few combinations that its solution uses are the ones worth the
full program. It applies where rates do not depend on variants, nor bytes on the reader's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

from coordinator.planning.formulation import Formulation, Terms
from coordinator.planning.instance import Branch, Instance
from tiermesh.documents.problem import ProblemEdge

TOLERANCE = 1e-12


def applies(instance: Instance) -> bool:
    """Whether the relaxation can stand for the instance."""
    first = instance.branches[0]
    return all(
        abs(b.rates[s] - first.rates[s]) <= TOLERANCE * (1 + first.rates[s])
        for b in instance.branches
        for s in instance.placed
    ) and not any(
        row.target_variant is not None for edge in instance.edges for row in edge.by_variants
    )


class Relaxation(Formulation):
    """The program with shares per stage, variant and site."""

    def _add_requests(self) -> None:
        self._served: dict[tuple[str, str | None, int], int] = {}
        for stage in self.instance.placed:
            self._add_stage(stage)
        for index, edge in enumerate(self.instance.edges):
            self._add_relaxed_edge(index, edge)

    def _branches_by_variant(self, stage: str) -> dict[str | None, list[int]]:
        found: defaultdict[str | None, list[int]] = defaultdict(list)
        for number, strand in enumerate(self.strands):
            found[self._variant_key(stage, strand.branch)].append(number)
        return found

    def _add_stage(self, stage: str) -> None:
        for variant, numbers in self._branches_by_variant(stage).items():
            terms: Terms = [(self.columns.share[number], -1.0) for number in numbers]
            for site in self._sites(self.strands[numbers[0]].branch, stage):
                column = self.program.column(upper=self.theta_max)
                self._served[stage, variant, site.index] = column
                terms.append((column, 1.0))
            self.program.equal(terms)

    def _columns_at(self, stage: str, variant: str | None) -> list[tuple[int, int]]:
        return [(g, c) for (s, v, g), c in self._served.items() if s == stage and v == variant]

    def _add_relaxed_edge(self, index: int, edge: ProblemEdge) -> None:
        placed = self.instance.by_stage
        if edge.source not in placed:
            self._add_relaxed_outside(edge, edge.target)
        elif edge.target not in placed:
            self._add_relaxed_outside(edge, edge.source)
        elif not self._edge_is_plain[index]:
            self._add_relaxed_flows(edge)

    def _add_relaxed_outside(self, edge: ProblemEdge, inside: str) -> None:
        if inside not in self.instance.by_stage:
            return
        for variant, numbers in self._branches_by_variant(inside).items():
            columns = self._columns_at(inside, variant)
            self._cross_border(edge, self._bytes(edge, numbers), columns)

    def _bytes(self, edge: ProblemEdge, numbers: list[int]) -> float:
        return min(self.instance.bytes_per_second(edge, self.strands[n].branch) for n in numbers)

    def _add_relaxed_flows(self, edge: ProblemEdge) -> None:
        into: defaultdict[int, Terms] = defaultdict(list)
        for variant, numbers in self._branches_by_variant(edge.source).items():
            rate = self._bytes(edge, numbers)
            out: defaultdict[int, Terms] = defaultdict(list)
            columns = self._columns_at(edge.source, variant)
            targets = {g for (s, _, g) in self._served if s == edge.target}
            for (source, _), target in itertools.product(columns, sorted(targets)):
                link = self.instance.link(self.instance.sites[source], self.instance.sites[target])
                if link.allowed:
                    flow = self.program.column(upper=self.theta_max)
                    self.traffic.use(link, flow, rate, source, target)
                    out[source].append((flow, 1.0))
                    into[target].append((flow, 1.0))
            for source, column in columns:
                self.program.equal([*out[source], (column, -1.0)])
        for (stage, _, target), column in self._served.items():
            if stage == edge.target:
                into[target].append((column, -1.0))
        for terms in into.values():
            self.program.equal(terms)

    def _served_terms(self) -> dict[tuple[str, str | None, int], Terms]:
        rates = self.branches[0].rates
        return {key: [(column, -rates[key[0]])] for key, column in self._served.items()}

    def used(self, values: tuple[float, ...]) -> list[Branch]:
        """The combinations that a solution uses."""
        pairs = zip(self.strands, self.columns.share, strict=True)
        return [strand.branch for strand, share in pairs if values[share] > TOLERANCE * 1e3]
