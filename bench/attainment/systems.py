"""The systems that are compared: how each plans, whether it plans again, and which of its rings act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coordinator.planning import Options, Strategy
from tiermesh.documents.assignment import RINGS, Ring

GAP: Final = 1e-3
TIME_LIMIT_S: Final = 5.0
"""As a coordinator that stays plans."""


MARGIN: Final = Options(gap=GAP, time_limit_s=TIME_LIMIT_S, intervals=False)
EXACT: Final = Options(gap=GAP, time_limit_s=TIME_LIMIT_S, intervals=False, margin=False)


@dataclass(frozen=True, kw_only=True)
class System:
    """`scale` is the multiple of the rate that is planned for; None: the smallest that reaches what `ours` does.

    `rings` are what agents do by themselves. A clairvoyant switches to the cheapest plan for the true rate and the true
    device times when a phase begins.
    """

    name: str
    options: Options = MARGIN
    rings: tuple[Ring, ...] = ()
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
    margin=False,
    intervals=False,
)
SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        System(name="ours", rings=RINGS, replans=True),
        *(
            System(name=f"no-{ring}", rings=tuple(r for r in RINGS if r != ring), replans=True)
            for ring in RINGS
        ),
        System(name="no-margin", options=EXACT, rings=RINGS, replans=True),
        System(name="no-replan", rings=RINGS),
        System(name="replan-only", replans=True),
        System(name="static", options=EXACT),
        System(name="jellybean", options=JELLYBEAN, jellybean=True),
        System(name="over", options=EXACT, scale=None),
        System(name="clairvoyant", options=EXACT, clairvoyant=True),
    )
}
MULTIPLES: Final = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Of the rate, that over-provisioning tries."""
