"""The API's documents: what handlers answer, what `--json` prints, and what clients render.

Those of planning and telemetry (`Explanation`, `Difference`, `RolloutOutcome`, `WorkflowStatus`) are the types of those
packages; the others are here. All are published: see `coordinator.api.schemas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coordinator.fleet.lifecycle import EXIT_CODES, Phase, RolloutOutcome
from coordinator.planning.diff import Difference
from coordinator.telemetry.attainment import AttainmentVerdict, LatencyObjective, ServedAccuracy
from coordinator.telemetry.status import BatteryStatus, Ledger
from tiermesh.documents.reading import decode_json

if TYPE_CHECKING:
    from coordinator.keeping.waiting import Waited
    from coordinator.rollout.applying import Part, RolloutResult

T = TypeVar("T")


def encode_document(value: object) -> bytes:
    """A document as JSON; quantities become numbers of their base unit."""
    return msgspec.json.encode(value, enc_hook=float)


def decode_document(data: bytes, to: type[T]) -> T:
    """A document of the other end.

    Raises:
        InvalidDocument: it is of another kind.
        LimitExceeded: it is too long.
    """
    return decode_json(data, to, f"the document {getattr(to, '__name__', to)}")


class DeviceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A device. Prices in US dollars per hour, sizes in bytes, `seen_at` in Unix seconds, shares 0 to 1."""

    name: str
    id: str
    state: str
    why: str
    address: str
    data_address: str
    tier: str
    price_per_hour: float
    usable_share: float
    host: str
    device_class: str
    threads: int
    cpu_quota_cores: float | None
    cpu: str
    memory_bytes: int
    runtimes: dict[str, str | None]
    usable_runtimes: list[str]
    emulated_slowdown: float | None
    agent_version: str
    generations: dict[str, int]
    seen_at: float
    power: str | None
    battery: BatteryStatus | None
    disturbed: float | None
    """The share of CPU time that other processes took while it was profiled; None where nothing was measured."""


class UnreachableAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address that does not answer, and why, address by address."""

    address: str
    via: str
    addresses: list[str]
    failures: list[str]


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """All devices, and the addresses that do not answer."""

    devices: list[DeviceDocument]
    unreachable: list[UnreachableAddress]


class EventDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the journal: `at` is Unix seconds, `who` caused it (`by` is its name), `details` is all of it."""

    number: int
    at: float
    who: str
    by: str
    event: str
    about: str
    text: str
    details: dict[str, Any] = {}


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """Events, oldest first."""

    events: list[EventDocument]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """A profile of a device in short: milliseconds for one item, items per second at the best batch size."""

    device: str
    model: str
    variant: str
    cannot_run: str | None
    measured_on: str
    measured_at: str
    one_p50_ms: float | None
    one_p95_ms: float | None
    items_per_second: float | None
    best_batch_size: int | None
    interval: float | None
    disturbed: float | None
    other_load_cores: float | None
    cpu_quota_cores: float | None
    took_seconds: float | None
    peak_memory_bytes: int | None
    emulated_slowdown: float | None


class FailedMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that has no profile on a device, and why."""

    device: str
    model: str
    variant: str
    why: str


class MeasurementReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known after measuring. `measured` are new profiles, `seconds` is how long that took."""

    profiles: list[Measurement]
    failed: list[FailedMeasurement]
    measured: int
    seconds: float


class RolloutReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a rollout ended; see `coordinator.rollout.rollouts.RolloutResult`."""

    workflow: str
    plan: str
    generation: int
    run: str
    outcome: RolloutOutcome
    unchanged: bool
    devices: dict[str, Phase]
    failures: dict[str, str]
    sent_bytes: dict[str, int]
    fetched_bytes: dict[str, dict[str, int]]
    restored: RolloutReport | None

    @property
    def exit_code(self) -> int:
        """0 when the plan runs; 4 when it was partly applied and rolled back."""
        return EXIT_CODES[self.restored.outcome if self.restored else self.outcome]

    def flat(self) -> dict[str, Any]:
        """Its fields, to be told together with others."""
        return msgspec.structs.asdict(self)

    @classmethod
    def of(cls, applied: RolloutResult) -> RolloutReport:
        """The document of a rollout."""
        return cls(
            workflow=applied.workflow,
            plan=applied.plan,
            generation=applied.generation,
            run=applied.run,
            outcome=applied.outcome,
            unchanged=applied.unchanged,
            devices=dict(applied.phases),
            failures=dict(applied.failures),
            sent_bytes=dict(applied.sent_bytes),
            fetched_bytes={name: dict(by) for name, by in applied.fetched_bytes.items()},
            restored=cls.of(applied.restored) if applied.restored is not None else None,
        )


class PreviewPart(msgspec.Struct, frozen=True, kw_only=True):
    """What a device would get; `lacking_bytes` is None where it did not say (`why`)."""

    device: str
    generation: int
    run: str
    replicas: list[str]
    artifacts: list[str]
    lacking_bytes: int | None
    why: str

    @classmethod
    def of(cls, part: Part) -> PreviewPart:
        """The document of a part."""
        return cls(
            device=part.device,
            generation=part.assignment.generation,
            run=part.assignment.run,
            replicas=[replica.id for replica in part.assignment.replicas],
            artifacts=sorted(part.assignment.artifacts),
            lacking_bytes=part.lacking_bytes,
            why=part.why,
        )


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a plan would do."""

    dry_run: bool
    parts: list[PreviewPart]


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """What draining a device changes, by workflow; `drained` is None until it has been carried out."""

    device: str
    dry_run: bool
    changes: dict[str, Difference]
    drained: bool | None = None
    rollouts: list[RolloutReport] = []


class ArtifactDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact on a device, and what keeps it there; `used_at` is Unix seconds."""

    digest: str
    bytes: int
    complete: bool
    needed_for: str
    used_at: float
    freed: bool


class DeviceArtifacts(msgspec.Struct, frozen=True, kw_only=True):
    """The artifacts of a device."""

    artifacts: list[ArtifactDocument]
    unneeded_bytes: int
    freed_bytes: int
    free_bytes: int


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True):
    """The artifacts of devices by name, and why others did not say."""

    devices: dict[str, DeviceArtifacts]
    failures: dict[str, dict[str, Any]]


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """What of a running workflow is otherwise than planned. Latencies in milliseconds."""

    workflow: str
    generation: int
    causes: list[dict[str, Any]]
    load: dict[str, Any] | None
    predicted_ms: dict[str, float]
    expected_ms: dict[str, float]
    corrections: dict[str, dict[str, Any]]


class WaitedRun(msgspec.Struct, frozen=True, kw_only=True):
    """What came of waiting for a run; see `coordinator.keeping.waiting.Waited`."""

    ok: bool
    wrong: list[str]
    workflow: str
    run: str
    finished: bool
    timed_out: bool
    ledger: Ledger
    failed: int
    verdict: AttainmentVerdict
    objectives: list[LatencyObjective]
    accuracy: ServedAccuracy
    latency_ms: dict[str, float]

    @classmethod
    def of(cls, waited: Waited) -> WaitedRun:
        """The document of what came of it."""
        fields = {name: getattr(waited, name) for name in cls.__struct_fields__}
        return cls(**fields)


def plain(value: Mapping[str, Any] | object) -> Any:
    """A document as dicts, lists, strings and numbers."""
    return msgspec.to_builtins(value, enc_hook=float)
