"""A snapshot of the fleet, its profiles and a workflow as one planning problem. Pure.

What the workflow leaves open is settled here:

* A source enters at the devices that it names in `devices:`, in equal shares; else at all devices of
  the lowest tier that it may use, in equal shares.
* A sink is at the devices that it names; else at any of the devices of the sources, as the planner
  likes, so that results come back to where requests began.
* Named devices that are known and not ready are left out while another named one is ready.
* `raw_data_stays_in` restricts the tiers of sources and of each stage that reads from one.
* A source offers its own `rate`, and at least `slo.rate` where the workflow has one source.
* The items that a request is at a stage are the mean over its profiles; a stage without a model
  makes one. An edge's `ratio` is the quotient of its two ends; where requests are single items at
  the first, those of the second stage's sample requests are `items_seen`.
* A provider's functions (of the fleet file) are there only where they are asked for, with the variants of
  models that a ready device was measured with: items and bytes out are known from there.
* What a source sends is not measured: `source_bytes` says it (bytes per request), else it counts 0.
* Device times are as uncertain as profiles say and `Uncertainty` by default; plans are asked for with 95 % confidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, Literal, TypeAlias

from msgspec import structs

from coordinator.fleet.file import FleetFile, Functions
from coordinator.fleet.state import Catalogue, Device, Fleet, Inputs
from coordinator.planning.margin import CONFIDENCE
from coordinator.planning.options import LEAST_CONFIDENCE
from coordinator.planning.service_times import deviation
from tiermesh import ids
from tiermesh.documents.problem import (
    Accuracy,
    Asks,
    BatchTime,
    Combination,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
    Serverless,
    Uncertainty,
)
from tiermesh.documents.profile import Point, Profile
from tiermesh.documents.reading import to_plain
from tiermesh.documents.variant import Variant
from tiermesh.documents.workflow import (
    PERCENTILES,
    Aggregate,
    Model,
    Sink,
    Source,
    Stage,
    Workflow,
)
from tiermesh.errors import InvalidDocument, TiermeshError

MEGABYTE: Final = 1e6
CONTENTION: Final = 1.06
"""Of devices that share a host, unless measured. Beside one that computes, batches took 1.06 to 1.2 times as long
(bench/predictions); neighbours compute less than half of the time."""
NORMAL_95: Final = 1.96
"""Half the width of a normal distribution's 95 % interval, in standard deviations."""
UNKNOWN_ERROR: Final = 0.25
"""Relative standard error of a mean of which no interval is known."""

AccuracyTable: TypeAlias = Sequence[tuple[Mapping[str, str], float]]
"""Measured accuracies (0 to 1), each of one choice of variants by model."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The problem, and what of the fleet it was made from, so that a change can be named."""

    problem: Problem
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class _View:
    """What all parts of a snapshot look at. `measured` are usable profiles by stage, variant and device."""

    workflow: Workflow
    catalogue: Catalogue
    network: FleetFile
    devices: list[Device]
    measured: dict[tuple[str, str], dict[str, Profile]]
    refused: dict[str, list[str]]


def snapshot(
    fleet: Fleet,
    workflow: Workflow,
    catalogue: Catalogue,
    *,
    accuracy: AccuracyTable = (),
    network: FleetFile | None = None,
    source_bytes: Mapping[str, float] | None = None,
    functions: bool = False,
) -> Snapshot:
    """The problem of serving `workflow` on the ready devices of `fleet`, and by its providers' `functions`.

    Raises:
        TiermeshError: no device is ready, or a stage's variants are profiled nowhere.
        InvalidDocument: the workflow names a device, tier or variant that there is not.
    """
    view = _view(fleet, workflow, catalogue, network or FleetFile())
    inputs = _inputs(view)
    offered = [_functions(offer) for offer in view.network.serverless] if functions else []
    problem = Problem(
        name=workflow.workflow,
        workflow_digest=workflow.digest,
        fleet_digest=ids.digest_value(inputs),
        tiers=view.network.tiers,
        devices=[*_devices(view.devices), *offered],
        links=view.network.links,
        default_link=view.network.default_link,
        upward_only=view.network.upward_only,
        stages=[_stage(view, name) for name in workflow.stages],
        edges=_edges(view, source_bytes or {}),
        profiles=[*_profiles(view), *(_function_profiles(view) if functions else [])],
        accuracy=_accuracy(view, accuracy),
        asks=_asks(workflow),
        uncertainty=Uncertainty(),
    )
    return Snapshot(problem, inputs)


