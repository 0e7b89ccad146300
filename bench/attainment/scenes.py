"""What happens to a mesh: phases of load and disturbance, and the arrivals that follow from them. Seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WARM_UP: Final = 0.1
"""The part of a run, at its beginning, that is not scored."""
FROM, UNTIL = 0.3, 0.6
"""When a disturbance begins and ends, as parts of the run: three minutes of ten."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """From `begin` on (a part of the run), until the next one. `slower` is by which factor victims take longer."""

    begin: float
    load: float = 1.0
    slower: float = 1.0
    link: float = 1.0
    lost: bool = False

    @property
    def is_disturbed(self) -> bool:
        """Whether anything is not as planned."""
        return (self.load, self.slower, self.link, self.lost) != (1.0, 1.0, 1.0, False)


@dataclass(frozen=True)
class Scene:
    """Phases in order; with `bursts`, the load of each is a mean about which it jumps."""

    name: str
    phases: tuple[Phase, ...]
    bursts: bool = False

    def phase(self, part: float) -> Phase:
        """The phase at a part of the run."""
        return [p for p in self.phases if p.begin <= part][-1]


def _disturbed(**what: float | bool) -> tuple[Phase, ...]:
    return Phase(begin=0.0), Phase(begin=FROM, **what), Phase(begin=UNTIL)


SCENES: Final[Mapping[str, Scene]] = {
    scene.name: scene
    for scene in (
        Scene("steady", (Phase(begin=0.0),)),
        Scene("host-busy", _disturbed(slower=1.5)),
        Scene("thermal", _disturbed(slower=2.0)),
        Scene("load-1.5", _disturbed(load=1.5)),
        Scene("load-2", _disturbed(load=2.0)),
        Scene("bursts", (Phase(begin=0.0),), bursts=True),
        Scene("link", _disturbed(link=0.1)),
        Scene("lost", _disturbed(lost=True)),
    )
}
BURST: Final = ((2.5, 4.0), (0.5, 12.0))
"""An MMPP(2): factor of the mean rate, and how long it lasts on average, in seconds."""


@dataclass(frozen=True, slots=True)
class Segment:
    """From `begin` (seconds) on requests come at `load` times the rate, in a phase."""

    begin: float
    load: float
    phase: Phase


def segments(scene: Scene, seconds: float, seed: int) -> list[Segment]:
    """All changes of a run, in order: phases, and the jumps of bursts."""
    begins = {phase.begin * seconds: 1.0 for phase in scene.phases}
    if scene.bursts:
        rng, state, now = random.Random(f"{seed}/bursts"), 1, 0.0
        begins = {}
        while now < seconds:
            factor, lasts_s = BURST[state]
            begins[now] = factor
            now += rng.expovariate(1 / lasts_s)
            state = 1 - state
    return [
        Segment(
            begin, scene.phase(begin / seconds).load * begins[begin], scene.phase(begin / seconds)
        )
        for begin in sorted(begins)
    ]


def arrivals(
    scene: Scene, rate_rps: float, seconds: float, shares: Mapping[str, float], seed: int
) -> dict[str, Sequence[float]]:
    """When requests are due, by source: one process for all, each request at one of them by chance."""
    rng = random.Random(f"{seed}/arrivals")
    found: dict[str, list[float]] = {source: [] for source in shares}
    sources, weights = list(shares), list(shares.values())
    parts = segments(scene, seconds, seed)
    ends = [part.begin for part in parts[1:]] + [seconds]
    for part, end in zip(parts, ends, strict=True):
        # Poisson arrivals have no memory: each segment begins anew.
        now = part.begin + rng.expovariate(rate_rps * part.load)
        while now < end:
            found[rng.choices(sources, weights)[0]].append(now)
            now += rng.expovariate(rate_rps * part.load)
    return dict(found)
