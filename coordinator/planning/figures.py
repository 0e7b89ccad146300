"""What replicas come to at a setting (B, T): device time per item, sizes of batches, seconds from arrival to departure.

Replicas of a device are followed together through the worker's policy over the same arrivals (`follow_shared`); a
function has the law of unlimited servers where it gets all requests, and is followed over its arrivals elsewhere.
Where all batches are of one item and arrivals are Poisson or even ones, the formula of `latency` is as good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from coordinator.planning.batching.arrivals import Floats
from coordinator.planning.batching.recursion import Replay, replay
from coordinator.planning.batching.service import ServicePrice, ServiceTimes
from coordinator.planning.batching.unlimited import BatchLaw, UnlimitedServers
from coordinator.planning.latency import LaneLoad, Seconds, service, sojourn
from coordinator.planning.requests import FEWEST, Requests, span, with_items
from tiermesh.batching.policy import Queue, follow_shared
from tiermesh.documents.problem import BatchTime, Serverless

ITEMS: Final = 6_000
"""Items followed, the more the burstier they come: p95 within a few percent, device time within one."""
_WARMUP: Final = 0.02
_POINTS: Final = 400
ALL: Final = 1 - 1e-6
"""A share this large is that of all requests; a smaller one is dealt, and more regular than the law's random share."""
TIMEOUTS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Timeouts that are tried, in times of a full batch."""


class Sojourn(Protocol):
    """Seconds from arrival to departure."""

    def at(self, levels: Seconds) -> Seconds:
        """Its quantiles."""
        ...


@dataclass(frozen=True, eq=False)
class Figures:
    """What a replica comes to. `seconds` is device time per item; `usd_per_item` is a function's mean price."""

    batch_size: int
    timeout_s: float
    seconds: float
    mean_batch: float
    sojourn: Sojourn
    usd_per_item: float = 0.0


@dataclass(frozen=True)
class Offer:
    """What a replica is offered and how it batches: a share of the requests, of `items` (mean) each.

    `batches` are the sizes measured; batches in between take a time in between.
    """

    share: float
    items: float
    batches: tuple[BatchTime, ...]
    batch_size: int
    timeout_s: float = 0.0

    @property
    def times(self) -> ServiceTimes:
        """Mean seconds of a batch of 1, 2, .. items."""
        return ServiceTimes.from_measured({b.batch_size: b.mean for b in self.batches})

    @property
    def full(self) -> BatchTime:
        """A full batch."""
        return next(b for b in self.batches if b.batch_size == self.batch_size)

    def rate(self, requests: Requests) -> float:
        """Items per second."""
        return requests.rate_rps * self.share * self.items


@dataclass(frozen=True, eq=False)
class Formula:
    """Wait and service of batches of one item, by `sojourn`."""

    batch: BatchTime
    load: LaneLoad

    def at(self, levels: Seconds) -> Seconds:
        """See `Sojourn`."""
        return sojourn(self.batch, self.load, levels)


@dataclass(frozen=True, eq=False)
class SampledLatency:
    """Quantiles at levels between 0 and 1, with the service's mean; its spread is added at the same quantile."""

    levels: Floats
    seconds: Floats
    batch: BatchTime

    def at(self, levels: Seconds) -> Seconds:
        """See `Sojourn`."""
        spread = service(self.batch, levels) - self.batch.mean
        found = np.interp(levels, self.levels, self.seconds) + spread
        return np.maximum(found, 0.0)

    @classmethod
    def of(cls, latencies: Floats, batch: BatchTime) -> SampledLatency:
        """From latencies in any order."""
        ordered = np.sort(latencies)
        return cls((np.arange(len(ordered)) + 0.5) / len(ordered), ordered, batch)


# --- devices -----------------------------------------------------------------------------------------------------


