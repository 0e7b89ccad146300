"""What may serve a stage: its variants on classes of devices and as functions, with batch sizes and timeouts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from coordinator.planning.figures import FunctionSize
from coordinator.planning.instance import Candidate, DeviceClass, Instance
from coordinator.planning.requests import Requests
from coordinator.planning.settings import Levels, Offered, of_functions
from tiermesh.documents.problem import (
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
    Serverless,
)


@dataclass(frozen=True)
class Choosing:
    """How candidates batch. `busy`: each setting at this level is a candidate; None: the one that needs least time.

    `shares` is the part of the requests that functions of a stage were seen to get, which decides how full their
    batches are; a stage that is not there gets all. With `floor` functions cost the least that they ever could.
    """

    busy: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    floor: bool = False


PLAINLY: Final = Choosing()


class Candidates:
    """Makes an instance's candidates: each stage's variants on the classes that may run it, at their settings."""

    def __init__(self, instance: Instance, order: Sequence[str], choosing: Choosing) -> None:
        self._instance, self._choosing = instance, choosing
        self._requests = Requests.of(instance.problem)
        self._items = {name: items_of(instance, name, order) for name in instance.placed}
        busy = choosing.busy
        self._levels = None if busy is None else Levels(self._requests, busy)

    def all(self) -> Iterator[Candidate]:
        """Every candidate, by stage and class."""
        instance = self._instance
        profiles: defaultdict[tuple[str, str], list[ProblemProfile]] = defaultdict(list)
        for profile in instance.problem.profiles:
            profiles[profile.stage, profile.device].append(profile)
        measured = {p.stage for p in instance.problem.profiles}
        for name in instance.placed:
            stage = instance.stages[name]
            timeless = not stage.variants and name not in measured
            for c in instance.classes:
                if not _may_run(stage, c.like):
                    continue
                if timeless and not c.serverless:
                    yield Candidate(name, None, c.index, 0.0, 0.0, None)
                yield from self._on(c, profiles[name, c.like.name])

    def _on(self, c: DeviceClass, profiles: Sequence[ProblemProfile]) -> Iterator[Candidate]:
        if c.like.serverless is not None:
            yield from self._functions(c, c.like.serverless, profiles)
            return
        for profile in profiles:
            if c.like.memory_mb is None or profile.memory_mb <= c.like.memory_mb:
                yield from self._of_profile(profile, c)

    def _of_profile(self, profile: ProblemProfile, c: DeviceClass) -> Iterator[Candidate]:
        """A candidate for each setting at the level, or for the batch size that needs the least time per item."""
        made = partial(
            Candidate,
            stage=profile.stage,
            variant=profile.variant,
            device_class=c.index,
            memory_mb=profile.memory_mb,
        )
        stretch = self._stretches(profile, c)
        if self._levels is None:
            best = min(
                profile.batches,
                key=lambda b: (b.mean / b.batch_size * stretch[b.batch_size], b.batch_size),
            )
            seconds = best.mean / best.batch_size
            yield made(seconds=seconds, batch=best, stretch=stretch[best.batch_size])
            return
        items = self._items[profile.stage]
        for s in self._levels.of(profile.batches, items, c.like.usable_share):
            yield made(
                seconds=s.seconds,
                batch=s.batch,
                timeout_s=s.timeout_s,
                stay_s=s.stay_s,
                stretch=stretch[s.batch.batch_size],
            )

    def _stretches(self, profile: ProblemProfile, c: DeviceClass) -> dict[int, float]:
        """By batch size, what the margin makes of its time against the usable share."""
        margin, usable = self._instance.margin, c.like.usable_share
        return {
            b.batch_size: margin.stretch(profile, i, usable) if margin is not None else 1.0
            for i, b in enumerate(profile.batches)
        }

    def _functions(
        self, c: DeviceClass, terms: Serverless, profiles: Sequence[ProblemProfile]
    ) -> Iterator[Candidate]:
        by_variant: defaultdict[str | None, list[ProblemProfile]] = defaultdict(list)
        for profile in profiles:
            by_variant[profile.variant].append(profile)
        for sizes in by_variant.values():
            yield from (
                self._floor(c, terms, sizes)
                if self._choosing.floor
                else self._priced(c, terms, sizes)
            )

    def _floor(
        self, c: DeviceClass, terms: Serverless, profiles: Sequence[ProblemProfile]
    ) -> Iterator[Candidate]:
        prices = [(FunctionSize(p.memory_mb, terms).floor(p.batches), p) for p in profiles]
        price, p = min(prices, key=lambda pair: (pair[0], pair[1].memory_mb))
        quickest = min(p.batches, key=lambda b: b.mean)
        yield Candidate(
            p.stage, p.variant, c.index, 0.0, p.memory_mb, quickest, 0.0, usd_per_item=price
        )

    def _priced(
        self, c: DeviceClass, terms: Serverless, profiles: Sequence[ProblemProfile]
    ) -> Iterator[Candidate]:
        stage = profiles[0].stage
        share = min(max(self._choosing.shares.get(stage, 1.0), LEAST_SHARE), 1.0)
        offered = Offered(
            share=round(share, 3),
            items=self._items[stage],
            most=1 if self._levels is None else FUNCTION_SETTINGS,
            longest_s=min(self._instance.problem.asks.latency_s.values(), default=math.inf),
        )
        for s in of_functions(profiles, terms, self._requests, offered):
            p = s.profile
            yield Candidate(
                p.stage,
                p.variant,
                c.index,
                0.0,
                p.memory_mb,
                s.batch,
                s.timeout_s,
                s.stay_s,
                s.usd_per_item,
            )


LEAST_SHARE: Final = 0.01
"""Functions that got less are priced as if they got this much."""
FUNCTION_SETTINGS: Final = 6


def items_of(instance: Instance, stage: str, order: Sequence[str]) -> float:
    """The most items that a request is at a stage, over the variants of the stages before."""
    most: dict[str, float] = {}
    for name in order:
        inputs = [edge for edge in instance.edges if edge.target == name]
        parts = [most[e.source] * _largest_ratio(e) for e in inputs]
        union = instance.stages[name].kind == "union"
        own = (instance.stages[name].rate_rps or 0.0) / instance.request_rate
        most[name] = (sum(parts) if union else min(parts)) if parts else own
    return most[stage]


def _largest_ratio(edge: ProblemEdge) -> float:
    given = [row.ratio for row in edge.by_variants if row.ratio is not None]
    return max(edge.ratio, *edge.ratio_by_variant.values(), *given, 0.0)


def _may_run(stage: ProblemStage, device: ProblemDevice) -> bool:
    if stage.pinned:
        return stage.pinned.get(device.name, 0.0) > 0
    if device.serverless is not None and stage.stateful:
        return False
    in_tier = not stage.tiers or device.tier in stage.tiers
    return in_tier and (not stage.devices or device.name in stage.devices)
