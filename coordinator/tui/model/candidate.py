"""A plan that is being looked for: what is asked, how near to the best it is, and what it would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from coordinator.planning.search_progress import SearchBounds

if TYPE_CHECKING:
    from coordinator.planning.explain import Explanation
    from tiermesh.documents.plan import Plan


class Search(StrEnum):
    """Where the search stands."""

    SOLVING = "solving"
    FOUND = "found"
    INFEASIBLE = "infeasible"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked: the workflow's asks as they are changed, and devices and tiers that may not be used.

    `number` grows with each change, so that answers to older questions are known as such.
    """

    number: int
    workflow: str
    changes: Mapping[str, str] = field(default_factory=dict[str, str])
    devices: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SearchStep:
    """What was known after so many seconds: what the best plan so far costs, and its gap, where there is a bound."""

    seconds: float
    cost_per_hour: float
    gap: float | None

    def follows(self, other: SearchStep) -> bool:
        """Whether it is worth a line after another: a better plan, or a gap that is a tenth smaller at least."""
        if self.cost_per_hour < other.cost_per_hour or other.gap is None:
            return True
        return self.gap is not None and self.gap < 0.9 * other.gap


@dataclass(frozen=True, slots=True)
class AccuracyAlternative:
    """A plan for another accuracy: what it costs per hour and how long requests take. None where there is no plan."""

    accuracy: float
    cost_per_hour: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """The answer to an asking, as far as it is known, so many seconds after it was asked.

    `standing` is what the solver knows of the cost; its best plan can be looked at when it has ended. `plan` is one
    that was found before, or the answer.
    """

    asking: Asking
    search: Search = Search.SOLVING
    seconds: float = 0.0
    standing: SearchBounds = field(default_factory=SearchBounds)
    steps: Sequence[SearchStep] = ()
    plan: Plan | None = None
    why: str = ""
    fix: str = ""
    frontier: Sequence[AccuracyAlternative] = ()
    explanation: Explanation | None = None

    @property
    def number(self) -> int:
        """Which question it answers."""
        return self.asking.number
