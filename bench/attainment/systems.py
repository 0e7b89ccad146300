"""The systems that are compared: how each plans, whether it plans again, and which of its rings act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from coordinator.planning import Options, Strategy

GAP: Final = 1e-3
TIME_LIMIT_S: Final = 5.0
"""As a coordinator that stays plans."""


EXACT: Final = Options(gap=GAP, time_limit_s=TIME_LIMIT_S)


class Ring(Enum):
    """What an agent does by itself, each cheaper than the next; see `bench.attainment.rings`."""

    ORDER = "deadline order and early end"
    LANES = "shares between loaded lanes"
    ACCURACY = "accuracy scaling"
    RETRIES = "admission and retry budget"


ALL: Final = frozenset(Ring)


@dataclass(frozen=True, kw_only=True)
class System:
    """`scale` is the multiple of the rate that is planned for; None: the smallest that reaches what `ours` does.

    A clairvoyant switches to the cheapest plan for the true rate and the true device times when a phase begins.
    """

    name: str
    options: Options = EXACT
    rings: frozenset[Ring] = frozenset()
    replans: bool = False
    scale: float | None = 1.0
    clairvoyant: bool = False
    jellybean: bool = False


JELLYBEAN: Final = Options(
    exclusive=True,
    single_variant=True,
    strategy=Strategy.GREEDY,
    gap=GAP,
    time_limit_s=TIME_LIMIT_S,
)
SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        System(name="ours", rings=ALL, replans=True),
        System(name="no-order", rings=ALL - {Ring.ORDER}, replans=True),
        System(name="no-lanes", rings=ALL - {Ring.LANES}, replans=True),
        System(name="no-accuracy", rings=ALL - {Ring.ACCURACY}, replans=True),
        System(name="no-retries", rings=ALL - {Ring.RETRIES}, replans=True),
        System(name="no-replan", rings=ALL),
        System(name="replan-only", replans=True),
        System(name="static"),
        System(name="jellybean", options=JELLYBEAN, jellybean=True),
        System(name="over", scale=None),
        System(name="clairvoyant", clairvoyant=True),
    )
}
MULTIPLES: Final = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Of the rate, that over-provisioning tries."""
