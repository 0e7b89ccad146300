"""What a worker writes down of its serving, as BATCH (SC'20) logs it: per request, per batch and per replica.

Times are Unix seconds by the worker's clock; durations are seconds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class _Entry(msgspec.Struct, tag_field="entry", frozen=True, kw_only=True, gc=False):
    """Base of all entries: which replica of which generation it is of."""

    workflow: str
    generation: int
    replica: str


class RequestServed(_Entry, tag="request", frozen=True, kw_only=True, gc=False):
    """A request has left a replica. `batch_size` is the largest batch that an item of it was in; 0 for none."""

    request: str
    arrival: float
    departure: float
    latency_s: float
    items: int
    batch_size: int
    outcome: Literal["output", "filtered", "failed"]


class BatchServed(_Entry, tag="batch", frozen=True, kw_only=True, gc=False):
    """A batch has run, from `start` to `end`. `service_s` counts in what preparing its requests had taken before."""

    start: float
    end: float
    size: int
    service_s: float


class ReplicaLoaded(_Entry, tag="replica-loaded", frozen=True, kw_only=True):
    """A replica can serve. `init_s` are its steps; `memory_bytes` is by how much the worker grew with it."""

    init_s: dict[str, float]
    memory_bytes: int
    worker_bytes: int


class ReplicaEnded(_Entry, tag="replica-ended", frozen=True, kw_only=True):
    """A generation's replica has drained: what it has done in all."""

    requests: int
    items: int
    batches: int
    errors: int
    busy_s: float


Entry: TypeAlias = RequestServed | BatchServed | ReplicaLoaded | ReplicaEnded