def without_devices(problem: Problem, names: Collection[str]) -> Problem:
    """A problem in which no stage may be placed on some devices; it is still one of the whole fleet.

    Raises:
        InvalidDocument: no device is left, or a source or sink has no other place.
    """
    barred = frozenset(names)
    if not barred:
        return problem
    for stage in problem.stages:
        if stage.pinned and barred & stage.pinned.keys():
            raise InvalidDocument(
                f"`{stage.name}` needs {', '.join(sorted(barred & stage.pinned.keys()))}",
                why="its requests begin there",
                fix="Allow the device, or name others in `devices:` of the stage",
            )
    left = [device for device in problem.devices if device.name not in barred]
    if not left:
        raise InvalidDocument("no device is left to plan for", fix="Allow some of them")
    return structs.replace(
        problem,
        devices=left,
        profiles=[p for p in problem.profiles if p.device not in barred],
        stages=[_kept_from(stage, barred) for stage in problem.stages],
        links=[x for x in problem.links if x.source not in barred and x.target not in barred],
    )


def _kept_from(stage: ProblemStage, barred: frozenset[str]) -> ProblemStage:
    devices = [name for name in stage.devices if name not in barred]
    if stage.devices and not devices:
        raise InvalidDocument(
            f"`{stage.name}` has no place left",
            why=f"it may run on {', '.join(stage.devices)} only",
            fix="Allow one of them",
        )
    return structs.replace(stage, devices=devices)


def inputs_of(fleet: Fleet, workflow: Workflow, catalogue: Catalogue, network: FleetFile) -> Inputs:
    """What a problem made now would be made from; its digest is the problem's `fleet_digest`."""
    return _inputs(_view(fleet, workflow, catalogue, network))


def changes(before: Inputs, now: Inputs) -> list[str]:
    """What of the fleet differs, in words: ``device cam-1: price_per_hour was 0.1, is 0.4``."""
    told = [f"{name} is gone" for name in before if name not in now]
    told += [f"{name} is new" for name in now if name not in before]
    for name in before.keys() & now.keys():
        told += [
            f"{name}: {field} was {_brief(before[name].get(field))}, is {_brief(value)}"
            for field, value in now[name].items()
            if before[name].get(field) != value
        ]
    return sorted(told)


def _brief(value: object) -> str:
    text = str(value)
    return text[:15] if ids.is_digest(text) else text


def _view(fleet: Fleet, workflow: Workflow, catalogue: Catalogue, network: FleetFile) -> _View:
    devices = fleet.ready
    if not devices:
        raise TiermeshError(
            "no device is ready", why=_why_none(fleet), fix="Run: coordinator devices"
        )
    for device in devices:
        _check_tier(device, network)
    measured: dict[tuple[str, str], dict[str, Profile]] = {}
    refused: dict[str, list[str]] = {}
    for stage, variant in _offered(workflow, catalogue):
        by_device = measured.setdefault((stage, variant.name), {})
        digest = variant.digest
        for device in devices:
            profile = fleet.profile(device, digest)
            if profile is None:
                continue
            if profile.cannot_run is not None or not _batches(profile, device):
                why = profile.cannot_run or "it was not measured with the device's thread count"
                refused.setdefault(stage, []).append(f"{variant.name} on {device.name}: {why}")
            else:
                by_device[device.name] = profile
    there = _narrowed(workflow, fleet)
    return _View(there, catalogue, network, devices, measured, refused)


def _narrowed(workflow: Workflow, fleet: Fleet) -> Workflow:
    """The workflow on those of its named devices that are ready: one camera that is lost must not stop the others.

    A stage whose named devices are all lost keeps them, and is refused by name.
    """
    lost = {device.name for device in fleet.devices.values()} - {d.name for d in fleet.ready}
    stages = {
        name: structs.replace(
            stage, devices=[d for d in stage.devices if d not in lost] or stage.devices
        )
        for name, stage in workflow.stages.items()
    }
    return structs.replace(workflow, stages=stages)


def _why_none(fleet: Fleet) -> str:
    states = [f"{d.name} is {d.state}" for d in fleet.devices.values()]
    return ", ".join(states[:10]) or "none was discovered"


def _check_tier(device: Device, network: FleetFile) -> None:
    if device.description.tier not in network.tiers:
        raise InvalidDocument(
            f"the tier `{device.description.tier}` of {device.name} has no place among the tiers",
            why=f"known, lowest first: {', '.join(network.tiers)}",
            fix="List all tiers in order in the fleet file: `tiers: [edge, hub, cloud]`",
            path="$.tiers",
        )


