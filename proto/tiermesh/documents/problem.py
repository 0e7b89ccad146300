"""The problem: everything a plan follows from. A plan is a pure function of this file.

Units: seconds, requests or items per second, bytes, US dollars per hour, US dollars per GiB, Mbit/s.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from tiermesh import ids, limits
from tiermesh.documents.reading import Document, to_plain
from tiermesh.documents.workflow import Name, Percentile

NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Confidence = Annotated[float, Meta(ge=0.5, lt=1)]


class ColdStart(Document, frozen=True, kw_only=True):
    """What a call takes longer when a server has to start for it, and the share of the calls that do.

    The time is paid for. `source` says where the figures come from: providers do not promise any.
    """

    seconds: Positive
    share: Fraction
    source: Annotated[str, Meta(min_length=1)]


class Serverless(Document, frozen=True, kw_only=True):
    """The terms of functions: as many servers as there are batches, paid for by the GB-second and the call.

    1 GB is 1024 MB, as price lists count. The memory sizes on offer are those with a profile.
    """

    usd_per_gb_second: NonNegative
    usd_per_call: NonNegative = 0.0
    cold_start: ColdStart | None = None


class ProblemDevice(Document, frozen=True, kw_only=True):
    """A device, or `count` equal ones (their names are then ``name.1``, ``name.2`` ...).

    `usable_share` is how much of its time stages may take; `uplink_mbps` and `downlink_mbps` bound all that one
    device sends to, and takes from, others. A `serverless` device stands for a provider's functions: it is paid
    for by use alone, has no queue for a device, and does not count as one that may be lost.

    Devices with an equal `host` are agents on one machine: its speed is the speed of all of them, and batches take
    `contention` times as long on the mean as they do alone, since the neighbours work at the same time.
    """

    name: Name
    tier: Name
    count: Annotated[int, Meta(ge=1, le=limits.DEVICES)] = 1
    price_per_hour: NonNegative = 0.0
    memory_mb: NonNegative | None = None
    usable_share: Fraction = 1.0
    watts_busy: NonNegative = 0.0
    watts_idle: NonNegative = 0.0
    uplink_mbps: Positive | None = None
    downlink_mbps: Positive | None = None
    serverless: Serverless | None = None
    host: str | None = None
    contention: Annotated[float, Meta(ge=1)] = 1.0


class ProblemLink(Document, frozen=True, kw_only=True):
    """A directed link between devices, tiers or sources (by name). `allowed: false` forbids it.

    Where several match, device to device wins over device to tier, that over tier to device, and that over tier
    to tier. Where none does, the problem's `default_link` holds; within one device nothing is charged or delayed.
    `capacity_mbps` is shared by all the traffic that the entry governs.
    """

    source: str = field(name="from")
    target: str = field(name="to")
    price_per_gib: NonNegative = 0.0
    capacity_mbps: Positive | None = None
    rtt_ms: NonNegative = 0.0
    allowed: bool = True


class DefaultLink(Document, frozen=True, kw_only=True):
    """What holds between devices for which no link is listed."""

    price_per_gib: NonNegative = 0.0
    capacity_mbps: Positive | None = None
    rtt_ms: NonNegative = 0.0
    allowed: bool = True


class MapRates(Document, frozen=True, kw_only=True):
    """A Markovian arrival process: rates per second of changing phase without (D0) and with (D1) an arrival."""

    D0: list[list[float]]
    D1: list[list[float]]


class Arrivals(Document, frozen=True, kw_only=True):
    """How requests come: a process (`map`), or recorded seconds in ascending order (`trace_s`).

    The shape alone counts: its clock is scaled until as many come as the source's `rate_rps` says.
    """

    map: MapRates | None = None
    trace_s: Annotated[list[float], Meta(max_length=limits.TRACE_TIMES)] = []


class ProblemStage(Document, frozen=True, kw_only=True):
    """A stage. A stage without a model has no variants. Sources and sinks may be pinned to devices by share.

    An `external` source or sink is outside the fleet: it is not placed, and links name it by its stage name
    (free where none does). A stage without variants and without a profile takes no device time. A `stateful`
    stage runs as one replica. `devices` and `tiers` restrict where a stage may run; empty means anywhere.
    `arrivals` is how a source's requests come: evenly, by chance, or as a process or a record says.
    """

    name: Name
    kind: Literal["source", "model", "map", "filter", "join", "aggregate", "union", "sink"]
    variants: Annotated[list[Name], Meta(max_length=limits.VARIANTS_PER_STAGE)] = []
    rate_rps: NonNegative | None = None
    pinned: dict[Name, Fraction] = {}
    devices: list[Name] = []
    tiers: list[Name] = []
    stateful: bool = False
    external: bool = False
    arrivals: Literal["constant", "poisson"] | Arrivals = "poisson"


class ByVariants(Document, frozen=True, kw_only=True):
    """What an edge carries for one pair of variants; None matches any. Left out values keep the edge's."""

    source_variant: Name | None = field(name="from_variant", default=None)
    target_variant: Name | None = field(name="to_variant", default=None)
    ratio: NonNegative | None = None
    bytes_per_item: NonNegative | None = None


