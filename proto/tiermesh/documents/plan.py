"""The plan: which variant of which stage runs where, for which share of the requests, with its proof."""

from __future__ import annotations

from math import isnan, nan
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field, structs

from tiermesh import ids, limits
from tiermesh.documents.problem import BatchTime
from tiermesh.documents.reading import Document, to_plain
from tiermesh.documents.workflow import Name, Percentile


class MadeFor(Document, frozen=True, kw_only=True):
    """Digests of what the plan was computed from; `apply` refuses the plan when they have moved on."""

    problem: str
    workflow: str | None = None
    fleet: str | None = None


class Solver(Document, frozen=True, kw_only=True):
    """How the plan was found. `gap` is (objective - bound) / |objective|; None where no bound is known."""

    name: str
    status: Literal["ok", "warning"]
    termination: Literal["optimal", "time-limit", "gap-limit", "heuristic"]
    objective: float
    bound: float | None
    gap: float | None
    seconds: float


class Cost(Document, frozen=True, kw_only=True):
    """US dollars per hour: of devices, of functions (`serverless_per_hour`, at the planned rate), and of traffic."""

    compute_per_hour: float
    network_per_hour: float
    total_per_hour: float
    serverless_per_hour: float = 0.0


class Predicted(Document, frozen=True, kw_only=True):
    """What the plan promises; None where nothing is known of it. Latencies in milliseconds, end to end.

    They are those of the device times as profiled. `latency_interval_ms` is where p50 and p95 lie with 90 %
    probability, given how uncertain device times are; empty where the problem does not say.
    """

    throughput_rps: float
    accuracy: float | None = None
    latency_ms: dict[Percentile, float] = {}
    latency_interval_ms: dict[Percentile, tuple[float, float]] = {}


class ConfidencePrice(Document, frozen=True, kw_only=True):
    """What a plan with another confidence costs; `total_per_hour` is None where none is feasible.

    `confidence` is None for a plan without any margin.
    """

    confidence: float | None
    total_per_hour: float | None


class Margin(Document, frozen=True, kw_only=True):
    """What a plan allows for: device times that are slower than profiled.

    Utilization and latency hold with probability `confidence`. `device_time_factor` is that of each device (by name):
    its profiled times times this are what was planned with. `price_per_hour` is what the plan costs more than one
    without margin; with `frontier` it is found out, with prices of other confidences.
    """

    confidence: float
    device_time_factor: dict[str, float]
    price_per_hour: float | None = None
    frontier: list[ConfidencePrice] = []


class Room(Document, frozen=True, kw_only=True):
    """Within which a worker may set a replica's batches anew when arrivals drift.

    `latency_p95_ms` is what 95 % of its requests should stay within there, wait and batch; None asks for the least.
    `batches` is what they took when they were measured, from which the worker starts.
    """

    batch_size_max: Annotated[int, Meta(ge=1, le=limits.BATCH_SIZE)]
    batch_timeout_ms_max: Annotated[float, Meta(ge=0)] = 0.0
    latency_p95_ms: Annotated[float, Meta(gt=0)] | None = None
    batches: list[BatchTime] = []


class Function(Document, frozen=True, kw_only=True):
    """A replica as a provider's function: its memory size, the mean price of an item, and how many run at once."""

    memory_mb: float
    usd_per_item: float
    mean_servers: float


class Replica(Document, frozen=True, kw_only=True):
    """A stage's variant on a device. `id` is ``stage@device`` or ``stage@device/variant``.

    `utilization` is the share of the device's time that its batches take, at the size that they come to. Without
    `room` its batches stay as planned. A `function` is no device of the mesh, and keeps none busy.
    """

    id: str
    stage: Name
    variant: str | None = None
    device: Name
    items_per_second: float = field(default_factory=lambda: nan)
    rate_rps: Annotated[float, Meta(extra_json_schema={"deprecated": True})] | UnsetType = UNSET
    """What `items_per_second` was called: read in plans that were kept, and never written."""
    batch_size: Annotated[int, Meta(ge=1)] = 1
    batch_timeout_ms: Annotated[float, Meta(ge=0)] = 0.0
    utilization: float = 0.0
    memory_mb: float | None = None
    room: Room | None = None
    function: Function | None = None

    def __post_init__(self) -> None:
        """Take the rate from where older plans have it.

        Raises:
            ValueError: there is none.
        """
        if self.rate_rps is not UNSET:
            structs.force_setattr(self, "items_per_second", self.rate_rps)
            structs.force_setattr(self, "rate_rps", UNSET)
        if isnan(self.items_per_second):
            raise ValueError("`items_per_second` is missing")


class Lane(Document, frozen=True, kw_only=True):
    """One path through the workflow: a replica for every stage. `backup` names another where there is one."""

    share: Annotated[float, Meta(gt=0, le=1.0000001)]
    path: dict[Name, str]
    backup: dict[Name, str] = {}
    accuracy: float | None = None


class Spare(Document, frozen=True, kw_only=True):
    """A lane over replicas that are loaded, to which the plan sends nothing: sources may move requests there."""

    path: dict[Name, str]
    backup: dict[Name, str] = {}
    accuracy: float | None = None


class Rules(Document, frozen=True, kw_only=True):
    """The options that the plan was made with, by their names on the command line."""

    objective: str = "cost"
    strategy: str = "exact"
    exclusive: bool = False
    single_variant: bool = False


class Plan(Document, frozen=True, kw_only=True):
    """A plan for one workflow on one fleet."""

    schema: Literal["tiermesh.plan/1"] = "tiermesh.plan/1"
    workflow: Name
    made_for: MadeFor
    rules: Rules = Rules()
    solver: Solver
    cost: Cost
    predicted: Predicted
    replicas: list[Replica]
    lanes: list[Lane]
    warnings: list[str] = []
    margin: Margin | None = None
    spares: Annotated[list[Spare], Meta(max_length=limits.LANES)] = []

    @property
    def digest(self) -> str:
        """Names the plan in the journal and on devices; the solver's running time does not count.

        Nor does what a plan without margin does not say of it.
        """
        plain = to_plain(self)
        plain["solver"].pop("seconds")
        if self.margin is None:
            plain.pop("margin")
        if not self.predicted.latency_interval_ms:
            plain["predicted"].pop("latency_interval_ms")
        if not self.spares:
            plain.pop("spares")
        for replica in plain["replicas"]:
            # A plan keeps the digest that journals and devices know it by from before the field had this name.
            replica["rate_rps"] = replica.pop("items_per_second")
        return ids.digest_value(plain)
