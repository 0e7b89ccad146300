"""One device's part of a plan, as the coordinator hands it out and the agent keeps it on disk."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from tiermesh import limits
from tiermesh.documents.plan import Lane, Room, Spare
from tiermesh.documents.reading import Document
from tiermesh.documents.variant import Artifact, Bundle, Variant
from tiermesh.documents.workflow import Name, Options, Percentile

Generation = Annotated[int, Meta(ge=1)]

Ring = Literal["order", "early-end", "shares", "accuracy", "retry-budget"]
"""What devices do by themselves, without the coordinator; each can be left out, to measure what it is worth.

`order`: a replica's queue is in the order of the latency SLO's deadlines. `early-end`: a request that cannot be done
by its deadline any more ends. `shares`: sources move requests from lanes that fall behind to lanes with room.
`accuracy`: also to lanes that are less accurate, above the floor. `retry-budget`: what nobody says is lost is repeated
within a budget only.
"""
RINGS: tuple[Ring, ...] = ("order", "early-end", "shares", "accuracy", "retry-budget")


class SourceSpec(Document, frozen=True, kw_only=True):
    """How a source gets requests; `kind` is one of `endpoints.SOURCES`, and `options` are that kind's own.

    `path` lies within the data folder of the device. `arrivals`, `trace`, `seed`, `count` and `repeat` are of kinds
    that make requests by themselves (`endpoints.PacedSource`); for the others `rate_rps` is what is expected to come.

    `admit_rps` is how many requests a second the plan carries where that is less than the source makes: it accepts no
    more, and the others wait. None: it accepts them as they come.
    """

    kind: str = "files"
    path: str | list[str] = []
    options: dict[str, Any] = {}
    rate_rps: float | None = None
    arrivals: Literal["constant", "poisson", "trace"] = "constant"
    trace: str | None = None
    seed: int = 0
    count: int | None = None
    repeat: bool = False
    admit_rps: Annotated[float, Meta(gt=0)] | None = None


class SinkSpec(Document, frozen=True, kw_only=True):
    """Where a sink puts results; `kind` is one of `endpoints.SINKS`, and `options` are that kind's own.

    `path`, for kinds that have one, lies within the device's data folder.
    """

    kind: str
    path: str | None = None
    options: dict[str, Any] = {}


class StageSpec(Document, frozen=True, kw_only=True):
    """A stage of the workflow, as far as serving needs to know it. `outputs` are the stages that read it."""

    name: Name
    kind: Literal["source", "model", "map", "filter", "join", "aggregate", "union", "sink"]
    inputs: list[Name] = []
    outputs: list[Name] = []
    key: str | None = None
    source: SourceSpec | None = None
    sink: SinkSpec | None = None


class ReplicaSpec(Document, frozen=True, kw_only=True):
    """A replica that this device serves. `variant` for a model; `bundle` for any other stage with code.

    Without `room` its batches stay as planned.
    """

    id: str
    stage: Name
    variant: Variant | None = None
    bundle: Bundle | None = None
    options: Options = {}
    batch_size: Annotated[int, Meta(ge=1, le=limits.BATCH_SIZE)] = 1
    batch_timeout_ms: Annotated[float, Meta(ge=0)] = 0.0
    threads: Annotated[int, Meta(ge=1)] = 1
    room: Room | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """All that the device must have to serve it."""
        of_variant = self.variant.artifacts if self.variant is not None else []
        return [*of_variant, *([self.bundle.artifact] if self.bundle is not None else [])]


class Peer(Document, frozen=True, kw_only=True):
    """Another device of the plan, and where its worker takes frames (``host:port``)."""

    device: str
    name: str
    address: str


class Assignment(Document, frozen=True, kw_only=True):
    """What a device serves in one generation of one workflow.

    `replica_devices` maps every replica id of the plan to its device id, so that each agent knows the next hop
    of every lane; `peers` are all devices of the plan by id, and those that `formers` names. `lanes` are those of the
    plan, in its order: a frame names its lane by index.

    `formers` names for each aggregate the device where it ran before, in the same run: its state is there. `lost` are
    the devices that the coordinator has given up: nobody waits for what they know.

    `measure_seconds` is for how long each replica is run on its samples before it serves, so that its speed is known
    and its first requests are as fast as the others; 0: once, since every second counts.

    `latency_s` is the latency SLO, in seconds by percentile: sources count which requests are within it.
    `accuracy_at_least` (0 to 1) is the floor below which a device must not move shares between lanes.
    `rings` are what devices may do by themselves. `least_s` is how long a stage takes for a request at least, in
    seconds, where that is known.

    A frame may name a lane of `spares`, too: they are numbered after those of `lanes`. `shares_most` has for each lane,
    and then for each spare, the most of the workflow's requests that its devices have room for; empty: shares stay.
    """

    schema: Literal["tiermesh.assignment/1"] = "tiermesh.assignment/1"
    workflow: Name
    generation: Generation
    plan: str
    run: Name
    device: str
    stages: dict[Name, StageSpec]
    replicas: list[ReplicaSpec]
    lanes: Annotated[list[Lane], Meta(max_length=limits.LANES)]
    replica_devices: dict[str, str]
    peers: dict[str, Peer]
    formers: dict[Name, str] = {}
    lost: list[str] = []
    measure_seconds: Annotated[float, Meta(ge=0, le=limits.WARM_UP_S)] = 0.0
    latency_s: dict[Percentile, Annotated[float, Meta(gt=0)]] = {}
    accuracy_at_least: Annotated[float, Meta(ge=0, le=1)] | None = None
    deadline_seconds: Annotated[float, Meta(gt=0)] = limits.REQUEST_DEADLINE_S
    rings: tuple[Ring, ...] = RINGS
    least_s: dict[Name, Annotated[float, Meta(ge=0)]] = {}
    spares: Annotated[list[Spare], Meta(max_length=limits.LANES)] = []
    shares_most: list[Annotated[float, Meta(ge=0)]] = []

    @property
    def routes(self) -> list[Lane]:
        """All lanes that a frame may name, by their numbers: spares have a share of 0."""
        spares = [
            Lane(share=0.0, path=one.path, backup=one.backup, accuracy=one.accuracy)
            for one in self.spares
        ]
        return [*self.lanes, *spares]

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts that all replicas need, by digest."""
        return {a.digest: a for replica in self.replicas for a in replica.artifacts}
