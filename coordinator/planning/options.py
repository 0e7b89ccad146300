"""How to plan: the rules, the objective and the effort. Together with a problem they decide the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.planning.search_progress import UNWATCHED, SearchObserver
from tiermesh.errors import InvalidDocument


class PlanObjective(StrEnum):
    """What the plan makes best; everything else that is asked holds as a bound."""

    COST = "cost"
    THROUGHPUT = "throughput"
    ACCURACY = "accuracy"
    LATENCY = "latency"
    POWER = "power"


class Strategy(StrEnum):
    """How the plan is looked for."""

    EXACT = "exact"
    GREEDY = "greedy"
    EXHAUSTIVE = "exhaustive"


TIME_LIMIT_S: Final = 30.0
GAP: Final = 1e-6
LEAST_CONFIDENCE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rules and effort.

    `exclusive`: a device serves at most one stage. `single_variant`: one variant per stage for all requests.
    `spares`: quicker variants are held ready where the accuracy floor leaves slack, for sources to move requests to.
    `gap` is the relative gap at which the search may stop, `time_limit_s` the seconds after which it returns the
    best plan it has. `watch` follows the search and can end it.

    `confidence` takes the place of the one that the problem asks for; without `margin` there is none. With `frontier`
    the plan says what other confidences cost, and with `intervals` how far its latency may lie from what it predicts.
    """

    exclusive: bool = False
    single_variant: bool = False
    spares: bool = False
    objective: PlanObjective = PlanObjective.COST
    strategy: Strategy = Strategy.EXACT
    time_limit_s: float = TIME_LIMIT_S
    gap: float = GAP
    threads: int = 1
    confidence: float | None = None
    margin: bool = True
    frontier: bool = False
    intervals: bool = True
    watch: SearchObserver = field(default=UNWATCHED, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Take the names of objective and strategy for them."""
        object.__setattr__(self, "objective", PlanObjective(self.objective))
        object.__setattr__(self, "strategy", Strategy(self.strategy))
        for name, value in (("time limit", self.time_limit_s), ("gap", self.gap)):
            if not 0 <= value < math.inf:
                raise InvalidDocument(
                    f"the {name} is {value}", why="it must be a number of zero or more", path=name
                )
        if self.confidence is not None and not LEAST_CONFIDENCE <= self.confidence < 1:
            raise InvalidDocument(
                f"the confidence is {self.confidence:g}",
                why="a plan that holds with less than 50 % probability is none, and nothing is certain",
                fix="From 50 % to less than 100 %, such as 95 %",
                path="confidence",
            )
