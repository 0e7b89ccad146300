"""The one place that knows how the rings of agents are switched off, and what a plan is made with for them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from bench.attainment.systems import Ring
from tiermesh.documents.assignment import Assignment


def with_rings(assignment: Assignment, rings: AbstractSet[Ring]) -> Assignment:
    """The assignment with these rings alone."""
    del rings
    return assignment