def on_device(
    offers: Sequence[Offer], requests: Requests, usable: float, longest_s: float = math.inf
) -> list[Figures]:
    """What the replicas of one device come to, with the shortest timeouts that keep it within its usable share.

    Batches that start as soon as the device is free are small while it has time to spare. Where that would make it
    busier than it may be, its batches wait for more items, for up to `longest_s`.
    """
    if plain(offers, requests):
        return _by_formula(offers, requests)
    found: list[Figures] = []
    for part in TIMEOUTS if usable < 1 else TIMEOUTS[:1]:
        waiting = [
            replace(o, timeout_s=max(o.timeout_s, min(part * o.full.mean, longest_s)))
            if o.batch_size > 1
            else o
            for o in offers
        ]
        found = followed(waiting, requests)
        busy = sum(o.rate(requests) * f.seconds for o, f in zip(offers, found, strict=True))
        if busy <= usable or all(o.batch_size == 1 for o in offers):
            break
    return found


def plain(offers: Sequence[Offer], requests: Requests) -> bool:
    """Whether the formula will do: batches of one item, and arrivals that are Poisson or thinned even ones."""
    drawn = requests.process is not None and not requests.memoryless
    return all(o.batch_size == 1 for o in offers) and not drawn and not requests.record


def _by_formula(offers: Sequence[Offer], requests: Requests) -> list[Figures]:
    load = load_of([(o.rate(requests), o.full) for o in offers])
    return [Figures(1, o.timeout_s, o.full.mean, 1.0, Formula(o.full, load)) for o in offers]


def load_of(served: Sequence[tuple[float, BatchTime]]) -> LaneLoad:
    """What items per second, in full batches, ask of a device."""
    busy = sum(rate * b.mean / b.batch_size for rate, b in served)
    batches = sum(rate / b.batch_size for rate, b in served)
    square = sum(rate / b.batch_size * b.mean**2 for rate, b in served)
    return LaneLoad(busy, batches, square / batches if batches > 0 else 0.0)


def followed(
    offers: Sequence[Offer], requests: Requests, count: int | None = None
) -> list[Figures]:
    """Follow the replicas of one device through the policy, over common arrivals.

    Each request comes to every stage that it passes here, one after the other: the same times, a batch's time later.
    """
    arrivals = _arrivals(offers, requests, (count or ITEMS) * requests.unevenness)
    queues = [
        Queue(times.tolist(), o.times.seconds.tolist(), o.batch_size, o.timeout_s)
        for times, o in zip(arrivals, offers, strict=True)
    ]
    if len(queues) == 1:
        runs = [_alone(arrivals[0], offers[0])]
    else:
        runs = [
            _replayed(times, q, *run)
            for times, q, run in zip(arrivals, queues, follow_shared(queues), strict=True)
        ]
    return [_figures(o, run) for o, run in zip(offers, runs, strict=True)]


def _arrivals(offers: Sequence[Offer], requests: Requests, count: int) -> list[Floats]:
    most = max(o.share for o in offers)
    items = sum(o.share / most * o.items for o in offers)
    times, positions = requests.dealt(most, max(int(count / max(items, 1e-6)), FEWEST))
    found: list[Floats] = []
    later = 0.0
    for number, offer in enumerate(offers):
        kept = positions <= offer.share
        kept[:2] = True
        mine = with_items(times[kept], offer.items, np.random.default_rng(number))
        found.append(mine + later)
        later += float(offer.times.seconds[0])
    return found


def _alone(times: Floats, offer: Offer) -> Replay:
    return replay(times, offer.times, offer.batch_size, offer.timeout_s, warmup=_WARMUP)


def _replayed(times: Floats, queue: Queue, starts: list[float], sizes: list[int]) -> Replay:
    taken = np.array(sizes, dtype=np.int64)
    held = np.array(queue.seconds)[taken - 1]
    latencies = np.repeat(np.array(starts) + held, taken) - times
    counted = latencies[int(_WARMUP * len(latencies)) :]
    return Replay(np.array(starts), taken, counted, float(held.sum()), span(times), 1)


