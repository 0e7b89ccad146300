"""The documents that batching is asked about: MAPs by trace and hour, service times in three forms, timestamps."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coordinator.planning.batching.arrivals import Floats, MarkovianArrivals
from coordinator.planning.batching.service import (
    AWS_LAMBDA,
    ServiceGrid,
    ServicePrice,
    ServiceTimes,
    polynomial_seconds,
)
from tiermesh import arrival_times, limits
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import Document, convert, decode_json
from tiermesh.errors import InvalidDocument


class MapDocument(Document, frozen=True, kw_only=True):
    """A MAP as it is written: rates per second."""

    D0: list[list[float]]
    D1: list[list[float]]


class Span(Document, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """Values from `first` to `last` in steps."""

    first: float
    last: float
    step: float


class Polynomial(Document, frozen=True, kw_only=True):
    """Service seconds of k requests with m MB: the sum of coefficient * k^i * m^j."""

    terms: list[tuple[float, int, int]]


class Prices(Document, frozen=True, kw_only=True):
    """What a function costs."""

    usd_per_gb_second: float = 0.0
    usd_per_invocation: float = 0.0


class PublishedGrid(Document, frozen=True, kw_only=True):
    """The grid that the polynomials were measured for."""

    memory_mb: Span | None = None
    timeout_s: Span | None = None
    batch_size_published: int | None = None


class Polynomials(Document, frozen=True, kw_only=True):
    """Service times as BATCH published them."""

    models: dict[str, Polynomial]
    prices: Prices = Prices()
    grid: PublishedGrid = PublishedGrid()
    note: str = ""


class BatchTable(Document, frozen=True, kw_only=True):
    """Service seconds by batch size."""

    batch_seconds: dict[str, float]
    name: str = ""


@dataclass(frozen=True, eq=False)
class Service:
    """Service times as they were given: by batch size alone (`times`), or by batch size and memory (`polynomial`)."""

    name: str
    times: ServiceTimes | None = None
    polynomial: Polynomial | None = None
    price: ServicePrice = AWS_LAMBDA
    published: PublishedGrid = field(default_factory=PublishedGrid)

    @property
    def largest_batch(self) -> int:
        """The largest batch for which times are known."""
        if self.times is not None:
            return self.times.largest_batch
        return self.published.batch_size_published or 20

    def on(
        self, memories_mb: Sequence[float], largest_batch: int, price: ServicePrice
    ) -> ServiceGrid:
        """The grid of times for batches up to `largest_batch`, by memory size where there are any.

        InvalidDocument where a polynomial is asked for without memory, or beyond what it can tell.
        """
        memories = tuple(memories_mb)
        if self.times is not None:
            rows = np.tile(self.times.seconds, (max(1, len(memories)), 1))
            return ServiceGrid(rows, memories, price)
        if self.polynomial is None or not memories:
            raise InvalidDocument(
                f"the times of {self.name} depend on memory", fix="Give --memory-mb A:B:STEP"
            )
        sizes = np.arange(1, largest_batch + 1, dtype=float)
        seconds = polynomial_seconds(self.polynomial.terms, sizes, np.array(memories))
        return ServiceGrid(seconds, memories, price)


def read_arrivals(data: bytes, key: str, what: str) -> dict[str, MarkovianArrivals]:
    """The MAPs at `key` (``trace/hour``, a trace, or nothing for the whole file), by hour; one has the name of its key.

    Raises:
        InvalidDocument: no JSON, no such key, or no MAPs there.
    """
    node = decode_json(data, dict[str, Any], what)
    for step in [step for step in key.split("/") if step]:
        node = _child(node, step, what)
    if _is_map(node):
        return {key or "arrivals": _read_map(node, what, key)}
    if node and all(_is_map(hour) for hour in node.values()):
        hours = sorted(node, key=_by_number)
        return {hour: _read_map(node[hour], what, f"{key}/{hour}") for hour in hours}
    raise InvalidDocument(
        f"there are no arrivals at {key or 'the top'} of {what}",
        why="a MAP has D0 and D1; a trace has MAPs by hour",
        fix=_choices(node),
    )


def read_service(data: bytes, key: str, what: str) -> Service:
    """Service times: published polynomials (`key` names the model), a profile of ours, or a table of batch seconds.

    Raises:
        InvalidDocument: none of the three, or no such model.
    """
    node = decode_json(data, dict[str, Any], what)
    if "models" in node:
        return _read_polynomial(convert(node, Polynomials, what), key, what)
    if "batch_seconds" in node:
        table = convert(node, BatchTable, what)
        return Service(
            table.name or what, ServiceTimes.from_measured(_by_size(table.batch_seconds))
        )
    if str(node.get("schema", "")).startswith("tiermesh.profile/"):
        return service_of_profile(convert(node, Profile, what))
    raise InvalidDocument(
        f"{what} holds no service times",
        why='it is neither {"models": ..}, nor {"batch_seconds": {"1": 0.023, ..}}, nor a profile',
    )


def service_of_profile(profile: Profile) -> Service:
    """The mean times of a profile, at the thread count that is fastest for its largest batch."""
    name = f"{profile.variant} on {profile.device}"
    if profile.cannot_run or not profile.points:
        raise InvalidDocument(
            f"the profile of {name} has no times",
            why=profile.cannot_run or "nothing was measured",
            fix=f"Profile {profile.variant} on a device that can run it",
        )
    best = min(profile.points, key=lambda point: (-point.batch_size, point.seconds.mean))
    alike = [point for point in profile.points if point.threads == best.threads]
    return Service(name, ServiceTimes.from_measured({p.batch_size: p.seconds.mean for p in alike}))


def read_timestamps(data: bytes, what: str) -> Floats:
    """The times of a file of recorded arrivals, as they are written.

    Raises:
        InvalidDocument, LimitExceeded: see `tiermesh.arrival_times`.
    """
    return np.array(arrival_times.raw(data, what))


def _read_polynomial(document: Polynomials, key: str, what: str) -> Service:
    if not key and len(document.models) == 1:
        key = next(iter(document.models))
    if key not in document.models:
        raise InvalidDocument(
            f"{what} has no model {key!r}" if key else f"{what} has several models",
            fix=_choices(document.models, key),
        )
    prices = document.prices
    price = ServicePrice(prices.usd_per_gb_second, prices.usd_per_invocation)
    return Service(key, None, document.models[key], price, document.grid)


def _by_size(table: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(size): seconds for size, seconds in table.items()}
    except ValueError as error:
        raise InvalidDocument("a batch size is not a whole number", why=str(error)) from None


def _read_map(node: Any, what: str, key: str) -> MarkovianArrivals:
    document = convert(node, MapDocument, what)
    sizes = {len(document.D0), len(document.D1), *(len(row) for row in document.D0 + document.D1)}
    if len(sizes) != 1 or max(sizes) > limits.STAGES:
        raise InvalidDocument(
            f"{what} is wrong at {key}", why="D0 and D1 are not square and of one size"
        )
    return MarkovianArrivals(np.array(document.D0), np.array(document.D1))


def _by_number(name: str) -> tuple[bool, int, str]:
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _is_map(node: Any) -> bool:
    return isinstance(node, dict) and "D0" in node


def _child(node: Mapping[str, Any], step: str, what: str) -> dict[str, Any]:
    if isinstance(node.get(step), dict):
        return node[step]
    raise InvalidDocument(f"{what} has no {step!r}", fix=_choices(node, step))


def _choices(node: Mapping[str, Any], wanted: str = "") -> str:
    names = list(node)
    close = difflib.get_close_matches(wanted, names, n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + "There are: " + ", ".join(names[:40])
