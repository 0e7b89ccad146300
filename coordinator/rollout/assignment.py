"""A plan cut into assignments, one per device. Pure: the same plan gives the same assignments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Catalogue, Device
from coordinator.rollout import rooms
from coordinator.rollout.least import least_seconds
from coordinator.rollout.peer_addresses import peer_address
from tiermesh import limits
from tiermesh.documents.assignment import (
    Assignment,
    Peer,
    ReplicaSpec,
    SinkSpec,
    SourceSpec,
    StageSpec,
)
from tiermesh.documents.endpoints import PacedSource
from tiermesh.documents.plan import Plan, Replica
from tiermesh.documents.workflow import (
    Aggregate,
    Model,
    Sink,
    Source,
    Stage,
    Workflow,
    is_path_inside,
)
from tiermesh.errors import InvalidDocument, Unsupported

SHARE_TOLERANCE: Final = 1e-6
_GIVEN_UP: Final = frozenset({DeviceState.FAILED, DeviceState.LEFT})


def assignments(
    plan: Plan,
    workflow: Workflow,
    catalogue: Catalogue,
    devices: Mapping[str, Device],
    *,
    generation: int,
    run: str,
    before: Plan | None = None,
    measure_s: float = 0.0,
) -> dict[str, Assignment]:
    """Each device's part of a plan, by device id. `devices` are by name; `before` is the plan of the same run so far.

    Raises:
        InvalidDocument: the plan does not fit the workflow, the devices or the catalogue.
        Unreachable: a device of the plan listens where another of its devices cannot reach it.
    """
    check(plan, workflow, catalogue, devices)
    used = {r.device: devices[r.device] for r in plan.replicas}
    formers = _formers(before, workflow, devices)
    there = [*used.values(), *formers.values()]
    carried = carried_share(plan, workflow)
    stages = {name: _stage(workflow, name, carried) for name in workflow.stages}
    where = {r.id: devices[r.device].id for r in plan.replicas}
    least = least_seconds(plan)
    spare = [*plan.spares, *rooms.spares(plan, _fixed(workflow))][: rooms.SPARES_MOST]
    usable = {d.name: d.description.usable_share for d in used.values()}
    most = rooms.shares_most(plan, spare, usable)
    deadline, accuracy = workflow.slo.deadline, workflow.slo.accuracy
    return {
        device.id: Assignment(
            workflow=plan.workflow,
            generation=generation,
            plan=plan.digest,
            run=run,
            device=device.id,
            stages=stages,
            replicas=[
                _replica(r, workflow.stages[r.stage], catalogue, device)
                for r in plan.replicas
                if r.device == device.name
            ],
            lanes=plan.lanes,
            replica_devices=where,
            peers={d.id: _peer(d, device) for d in there},
            formers={stage: former.id for stage, former in formers.items()},
            lost=sorted(d.id for d in devices.values() if d.state in _GIVEN_UP),
            latency_s={p: float(limit) for p, limit in workflow.slo.latency.items()},
            accuracy_at_least=float(accuracy.at_least) if accuracy is not None else None,
            measure_seconds=measure_s,
            least_s=least,
            spares=spare,
            shares_most=most,
            deadline_seconds=limits.REQUEST_DEADLINE_S if deadline is None else float(deadline),
        )
        for device in used.values()
    }


def _peer(device: Device, seen_from: Device) -> Peer:
    return Peer(device=device.id, name=device.name, address=peer_address(device, seen_from))


def _fixed(workflow: Workflow) -> frozenset[str]:
    """Stages that requests do not move away from: where they begin, end, and are folded into a state."""
    kinds = (Source, Sink, Aggregate)
    return frozenset(name for name, stage in workflow.stages.items() if isinstance(stage, kinds))


def _formers(
    before: Plan | None, workflow: Workflow, devices: Mapping[str, Device]
) -> dict[str, Device]:
    """Where the aggregates, which have one replica each, are in a plan."""
    return {
        r.stage: devices[r.device]
        for r in (before.replicas if before is not None else ())
        if isinstance(workflow.stages.get(r.stage), Aggregate) and r.device in devices
    }


def check(
    plan: Plan, workflow: Workflow, catalogue: Catalogue, devices: Mapping[str, Device]
) -> None:
    """Refuse a plan that could not be served as it is written.

    Raises:
        InvalidDocument: with `path`, the place in the plan.
    """
    if plan.workflow != workflow.workflow:
        _wrong("$.workflow", f"it is for `{plan.workflow}`, not for `{workflow.workflow}`")
    refuse_functions(plan)
    replicas: dict[str, Replica] = {}
    for i, replica in enumerate(plan.replicas):
        at = f"$.replicas[{i}]"
        if replica.id in replicas:
            _wrong(f"{at}.id", f"the id `{replica.id}` is there twice")
        replicas[replica.id] = replica
        _check_replica(replica, at, workflow, catalogue, devices)
    _check_lanes(plan, workflow, replicas)
    for name, stage in workflow.stages.items():
        _check_paths(name, stage)


def refuse_functions(plan: Plan) -> None:
    """Refuse a plan that sends requests to a provider's functions: no agent runs there.

    Raises:
        Unsupported: naming the functions and what they were to do.
    """
    functions = [r for r in plan.replicas if r.function is not None]
    if not functions:
        return
    places = ", ".join(dict.fromkeys(f"`{r.device}`" for r in functions))
    work = ", ".join(f"{r.id} ({r.items_per_second:.3g} items/s)" for r in functions[:8])
    raise Unsupported(
        f"this plan uses serverless functions, and no agent runs on {places}",
        why=f"it counts on them for {work}",
        fix=(
            f"To serve it, an agent named {places} would have to be enrolled that calls the functions. "
            f"To do without, take {places} out of `serverless` in the fleet file, and plan again"
        ),
        functions=[r.id for r in functions],
    )


def _check_replica(
    replica: Replica,
    at: str,
    workflow: Workflow,
    catalogue: Catalogue,
    devices: Mapping[str, Device],
) -> None:
    if replica.stage not in workflow.stages:
        _wrong(f"{at}.stage", f"the workflow has no stage `{replica.stage}`")
    if replica.device not in devices:
        _wrong(f"{at}.device", f"there is no device `{replica.device}`")
    if not replica.id.startswith(f"{replica.stage}@{replica.device}"):
        _wrong(f"{at}.id", f"`{replica.id}` is not on {replica.device}, serving {replica.stage}")
    if isinstance(workflow.stages[replica.stage], Model):
        there = catalogue.variants.get(replica.stage, {})
        if replica.variant not in there:
            known = ", ".join(there) or "none"
            _wrong(f"{at}.variant", f"`{replica.variant}` is not here; there are: {known}")


def _check_lanes(plan: Plan, workflow: Workflow, replicas: Mapping[str, Replica]) -> None:
    for i, lane in enumerate(plan.lanes):
        at = f"$.lanes[{i}]"
        missing = workflow.stages.keys() - lane.path.keys()
        if missing:
            _wrong(f"{at}.path", f"no replica for {', '.join(sorted(missing))}")
        for stage, replica in [*lane.path.items(), *lane.backup.items()]:
            if replica not in replicas or replicas[replica].stage != stage:
                _wrong(f"{at}.path.{stage}", f"`{replica}` is not a replica of it")
    for i, lane in enumerate(plan.spares):
        for stage, replica in [*lane.path.items(), *lane.backup.items()]:
            if replica not in replicas or replicas[replica].stage != stage:
                _wrong(f"$.spares[{i}].path.{stage}", f"`{replica}` is not a replica of it")
        if workflow.stages.keys() - lane.path.keys():
            _wrong(f"$.spares[{i}].path", "it has no replica of some stages")
    total = sum(lane.share for lane in plan.lanes)
    if abs(total - 1.0) > SHARE_TOLERANCE:
        _wrong("$.lanes", f"the shares sum to {total:g}, not to 1")


def _check_paths(name: str, stage: Stage) -> None:
    given = getattr(stage, "path", None)
    trace = getattr(stage, "trace", None)
    for path in [
        *([given] if isinstance(given, str) else given or []),
        *([trace] if trace else []),
    ]:
        if not is_path_inside(path):
            raise InvalidDocument(
                f"the workflow is wrong at `$.stages.{name}.path`",
                why=f"`{path}` leads out of the data folder of the device",
                fix="Write a path relative to the folder that the agent was given with --data",
                path=f"$.stages.{name}.path",
            )


def _wrong(path: str, why: str) -> None:
    raise InvalidDocument(
        f"the plan is wrong at `{path}`", why=why, fix="Replan: coordinator plan", path=path
    )


def carried_share(plan: Plan, workflow: Workflow) -> float:
    """Which share of the requests that its sources make a plan carries: 1, but for one that falls short of the rate."""
    made = max((workflow.offered_rps(s) for s in workflow.of_kind(Source)), default=0.0)
    carried = plan.predicted.throughput_rps
    return carried / made if carried < made * (1 - SHARE_TOLERANCE) else 1.0


def _stage(workflow: Workflow, name: str, carried: float) -> StageSpec:
    stage = workflow.stages[name]
    return StageSpec(
        name=name,
        kind=stage.kind,  # pyright: ignore[reportArgumentType]
        inputs=list(stage.inputs),
        outputs=[v for u, v in workflow.edges if u == name],
        key=getattr(stage, "key", None),
        source=(
            _source(stage, workflow.offered_rps(name), carried)
            if isinstance(stage, Source)
            else None
        ),
        sink=_sink(stage) if isinstance(stage, Sink) else None,
    )


def _source(stage: Source, offered_rps: float, carried: float) -> SourceSpec:
    spec = SourceSpec(
        kind=stage.source,
        path=getattr(stage, "path", []),
        options=stage.own_options,
        rate_rps=float(stage.rate) if stage.rate is not None else None,
        admit_rps=carried * offered_rps if 0 < carried < 1 else None,
    )
    if not isinstance(stage, PacedSource):
        return spec
    return replace(
        spec,
        arrivals=stage.arrivals,
        trace=stage.trace,
        seed=stage.seed,
        count=stage.count,
        repeat=stage.repeat,
    )


def _sink(stage: Sink) -> SinkSpec:
    path = getattr(stage, "path", None)
    return SinkSpec(kind=stage.sink, path=path, options=stage.own_options)


def _replica(replica: Replica, stage: Stage, catalogue: Catalogue, device: Device) -> ReplicaSpec:
    variants = catalogue.variants.get(replica.stage, {})
    return ReplicaSpec(
        id=replica.id,
        stage=replica.stage,
        variant=variants.get(replica.variant) if replica.variant is not None else None,
        bundle=catalogue.bundles.get(replica.stage),
        options=getattr(stage, "options", {}),
        batch_size=replica.batch_size,
        batch_timeout_ms=replica.batch_timeout_ms,
        threads=device.description.fingerprint.threads,
        room=replica.room,
    )