def _offered(workflow: Workflow, catalogue: Catalogue) -> Iterable[tuple[str, Variant]]:
    """The variants of each model stage that the workflow allows."""
    for name, stage in workflow.stages.items():
        if not isinstance(stage, Model):
            continue
        there = catalogue.variants.get(name, {})
        unknown = [v for v in stage.variants if v not in there]
        if unknown or not there:
            raise InvalidDocument(
                f"the model `{stage.model}` has no variant `{', '.join(unknown)}`"
                if unknown
                else f"no variant of the model `{stage.model}` is here",
                why=f"there are: {', '.join(there)}" if there else "none is fetched",
                fix="See: coordinator variants list"
                if there
                else "Run: coordinator variants fetch",
                path=f"$.stages.{name}.variants",
            )
        for variant in there.values():
            if not stage.variants or variant.name in stage.variants:
                yield name, variant


def _inputs(view: _View) -> Inputs:
    inputs: Inputs = {
        "the fleet file": {"links": ids.digest_value(to_plain(view.network))},
    }
    for device in view.devices:
        said = device.description
        inputs[f"device {device.name}"] = {
            "id": device.id,
            "class": device.device_class,
            "tier": said.tier,
            "price_per_hour": said.price_per_hour,
            "usable_share": said.usable_share,
        }
    classes = {device.name: device.device_class for device in view.devices}
    for (stage, variant), by_device in view.measured.items():
        seen: set[str] = set()
        for name, profile in by_device.items():
            if classes[name] not in seen:
                seen.add(classes[name])
                inputs[f"profile of {stage}/{variant} on {name}"] = {
                    "variant": profile.variant_digest,
                    "measured": ids.digest_value(to_plain(profile)),
                }
    return inputs


def _devices(devices: Sequence[Device]) -> Iterable[ProblemDevice]:
    """Devices that share a host get the contention that batches meet there."""
    hosts = Counter(device.description.fingerprint.host for device in devices)
    return (_device(d, hosts[d.description.fingerprint.host] > 1) for d in devices)


def _device(device: Device, shares: bool) -> ProblemDevice:
    said = device.description
    return ProblemDevice(
        name=device.name,
        tier=said.tier,
        price_per_hour=said.price_per_hour,
        memory_mb=said.fingerprint.memory_bytes / MEGABYTE,
        usable_share=said.usable_share,
        host=said.fingerprint.host,
        contention=CONTENTION if shares else 1.0,
    )


def _functions(offer: Functions) -> ProblemDevice:
    terms = Serverless(
        usd_per_gb_second=offer.usd_per_gb_second,
        usd_per_call=offer.usd_per_call,
        cold_start=offer.cold_start,
    )
    return ProblemDevice(name=offer.name, tier=offer.tier, serverless=terms)


def _function_profiles(view: _View) -> list[ProblemProfile]:
    models = {n: s.model for n, s in view.workflow.stages.items() if isinstance(s, Model)}
    measured = [key for key, by_device in view.measured.items() if by_device]
    return [
        ProblemProfile(
            stage=stage,
            variant=variant,
            device=offer.name,
            batches=profile.batches,
            memory_mb=profile.memory_mb,
        )
        for offer in view.network.serverless
        for profile in offer.profiles
        for stage, variant in measured
        if (profile.model, profile.variant) == (models[stage], variant)
    ]


def _stage(view: _View, name: str) -> ProblemStage:
    stage = view.workflow.stages[name]
    _check_places(view, name, stage)
    variants = [v for (s, v), by_device in view.measured.items() if s == name and by_device]
    if isinstance(stage, Model) and not variants:
        reasons = view.refused.get(name, [])
        raise TiermeshError(
            f"no device can serve the stage `{name}`: no variant of {stage.model} has a profile",
            why="; ".join(reasons[:8]) or "none was measured on a device that is ready",
            fix="Run: coordinator profile",
            stage=name,
        )
    at_source = _entry(view, name, stage) if isinstance(stage, Source) else []
    return ProblemStage(
        name=name,
        kind=stage.kind,  # pyright: ignore[reportArgumentType]
        variants=variants,
        rate_rps=_rate(view.workflow, name) if isinstance(stage, Source) else None,
        pinned={device: 1 / len(at_source) for device in at_source},
        devices=_sink_devices(view, stage) if isinstance(stage, Sink) else stage.devices,
        tiers=_tiers(view, name, stage),
        stateful=isinstance(stage, Aggregate),
        arrivals=_arrivals(stage),
    )


