"""How to plan: the rules, the objective and the effort. Together with a problem they decide the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.planning.watching import UNWATCHED, Watch
from tiermesh.errors import InvalidDocument


class Objective(StrEnum):
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rules and effort.

    `exclusive`: a device serves at most one stage. `single_variant`: one variant per stage for all requests.
    `spares`: quicker variants are held ready where the accuracy floor leaves slack, for sources to move requests to.
    `gap` is the relative gap at which the search may stop, `time_limit_s` the seconds after which it returns the
    best plan it has. `watch` follows the search and can end it.
    """

    exclusive: bool = False
    single_variant: bool = False
    spares: bool = False
    objective: Objective = Objective.COST
    strategy: Strategy = Strategy.EXACT
    time_limit_s: float = TIME_LIMIT_S
    gap: float = GAP
    threads: int = 1
    watch: Watch = field(default=UNWATCHED, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Take the names of objective and strategy for them."""
        object.__setattr__(self, "objective", Objective(self.objective))
        object.__setattr__(self, "strategy", Strategy(self.strategy))
        for name, value in (("time limit", self.time_limit_s), ("gap", self.gap)):
            if not 0 <= value < math.inf:
                raise InvalidDocument(
                    f"the {name} is {value}", why="it must be a number of zero or more", path=name
                )
