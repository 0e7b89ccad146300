"""Strands: combinations of variants, split where the DAG has an undirected cycle.

Edge flows with equal marginals extend to lanes where the DAG without directions is a forest; around a cycle they need
not. So the sites of as many stages as close the cycles are fixed, one strand for each choice, and what is left is a
forest. Stages at one site only, and edges on which every pair of sites is free, close nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.planning.instance import Branch, Instance
from tiermesh.documents.problem import ProblemEdge


@dataclass(frozen=True, slots=True)
class Strand:
    """A branch, and the sites at which the stages that close a cycle are fixed."""

    branch: Branch
    fixed: dict[str, int]


def closing_stages(instance: Instance) -> list[str]:
    """Stages whose site must be fixed so that the rest, without directions, is a forest."""
    graph: dict[str, set[str]] = {
        s: set() for s in instance.placed if len(instance.sites_of(s, None)) > 1
    }
    for edge in instance.edges:
        if edge.source in graph and edge.target in graph and not is_plain(instance, edge):
            graph[edge.source].add(edge.target)
            graph[edge.target].add(edge.source)
    closing: list[str] = []
    while core := _two_core(graph):
        stage = max(core, key=lambda s: (len(graph[s]), -len(instance.sites_of(s, None)), s))
        closing.append(stage)
        _remove(graph, stage)
    return closing


def is_plain(instance: Instance, edge: ProblemEdge) -> bool:
    """Whether it does not matter which sites an edge between placed stages joins."""
    if edge.source not in instance.by_stage or edge.target not in instance.by_stage:
        return False
    return all(
        instance.plain(instance.link(a, b))
        and not instance.has_radio(a)
        and not instance.has_radio(b)
        for a in instance.sites_of(edge.source, None)
        for b in instance.sites_of(edge.target, None)
    )


def _two_core(graph: dict[str, set[str]]) -> list[str]:
    """The stages that are left when stages with fewer than two neighbours are taken away again and again."""
    left = {stage: set(neighbours) for stage, neighbours in graph.items()}
    while loose := [stage for stage, neighbours in left.items() if len(neighbours) <= 1]:
        for stage in loose:
            _remove(left, stage)
    return list(left)


def _remove(graph: dict[str, set[str]], stage: str) -> None:
    for neighbour in graph.pop(stage):
        if neighbour in graph:
            graph[neighbour].discard(stage)