def _arrivals(stage: Stage) -> Literal["constant", "poisson"]:
    """What is known of the arrivals; of a trace, nothing."""
    return "constant" if isinstance(stage, Source) and stage.is_even else "poisson"


def _check_places(view: _View, name: str, stage: Stage) -> None:
    known = {
        "devices": [
            *(device.name for device in view.devices),
            *(offer.name for offer in view.network.serverless),
        ],
        "tiers": view.network.tiers,
    }
    for field, allowed in known.items():
        for place in getattr(stage, field):
            if place not in allowed:
                raise InvalidDocument(
                    f"the workflow is wrong at `$.stages.{name}.{field}`",
                    why=f"there is no {field[:-1]} `{place}` that is ready",
                    fix=f"Allowed: {', '.join(allowed[:20])}",
                    path=f"$.stages.{name}.{field}",
                    found=place,
                )


def _rate(workflow: Workflow, source: str) -> float:
    rate = workflow.offered_rps(source)
    if rate <= 0:
        raise InvalidDocument(
            "the rate of a source is not known",
            why="a source that follows a trace does not say how many requests a second it makes",
            fix="Give it a `rate`, or the workflow an `slo.rate`",
            path="$.slo.rate",
        )
    return rate


def _entry(view: _View, name: str, stage: Source) -> list[str]:
    if stage.devices:
        return stage.devices
    allowed = _tiers(view, name, stage) or view.network.tiers
    for tier in view.network.tiers:
        there = [d.name for d in view.devices if d.description.tier == tier and tier in allowed]
        if there:
            return there
    raise TiermeshError(
        f"there is no device for the source `{name}`",
        why=f"no ready device is in {', '.join(allowed)}",
        fix="Name its devices in the workflow, or widen its tiers",
    )


def _sink_devices(view: _View, stage: Sink) -> list[str]:
    if stage.devices or stage.tiers:
        return stage.devices
    sources = view.workflow.of_kind(Source)
    at_sources = (_entry(view, s, view.workflow.stages[s]) for s in sources)  # pyright: ignore[reportArgumentType]
    return list(dict.fromkeys(device for devices in at_sources for device in devices))


def _tiers(view: _View, name: str, stage: Stage) -> list[str]:
    raw = view.workflow.slo.raw_data_stays_in
    for tier in raw:
        if tier not in view.network.tiers:
            raise InvalidDocument(
                "the workflow is wrong at `$.slo.raw_data_stays_in`",
                why=f"there is no tier `{tier}`",
                fix=f"Allowed: {', '.join(view.network.tiers)}",
                path="$.slo.raw_data_stays_in",
                found=tier,
            )
    handles_raw = name in view.workflow.of_kind(Source) or any(
        isinstance(view.workflow.stages[u], Source) for u in stage.inputs
    )
    if not raw or not handles_raw:
        return stage.tiers
    tiers = [tier for tier in raw if not stage.tiers or tier in stage.tiers]
    if not tiers:
        raise InvalidDocument(
            f"the workflow is wrong at `$.stages.{name}.tiers`",
            why=f"it handles raw data, which stays in {', '.join(raw)}",
            fix="Allow it a tier of `slo.raw_data_stays_in`",
            path=f"$.stages.{name}.tiers",
        )
    return tiers


def _of_stage(view: _View, name: str) -> dict[str, list[Profile]]:
    return {
        variant: list(by_device.values())
        for (stage, variant), by_device in view.measured.items()
        if stage == name and by_device
    }


def _items(view: _View, name: str) -> float:
    profiles = [p for found in _of_stage(view, name).values() for p in found]
    return fmean(p.items_per_request for p in profiles) if profiles else 1.0


def _edges(view: _View, source_bytes: Mapping[str, float]) -> list[ProblemEdge]:
    items = {name: _items(view, name) for name in view.workflow.stages}
    sent = {name: _bytes_out(view, name, items[name]) for name in view.workflow.stages}
    return [
        ProblemEdge(
            source=u,
            target=name,
            ratio=items[name] / items[u] if items[u] else 0.0,
            items_seen=_items_seen(view, u, name),
            bytes_per_item=source_bytes.get(u, 0.0) or max(sent[u].values(), default=0.0),
            bytes_by_variant=sent[u],
        )
        for u, name in view.workflow.edges
    ]


def _items_seen(view: _View, source: str, target: str) -> list[int]:
    """Items of the sample requests at `target`, where each is one item at `source`; none where all are alike."""
    if any(n != 1 for n in _sample_items(view, source)):
        return []
    items = _sample_items(view, target)
    return items if len(set(items)) > 1 else []


