"""The meshes: the demo's four devices with the profiles that it measured, and a fleet of forty made of the same.

Device times are those of an x86-64 machine of 2 cores, in milliseconds of a device of speed 1; a device of speed 1/6 is
the demo's cam-1. Accuracies are those of `variants/read-signs/accuracy.json`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from coordinator.planning.margin import CONFIDENCE
from tiermesh.documents.problem import (
    Accuracy,
    Asks,
    BatchTime,
    Combination,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemLink,
    ProblemProfile,
    ProblemStage,
    Uncertainty,
)

LINES: Final = (1, 2, 2, 3)
"""Lines of text on a photo, each as often."""
FLOOR: Final = 0.93
SLO_S: Final = 3.0
BYTES: Final = {"photos": 60_000, "detect": 60_000, "rotate": 30_000, "recognise": 200}
"""What a stage sends on, for each of its items."""
TIMES_MS: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "detect": {"v3": (42.0, 84.0, 168.0), "v4": (49.0, 102.0, 204.0)},
    "rotate": {"v2": (1.15, 2.1, 4.2)},
    "recognise": {
        "v6s-dyn8": (26.5, 45.0, 82.0),
        "v4": (23.0, 42.0, 78.0),
        "v6s-static8": (15.7, 31.0, 62.0),
    },
}
SIZES: Final = (1, 2, 4)
NOISE: Final = {"detect": 0.05, "rotate": 0.05, "recognise": 0.3}
"""Standard deviation of the logarithm of a batch's time: lines are of different widths."""
ACCURACY: Final = {
    ("v3", "v6s-dyn8"): 0.9599,
    ("v3", "v4"): 0.9016,
    ("v3", "v6s-static8"): 0.9085,
    ("v4", "v6s-dyn8"): 0.9634,
    ("v4", "v4"): 0.9106,
    ("v4", "v6s-static8"): 0.9246,
}
_LEVELS: Final = {"p50": 0.0, "p90": 1.2816, "p95": 1.6449, "p99": 2.3263}
WORKFLOW: Final = """\
workflow: read-signs
slo:
  rate: {rate:g}/s
  accuracy: {{metric: character_accuracy, dataset: signs, at_least: 93 %}}
  latency: {{p95: {slo:g} s}}
stages:
  photos:    {{source: files, path: signs/, rate: {rate:g}/s, repeat: true, arrivals: poisson}}
  detect:    {{model: ocr-detect, from: photos}}
  rotate:    {{model: ocr-rotate, from: detect}}
  recognise: {{model: ocr-recognise, from: rotate}}
  text:      {{sink: jsonl, path: out/text.jsonl, from: recognise}}
"""


