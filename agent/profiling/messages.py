"""What the agent and the process that measures for it say to each other, as JSON lines."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from tiermesh.documents.profile import Point
from tiermesh.documents.variant import Variant


class MeasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Measure `variant` from the store in the folder `store`, each of `threads` by `batch_sizes`.

    Repeats end at `interval` (see `repeating.Rule`), everything at `time_limit_seconds`. `to_beat_seconds` are, for
    each batch size, what a batch of another variant takes that is at least as accurate: this one is measured coarsely
    once it is certain to be slower; 0 where there is none. `quota_cores` is the CPU quota that holds here.
    """

    variant: Variant
    store: str
    batch_sizes: list[int]
    threads: list[int]
    time_limit_seconds: float
    interval: float
    min_repeats: int
    max_repeats: int
    slowdown: float = 1.0
    to_beat_seconds: list[float] = []
    quota_cores: float | None = None


class _Answer(msgspec.Struct, frozen=True, tag_field="answer", tag=str.lower):
    pass


class MeasureProgress(_Answer, frozen=True):
    """How far it is, 0 to 1, and what is being done, for people."""

    done: float
    doing: str


class MeasureResult(_Answer, frozen=True, kw_only=True):
    """The result; see `tiermesh.documents.profile.Profile`."""

    load_seconds: float
    peak_memory_bytes: int
    bytes_out_per_request: float
    items_per_request: float
    request_items: list[int]
    pause_seconds: float
    disturbed: float | None = None
    other_load_cores: float | None = None
    cpu_quota_cores: float | None = None
    points: list[Point]


class CannotRun(_Answer, frozen=True):
    """This device cannot run the variant; that stays true until the device or the variant changes."""

    why: str


class MeasureFailed(_Answer, frozen=True):
    """Nothing was learned about the device; an error in its `to_dict` form."""

    error: dict[str, Any]


Answer: TypeAlias = MeasureProgress | MeasureResult | CannotRun | MeasureFailed
