"""A profile: how fast one variant is on one device, measured there."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from tiermesh import limits
from tiermesh.documents.fingerprint import Emulation
from tiermesh.documents.reading import Document
from tiermesh.documents.workflow import Name

Positive = Annotated[float, Meta(gt=0)]


class Seconds(Document, frozen=True, kw_only=True):
    """The distribution of the device time of one batch, stage code included, in seconds."""

    mean: Positive
    p50: Positive
    p75: Positive
    p90: Positive
    p95: Positive
    p99: Positive

    def times(self, factor: float) -> Seconds:
        """All of it longer by a factor."""
        return Seconds(**{name: factor * getattr(self, name) for name in self.__struct_fields__})


class Point(Document, frozen=True, kw_only=True):
    """One setting that was measured. `interval` is the half width of the mean's 95 % interval over the mean.

    `peak_memory_bytes` is the most that the process grew by until then, smaller batches included. `cpu_seconds` is the
    processor time of a batch, of all its threads. With a CPU quota, `seconds` are those of a device that is kept busy.
    """

    batch_size: Annotated[int, Meta(ge=1, le=limits.BATCH_SIZE)]
    threads: Annotated[int, Meta(ge=1)]
    samples: Annotated[int, Meta(ge=1)]
    seconds: Seconds
    items_per_second: Positive
    interval: float
    peak_memory_bytes: Annotated[int, Meta(ge=0)] | None = None
    cpu_seconds: Annotated[float, Meta(ge=0)] | None = None


class Profile(Document, frozen=True, kw_only=True):
    """What a device measured of a variant, or why it cannot run it (`cannot_run`).

    `device_class` and `variant_digest` say what it holds for: it is reused while both stay equal. Before each repeat
    the device rested for `pause_seconds`, as one that serves does between batches; 0 is back to back. `request_items`
    are the items of each of the sample requests, whose mean is `items_per_request`.

    `disturbed` is the share of the processor time that the measurement wanted and others took, 0 to 1, and
    `other_load_cores` how many cores they used meanwhile; None where the kernel does not tell. `cpu_quota_cores` is the
    quota that `seconds` take into account. `took_seconds` is how long measuring took.
    """

    schema: Literal["tiermesh.profile/1"] = "tiermesh.profile/1"
    device: str
    device_class: str
    model: Name
    variant: Name
    variant_digest: str
    runtime: str
    runtime_version: str | None = None
    agent_version: str
    measured_at: str
    emulated: Emulation | None = None
    cannot_run: str | None = None
    load_seconds: float | None = None
    peak_memory_bytes: int | None = None
    bytes_out_per_request: float | None = None
    items_per_request: float = 1.0
    request_items: list[Annotated[int, Meta(ge=0)]] = []
    pause_seconds: Annotated[float, Meta(ge=0)] = 0.0
    disturbed: Annotated[float, Meta(ge=0, le=1)] | None = None
    other_load_cores: Annotated[float, Meta(ge=0)] | None = None
    cpu_quota_cores: Annotated[float, Meta(gt=0)] | None = None
    took_seconds: Annotated[float, Meta(ge=0)] | None = None
    points: list[Point] = []