@dataclass(frozen=True)
class Kind:
    """Equal devices: how many, their tier, speed and price in US dollars per hour."""

    name: str
    tier: str
    count: int
    speed: float
    price: float

    @property
    def names(self) -> list[str]:
        """The names of its devices."""
        if self.count == 1:
            return [self.name]
        return [f"{self.name}{i}" for i in range(1, self.count + 1)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A mesh, and how it is loaded and disturbed.

    `victims` are how many devices a disturbance hits, and `lost` how many are lost. Planning takes `planning_s`; a
    rollout `switch_s`, or `rollout_s` where a model must be loaded. Devices look after their timers every `tick_s` and
    are sampled every `sample_s`; the coordinator measures every `measure_s`. That is less often than live, since it is
    what most of a run takes.
    """

    name: str
    kinds: tuple[Kind, ...]
    problem: Problem
    rate_rps: float
    victims: int
    lost: int
    planning_s: float
    rollout_s: float
    switch_s: float
    sample_s: float
    measure_s: float
    tick_s: float

    @property
    def workflow(self) -> str:
        """The workflow's text."""
        return WORKFLOW.format(rate=self.rate_rps, slo=SLO_S)


DEMO: Final = (
    Kind("cam-1", "edge", 1, 1 / 6, 0.004),
    Kind("cam-2", "edge", 1, 1 / 4, 0.006),
    Kind("hub-1", "hub", 1, 1 / 2, 0.020),
    Kind("server", "datacenter", 1, 1.5, 0.120),
)
FLEET: Final = (
    Kind("cam-a", "edge", 10, 1 / 6, 0.004),
    Kind("cam-b", "edge", 10, 1 / 4, 0.006),
    Kind("hub-a", "hub", 8, 1 / 2, 0.020),
    Kind("hub-b", "hub", 4, 1, 0.045),
    Kind("server", "datacenter", 6, 1.5, 0.120),
    Kind("cloud", "cloud", 2, 4, 0.400),
)


def demo(rate_rps: float = 4.0) -> Setting:
    """The demo's four devices."""
    return Setting(
        name="demo",
        kinds=DEMO,
        problem=_problem("demo", DEMO, rate_rps, mbps=40.0),
        rate_rps=rate_rps,
        victims=1,
        lost=1,
        planning_s=0.5,
        rollout_s=1.0,
        switch_s=0.3,
        sample_s=1.0,
        measure_s=2.0,
        tick_s=0.1,
    )


def fleet(rate_rps: float = 40.0) -> Setting:
    """Twenty cameras, twelve hubs, six servers and two machines in a cloud."""
    return Setting(
        name="fleet",
        kinds=FLEET,
        problem=_problem("fleet", FLEET, rate_rps, mbps=400.0),
        rate_rps=rate_rps,
        victims=4,
        lost=2,
        planning_s=5.0,
        rollout_s=1.5,
        switch_s=0.5,
        sample_s=2.0,
        measure_s=4.0,
        tick_s=0.25,
    )


def _problem(name: str, kinds: tuple[Kind, ...], rate: float, mbps: float) -> Problem:
    tiers = list(dict.fromkeys(kind.tier for kind in kinds))
    cameras = [n for kind in kinds if kind.tier == tiers[0] for n in kind.names]
    return Problem(
        name="read-signs",
        tiers=tiers,
        devices=[
            ProblemDevice(name=n, tier=kind.tier, price_per_hour=kind.price, usable_share=0.8)
            for kind in kinds
            for n in kind.names
        ],
        links=_links(tiers, mbps),
        stages=_stages(rate, cameras, name),
        edges=_edges(),
        profiles=[
            _profile(stage, variant, n, kind.speed)
            for kind in kinds
            for n in kind.names
            for stage, ladder in TIMES_MS.items()
            for variant in ladder
        ],
        accuracy=Accuracy(
            table=[
                Combination(
                    variants={"detect": detect, "rotate": "v2", "recognise": recognise},
                    accuracy=accuracy,
                )
                for (detect, recognise), accuracy in ACCURACY.items()
            ]
        ),
        asks=Asks(accuracy_at_least=FLOOR, latency_s={"p95": SLO_S}, confidence=CONFIDENCE),
        uncertainty=Uncertainty(),
    )


def _links(tiers: list[str], mbps: float) -> list[ProblemLink]:
    """Farther tiers take longer to reach; what leaves or enters the edge goes through a radio."""
    found: list[ProblemLink] = []
    for i, a in enumerate(tiers):
        for j, b in enumerate(tiers):
            rtt = 4.0 + 14.0 * abs(i - j)
            capacity = mbps if 0 in (i, j) else 10 * mbps
            found.append(
                ProblemLink(
                    source=a, target=b, capacity_mbps=capacity, rtt_ms=rtt, price_per_gib=0.0
                )
            )
    return found


def _stages(rate: float, cameras: list[str], name: str) -> list[ProblemStage]:
    sink = cameras[:1] if name == "demo" else ["hub-a1"]
    return [
        ProblemStage(
            name="photos",
            kind="source",
            rate_rps=rate,
            pinned={camera: 1 / len(cameras) for camera in cameras},
        ),
        *(ProblemStage(name=s, kind="model", variants=list(v)) for s, v in TIMES_MS.items()),
        ProblemStage(name="text", kind="sink", devices=sink),
    ]


def _edges() -> list[ProblemEdge]:
    chain = ["photos", *TIMES_MS, "text"]
    lines = sum(LINES) / len(LINES)
    edges = [
        ProblemEdge(source=a, target=b, bytes_per_item=float(BYTES[a])) for a, b in pairwise(chain)
    ]
    edges[1] = ProblemEdge(
        source="detect",
        target="rotate",
        ratio=lines,
        bytes_per_item=float(BYTES["detect"]),
        items_seen=list(LINES),
    )
    edges[3] = ProblemEdge(
        source="recognise", target="text", ratio=1 / lines, bytes_per_item=float(BYTES["recognise"])
    )
    return edges


def _profile(stage: str, variant: str, device: str, speed: float) -> ProblemProfile:
    sigma = NOISE[stage]
    batches = [
        BatchTime(
            batch_size=size,
            mean=ms / 1e3 / speed,
            percentiles={
                level: ms / 1e3 / speed * math.exp(sigma * z - sigma**2 / 2)
                for level, z in _LEVELS.items()
            },
        )
        for size, ms in zip(SIZES, TIMES_MS[stage][variant], strict=True)
    ]
    return ProblemProfile(stage=stage, variant=variant, device=device, batches=batches)