class ProblemEdge(Document, frozen=True, kw_only=True):
    """An edge: `ratio` items of the reading stage per item of the writing one, and bytes per written item.

    `*_by_variant` overrides per variant of the writing stage, `by_variants` per variants of both; the first entry
    that matches and gives a value wins. `items_seen` are whole numbers of items that single written ones became, as
    often as they do; what is played through draws from them, and rounds the ratio by chance where there are none.
    """

    source: Name = field(name="from")
    target: Name = field(name="to")
    ratio: NonNegative = 1.0
    ratio_by_variant: dict[Name, NonNegative] = {}
    bytes_per_item: NonNegative = 0.0
    bytes_by_variant: dict[Name, NonNegative] = {}
    by_variants: list[ByVariants] = []
    items_seen: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=limits.ITEMS_SEEN)] = []


class BatchTime(Document, frozen=True, kw_only=True):
    """Device time of one batch: its mean and, where measured, its percentiles, in seconds."""

    batch_size: Annotated[int, Meta(ge=1, le=limits.BATCH_SIZE)]
    mean: Positive
    percentiles: dict[Percentile, Positive] = {}


class ProblemProfile(Document, frozen=True, kw_only=True):
    """How fast a stage's variant is on a device, for each batch size that may be used.

    On a serverless device `memory_mb` is the size of the function that was measured; each size has its own profile.
    `relative_errors` are the standard errors of the means over the means, one for each of `batches`; none: exact.
    A profile that was corrected by what serving measured (`served`) has its device's contention in it already.
    `prior` names the class of hardware that it was taken from, where this device has not measured it.
    """

    stage: Name
    variant: Name | None = None
    device: Name
    batches: Annotated[list[BatchTime], Meta(min_length=1)]
    memory_mb: NonNegative = 0.0
    relative_errors: list[NonNegative] = []
    served: bool = False
    prior: str | None = None


class Uncertainty(Document, frozen=True, kw_only=True):
    """How far device times may lie from their profiles, besides each profile's own `relative_errors`.

    Device time is its profile times a lognormal factor. `between_runs` is the standard deviation of the factor's
    logarithm from one run to the next, shared by all devices of a host: on a shared machine the speed moved by 10 to
    20 % (bench/predictions). `while_serving` is the same of a profile that serving has corrected. A plan with 95 %
    confidence allows for devices that are slower by the share `slower` at least, however well they are known.
    """

    between_runs: NonNegative = 0.10
    while_serving: NonNegative = 0.05
    slower: NonNegative = 0.25


