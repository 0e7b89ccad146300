"""Planning problems of any size, by seed: workers that are all different, and devices in classes."""

from __future__ import annotations

import itertools
import random
from typing import Final

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
)

LADDERS: Final = {
    "image": {f"resnet-{i}": 0.1 * (1 + 0.6 * i) for i in range(5)},
    "speech": {"base": 0.1, "large": 0.28},
    "answer": {"default": 0.018},
}
"""Seconds per item on a device of speed 1, in ratios like those of JellyBean's VQA example."""


def different(workers: int, seed: int = 1) -> Problem:
    """Workers that all differ in speed and price, serving questions about photos; the rate grows with them."""
    rng = random.Random(seed)
    devices, profiles = _workers(workers, rng)
    rate = 4.4 * workers
    stages = [
        ProblemStage(name=name, kind="source", rate_rps=rate, external=True)
        for name in ("photos", "questions")
    ]
    stages += [
        ProblemStage(name=s, kind="join" if s == "answer" else "model", variants=list(ladder))
        for s, ladder in LADDERS.items()
    ]
    sizes = {
        ("photos", "image"): 8e5,
        ("questions", "speech"): 1e5,
        ("image", "answer"): 8e3,
        ("speech", "answer"): 100,
    }
    return Problem(
        name=f"different-{workers}",
        tiers=["edge", "cloud"],
        upward_only=True,
        devices=devices,
        links=[
            ProblemLink(source=source, target="cloud", price_per_gib=0.1)
            for source in ("edge", "photos", "questions")
        ],
        stages=stages,
        edges=[ProblemEdge(source=u, target=v, bytes_per_item=b) for (u, v), b in sizes.items()],
        profiles=profiles,
        accuracy=Accuracy(
            table=[
                Combination(
                    variants={"image": image, "speech": speech},
                    accuracy=54 + 0.45 * i + (2.5 if speech == "large" else 0),
                )
                for i, image in enumerate(LADDERS["image"])
                for speech in LADDERS["speech"]
            ]
        ),
        asks=Asks(accuracy_at_least=56),
    )


def _workers(count: int, rng: random.Random) -> tuple[list[ProblemDevice], list[ProblemProfile]]:
    devices: list[ProblemDevice] = []
    profiles: list[ProblemProfile] = []
    for i in range(count):
        edge = i < count * 0.55
        speed = rng.uniform(0.2, 2) if edge else rng.uniform(2, 20)
        price = round(0.3 * speed**0.8 * rng.uniform(0.7, 1.3), 4)
        tier = "edge" if edge else "cloud"
        devices.append(ProblemDevice(name=f"w{i}", tier=tier, price_per_hour=price))
        for stage, ladder in LADDERS.items():
            for variant, seconds in ladder.items():
                took = seconds / speed * rng.uniform(0.8, 1.25)
                profiles.append(_profile(stage, variant, f"w{i}", took))
    return devices, profiles


def in_classes(
    devices: int, classes: int = 20, stages: int = 5, variants: int = 4, seed: int = 1
) -> Problem:
    """Equal devices in classes over three tiers, a chain of stages, accuracy by combination."""
    rng = random.Random(seed)
    names = [f"v{v}" for v in range(variants)]
    kinds, profiles = _classes(devices, classes, stages, names, rng)
    weights = [rng.uniform(1, 3) for _ in range(stages)]
    table = [
        Combination(
            variants={f"s{s}": names[v] for s, v in enumerate(choice)},
            accuracy=90
            - sum(weights[s] * (variants - 1 - v) ** 1.5 for s, v in enumerate(choice))
            + 0.01 * rng.random(),
        )
        for choice in itertools.product(range(variants), repeat=stages)
    ]
    chain = ["source", *(f"s{s}" for s in range(stages))]
    source = ProblemStage(name="source", kind="source", rate_rps=1.2 * devices, external=True)
    return Problem(
        name=f"classes-{devices}",
        tiers=["edge", "hub", "cloud"],
        upward_only=True,
        devices=kinds,
        links=[
            ProblemLink(source=a, target=b, price_per_gib=0.05)
            for a, b in (("edge", "hub"), ("edge", "cloud"), ("hub", "cloud"))
        ],
        stages=[source, *(ProblemStage(name=s, kind="model", variants=names) for s in chain[1:])],
        edges=[
            ProblemEdge(source=u, target=v, bytes_per_item=1e5 / (1 + i))
            for i, (u, v) in enumerate(itertools.pairwise(chain))
        ],
        profiles=profiles,
        accuracy=Accuracy(table=table),
        asks=Asks(accuracy_at_least=80),
    )


def _classes(
    devices: int, classes: int, stages: int, names: list[str], rng: random.Random
) -> tuple[list[ProblemDevice], list[ProblemProfile]]:
    kinds: list[ProblemDevice] = []
    profiles: list[ProblemProfile] = []
    for i in range(classes):
        level = i * 3 // classes
        speed = rng.uniform(0.3, 2) * (1, 3, 10)[level]
        kinds.append(
            ProblemDevice(
                name=f"c{i}",
                tier=("edge", "hub", "cloud")[level],
                count=devices // classes,
                price_per_hour=round(0.1 * speed**0.85 * rng.uniform(0.7, 1.3), 4),
            )
        )
        for s, (v, name) in itertools.product(range(stages), enumerate(names)):
            took = 0.03 * (1 + 0.5 * s) * (1 + v) / speed * rng.uniform(0.8, 1.25)
            profiles.append(_profile(f"s{s}", name, f"c{i}", took))
    return kinds, profiles


def _profile(stage: str, variant: str, device: str, seconds: float) -> ProblemProfile:
    batch = BatchTime(batch_size=1, mean=seconds)
    return ProblemProfile(stage=stage, variant=variant, device=device, batches=[batch])