def _figures(offer: Offer, run: Replay) -> Figures:
    items = int(run.sizes.sum())
    return Figures(
        offer.batch_size,
        offer.timeout_s,
        run.busy_s / items,
        float(run.sizes.mean()),
        SampledLatency.of(run.latencies_s, offer.full),
    )


# --- functions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FunctionSize:
    """A function's memory size and what it costs."""

    memory_mb: float
    terms: Serverless

    @property
    def price(self) -> ServicePrice:
        """Its price list."""
        return ServicePrice(self.terms.usd_per_gb_second, self.terms.usd_per_call)

    @property
    def cold_s(self) -> float:
        """What a call takes longer on average because servers start."""
        cold = self.terms.cold_start
        return cold.seconds * cold.share if cold is not None else 0.0

    def floor(self, batches: Sequence[BatchTime]) -> float:
        """The least that an item can cost: in batches that are always full, of the best size."""
        return min(
            float(self.price.per_request(b.mean + self.cold_s, 1.0, self.memory_mb)) / b.batch_size
            for b in batches
        )


def of_function(offer: Offer, requests: Requests, function: FunctionSize) -> Figures:
    """What a function comes to, at its true mean price."""
    exact = offer.share >= ALL and offer.items <= 1 and not requests.record
    shape = _by_law(offer, requests) if exact else _unlimited(offer, requests)
    seconds, mean, sojourn = shape
    seconds += function.cold_s / mean
    return Figures(
        offer.batch_size,
        offer.timeout_s,
        seconds,
        mean,
        _with_cold_starts(sojourn, function.terms),
        float(function.price.per_request(seconds, mean, function.memory_mb)),
    )


def _by_law(offer: Offer, requests: Requests) -> tuple[float, float, SampledLatency]:
    process = requests.as_process.thinned(offer.items)
    law = UnlimitedServers(process, [offer.batch_size], [offer.timeout_s]).law(offer.batch_size)
    row = offer.times.seconds[None, : offer.batch_size]
    sojourn = _inverted(law, row, offer)
    return float(law.device_seconds(row)[0, 0]), float(law.mean_batch[0]), sojourn


def _inverted(law: BatchLaw, row: Floats, offer: Offer) -> SampledLatency:
    """The quantiles of a law's latencies, from their distribution at points that include its jumps."""
    longest = float(row.max()) + offer.timeout_s
    jumps = np.concatenate([row[0], row[0] + offer.timeout_s])
    points = np.concatenate([np.linspace(float(row.min()), longest, _POINTS), jumps])
    points = np.unique(np.concatenate([points, jumps * (1 - 1e-9)]))
    shares = law.waits.shares(points[None, :], np.repeat(row, len(points), axis=0))[0]
    return SampledLatency(np.maximum.accumulate(shares), points, offer.full)


def _unlimited(offer: Offer, requests: Requests) -> tuple[float, float, SampledLatency]:
    times = requests.at(offer.share, offer.items, ITEMS * requests.unevenness)
    run = replay(times, offer.times, offer.batch_size, offer.timeout_s, servers=None)
    seconds = run.busy_s / int(run.sizes.sum())
    return seconds, float(run.sizes.mean()), SampledLatency.of(run.latencies_s, offer.full)


def _with_cold_starts(warm: SampledLatency, terms: Serverless) -> SampledLatency:
    """The mixture of calls that find a server and calls that start one."""
    cold = terms.cold_start
    if cold is None or cold.share <= 0:
        return warm
    weights = np.diff(np.concatenate([[0.0], (warm.levels[1:] + warm.levels[:-1]) / 2, [1.0]]))
    seconds = np.concatenate([warm.seconds, warm.seconds + cold.seconds])
    mass = np.concatenate([weights * (1 - cold.share), weights * cold.share])
    order = np.argsort(seconds, kind="stable")
    levels = np.cumsum(mass[order]) - mass[order] / 2
    return SampledLatency(levels, seconds[order], warm.batch)


def mean_of(sojourn: Sojourn) -> float:
    """The mean of a sojourn."""
    return float(np.mean(sojourn.at((np.arange(400) + 0.5) / 400)))