class Combination(Document, frozen=True, kw_only=True):
    """The measured end-to-end accuracy of one choice of variants, by stage."""

    variants: dict[Name, Name]
    accuracy: float


class AccuracySample(Document, frozen=True, kw_only=True):
    """The accuracy that an operator was measured to have when its inputs had theirs."""

    inputs: list[float] = []
    output: float


class OperatorAccuracy(Document, frozen=True, kw_only=True):
    """How the accuracy of a stage's output follows from that of the stages it reads, per variant."""

    stage: Name
    inputs: list[Name] = []
    samples: dict[Name, Annotated[list[AccuracySample], Meta(min_length=1)]]


class Accuracy(Document, frozen=True, kw_only=True):
    """End-to-end accuracy: a table over combinations, or else composed of operators, the last one's output.

    Stages that are not named do not matter to it. Composition interpolates between samples and never
    extrapolates: a combination beyond them is not used.
    """

    table: list[Combination] = []
    operators: list[OperatorAccuracy] = []


class Degraded(Document, frozen=True, kw_only=True):
    """What must still hold when any one device is lost: a share of the rates, and an accuracy."""

    rate_share: Fraction = 1.0
    accuracy_at_least: float | None = None


class Asks(Document, frozen=True, kw_only=True):
    """What a plan must meet, besides the rates of the sources. `any_device_lost` asks for N-1.

    With `confidence`, utilization and latency hold with that probability, given the problem's `uncertainty`.
    """

    accuracy_at_least: float | None = None
    every_request: bool = False
    latency_s: dict[Percentile, Positive] = {}
    cost_per_hour_at_most: NonNegative | None = None
    watts_at_most: NonNegative | None = None
    any_device_lost: Degraded | None = None
    confidence: Confidence | None = None


class RunningReplica(Document, frozen=True, kw_only=True):
    """A replica that runs now: keeping it costs no start."""

    stage: Name
    variant: Name | None = None
    device: Name


class Terms(Document, frozen=True, kw_only=True):
    """Prices that add to the objective: dollars per hour for each replica to start, and per kWh of energy."""

    churn_per_start: NonNegative = 0.0
    price_per_kwh: NonNegative = 0.0


class Problem(Document, frozen=True, kw_only=True):
    """A planning problem. `tiers` are ordered, lowest first; `upward_only` forbids traffic to a lower tier.

    `workflow_digest` and `fleet_digest` tie it to a live fleet; they are absent for an imported problem.
    """

    schema: Literal["tiermesh.problem/1"] = "tiermesh.problem/1"
    name: Name
    workflow_digest: str | None = None
    fleet_digest: str | None = None
    tiers: Annotated[list[Name], Meta(min_length=1)]
    devices: Annotated[list[ProblemDevice], Meta(min_length=1)]
    links: list[ProblemLink] = []
    default_link: DefaultLink = DefaultLink()
    upward_only: bool = False
    stages: Annotated[list[ProblemStage], Meta(min_length=1, max_length=limits.STAGES)]
    edges: list[ProblemEdge]
    profiles: list[ProblemProfile]
    accuracy: Accuracy | None = None
    asks: Asks = Asks()
    terms: Terms = Terms()
    running: list[RunningReplica] = []
    uncertainty: Uncertainty | None = None

    @property
    def digest(self) -> str:
        """What a plan names as the problem it answers; what a problem does not say of uncertainty does not count."""
        plain = to_plain(self)
        _drop(plain, "uncertainty", None)
        _drop(plain["asks"], "confidence", None)
        for device in plain["devices"]:
            _drop(device, "host", None)
            _drop(device, "contention", 1.0)
        for profile in plain["profiles"]:
            _drop(profile, "relative_errors", [])
            _drop(profile, "served", False)
            _drop(profile, "prior", None)
        return ids.digest_value(plain)


def _drop(of: dict[str, Any], name: str, unsaid: object) -> None:
    if of[name] == unsaid:
        del of[name]
