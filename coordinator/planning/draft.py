"""A plan's content before its proof, and what its replicas come to at the rates that it gives them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from coordinator.planning.figures import Figures, FunctionSize, Offer, of_function, on_device, plain
from coordinator.planning.instance import DeviceClass, Instance
from coordinator.planning.lanes import Piece, Spot
from coordinator.planning.requests import Requests
from coordinator.planning.settings import between

Serving: TypeAlias = tuple[str, Spot]
"""A stage, and the spot that serves it."""

FEW: Final = 100
"""Up to this many devices, each is followed under its own load; of more, those alike within a few percent are one."""
FULL_ENOUGH: Final = 1.03
"""Where energy counts, the device time that may be taken, over that of batches which are always full."""


@dataclass(frozen=True)
class Draft:
    """Pieces at `scale` times the asked rates, and replicas held ready. `frugal`: device time itself counts."""

    instance: Instance
    pieces: list[Piece]
    scale: float = 1.0
    standby: tuple[Spot, ...] = ()
    frugal: bool = False

    def rates(self) -> dict[Serving, float]:
        """Items per second of every replica, in the order of the workflow."""
        found: dict[Serving, float] = {}
        for stage in self.instance.placed:
            for piece in self.pieces:
                key = (stage, piece.spots[stage])
                rate = piece.share * piece.branch.rates[stage] * self.scale
                found[key] = found.get(key, 0.0) + rate
        for spot in self.standby:
            found.setdefault((spot.candidate.stage, spot), 0.0)
        return found

    @cached_property
    def requests(self) -> Requests:
        """How its requests come."""
        return Requests.of(self.instance.problem, self.instance.request_rate * self.scale)

    @cached_property
    def shares(self) -> dict[Serving, float]:
        """The part of the requests that passes each replica."""
        found: defaultdict[Serving, float] = defaultdict(float)
        for piece in self.pieces:
            for stage, spot in piece.spots.items():
                found[stage, spot] += piece.share
        return found

    @cached_property
    def figures(self) -> Mapping[Serving, Figures]:
        """What each replica that takes time comes to; those on standby are left out."""
        by_device: defaultdict[str, list[Serving]] = defaultdict(list)
        for serving, rate in self.rates().items():
            if serving[1].candidate.batch is not None and rate > 0:
                by_device[serving[1].device].append(serving)
        digits = 3 if len(by_device) <= FEW else 2
        following = _ReplicaFollower(self, digits)
        found: dict[Serving, Figures] = {}
        for device, servings in by_device.items():
            figures = following.on(self.instance.class_of[device], servings)
            found |= dict(zip(servings, figures, strict=True))
        return found

    def part(self, stage: str) -> float:
        """The part of the requests whose items of a stage functions take."""
        classes = self.instance.classes
        return sum(
            share
            for (name, spot), share in self.shares.items()
            if name == stage and classes[spot.candidate.device_class].serverless
        )


class _ReplicaFollower:
    """Follows the replicas of one device after the other; equal questions are answered once."""

    def __init__(self, draft: Draft, digits: int) -> None:
        self._draft, self._digits = draft, digits
        self._rates = draft.rates()
        self._known: dict[tuple[object, ...], list[Figures]] = {}

    def on(self, device_class: DeviceClass, servings: Sequence[Serving]) -> list[Figures]:
        """Figures of all replicas of a device."""
        requests, like = self._draft.requests, device_class.like
        offers = [self._offer(serving) for serving in servings]
        if like.serverless is not None:
            return [
                of_function(o, requests, FunctionSize(spot.candidate.memory_mb, like.serverless))
                for o, (_, spot) in zip(offers, servings, strict=True)
            ]
        usable = like.usable_share
        if self._draft.frugal:
            counted = sum(self._rates[s] * s[1].candidate.seconds for s in servings)
            usable = min(usable, FULL_ENOUGH * counted)
        if plain(offers, requests):
            return on_device(offers, requests, usable)
        loads = (f"{o.share * o.items:.{self._digits}g}" for o in offers)
        key = (device_class.index, *(spot.candidate for _, spot in servings), *loads)
        if key not in self._known:
            longest_s = min(self._draft.instance.problem.asks.latency_s.values(), default=math.inf)
            self._known[key] = on_device(offers, requests, usable, longest_s)
        return self._known[key]

    def _offer(self, serving: Serving) -> Offer:
        candidate = serving[1].candidate
        share = min(self._draft.shares[serving], 1.0)
        size = candidate.batch.batch_size if candidate.batch else 1
        return Offer(
            share=share,
            items=self._rates[serving] / (share * self._draft.requests.rate_rps),
            batches=between(self._draft.instance.batches(candidate), size),
            batch_size=size,
            timeout_s=candidate.timeout_s or 0.0,
        )