def _sample_items(view: _View, name: str) -> list[int]:
    """Stage code, and so its samples, are the same for all variants of a stage."""
    profiles = [p for found in _of_stage(view, name).values() for p in found]
    return next((p.request_items for p in profiles if p.request_items), list[int]())


def _bytes_out(view: _View, name: str, items: float) -> dict[str, float]:
    """Bytes per item that each variant of a stage sends on."""
    found: dict[str, float] = {}
    for variant, profiles in _of_stage(view, name).items():
        known = [p.bytes_out_per_request for p in profiles if p.bytes_out_per_request is not None]
        if known and items > 0:
            found[variant] = fmean(known) / items
    return found


def _profiles(view: _View) -> list[ProblemProfile]:
    devices = {device.name: device for device in view.devices}
    return [
        ProblemProfile(
            stage=stage,
            variant=variant,
            device=name,
            batches=_batches(profile, devices[name]),
            memory_mb=(profile.peak_memory_bytes or 0) / MEGABYTE,
            relative_errors=[relative_error(p) for p in _points(profile, devices[name])],
        )
        for (stage, variant), by_device in view.measured.items()
        for name, profile in by_device.items()
    ]


def _batches(profile: Profile, device: Device) -> list[BatchTime]:
    return [
        BatchTime(
            batch_size=point.batch_size,
            mean=point.seconds.mean,
            percentiles={p: getattr(point.seconds, p) for p in PERCENTILES},  # pyright: ignore[reportArgumentType]
        )
        for point in _points(profile, device)
    ]


def _points(profile: Profile, device: Device) -> list[Point]:
    """What was measured with the device's thread count, the smallest batches first."""
    threads = device.description.fingerprint.threads
    points = {p.batch_size: p for p in profile.points if p.threads == threads}
    return [points[size] for size in sorted(points)]


def relative_error(point: Point) -> float:
    """The standard error of a point's mean over the mean, as wide as its 95 % interval where samples are few.

    Where the interval could not be told (1), it follows from the spread of the samples, that of different items
    included; of a single sample nothing is known.
    """
    if point.interval < 1.0:
        return point.interval / NORMAL_95
    if point.samples < 2:
        return UNKNOWN_ERROR
    seen = {name: getattr(point.seconds, name) for name in PERCENTILES}
    batch = BatchTime(batch_size=point.batch_size, mean=point.seconds.mean, percentiles=seen)  # pyright: ignore[reportArgumentType]
    error = deviation(batch) / batch.mean / math.sqrt(point.samples - 1)
    return min(error, UNKNOWN_ERROR)


def _accuracy(view: _View, table: AccuracyTable) -> Accuracy | None:
    """The table by stage, without the combinations that no device can serve."""
    stages = {n: s.model for n, s in view.workflow.stages.items() if isinstance(s, Model)}
    usable = {name: _of_stage(view, name).keys() for name in stages}
    rows: list[Combination] = []
    for by_model, value in table:
        chosen = {name: by_model[model] for name, model in stages.items() if model in by_model}
        if chosen and all(variant in usable[name] for name, variant in chosen.items()):
            rows.append(Combination(variants=chosen, accuracy=value))
    ask = view.workflow.slo.accuracy
    if ask is not None and not rows:
        raise TiermeshError(
            f"no combination of variants with a measured {ask.metric} can be served",
            why=f"{len(table)} combinations were measured, and none has all variants profiled",
            fix="Run: coordinator profile, or coordinator variants measure",
        )
    return Accuracy(table=rows) if rows else None


def _confidence(asked: float | None) -> float:
    confidence = CONFIDENCE if asked is None else round(float(asked), 9)
    if not LEAST_CONFIDENCE <= confidence < 1:
        raise InvalidDocument(
            "the workflow is wrong at `$.slo.confidence`",
            why=f"{confidence:.4g} is not from 50 % to less than 100 %",
            fix="Such as `confidence: 95 %`",
            path="$.slo.confidence",
        )
    return confidence


def _asks(workflow: Workflow) -> Asks:
    slo = workflow.slo
    return Asks(
        accuracy_at_least=float(slo.accuracy.at_least) if slo.accuracy else None,
        every_request=slo.accuracy.every_request if slo.accuracy else False,
        latency_s={percentile: float(value) for percentile, value in slo.latency.items()},
        cost_per_hour_at_most=float(slo.cost) if slo.cost is not None else None,
        watts_at_most=float(slo.power) if slo.power is not None else None,
        confidence=_confidence(slo.confidence),
    )
