"""The stages and edges of a planning problem. Pure.

What the workflow leaves open is settled here:

* A source enters at the devices that it names in `devices:`, in equal shares; else at all devices of
  the lowest tier that it may use, in equal shares.
* A sink is at the devices that it names; else at any of the devices of the sources, as the planner
  likes, so that results come back to where requests began.
* `raw_data_stays_in` restricts the tiers of sources and of each stage that reads from one.
* A source offers its own `rate`, and at least `slo.rate` where the workflow has one source.
* The items that a request is at a stage are the mean over its profiles; a stage without a model
  makes one. An edge's `ratio` is the quotient of its two ends; where requests are single items at
  the first, those of the second stage's sample requests are `items_seen`.
* What a source sends is not measured: `source_bytes` says it (bytes per request), else it counts 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Literal

from coordinator.planning.measured_fleet import MeasuredFleet
from tiermesh.documents.problem import ProblemEdge, ProblemStage
from tiermesh.documents.workflow import Aggregate, Model, Sink, Source, Stage, Workflow
from tiermesh.errors import InvalidDocument, TiermeshError


def stage_of(fleet: MeasuredFleet, name: str) -> ProblemStage:
    """A stage of the problem: its variants, places and rate.

    Raises:
        TiermeshError: no device can serve it.
        InvalidDocument: the workflow names a place for it that there is not, or does not say its rate.
    """
    stage = fleet.workflow.stages[name]
    _check_places(fleet, name, stage)
    variants = [v for (s, v), by_device in fleet.measured.items() if s == name and by_device]
    if isinstance(stage, Model) and not variants:
        reasons = fleet.refused.get(name, [])
        raise TiermeshError(
            f"no device can serve the stage `{name}`: no variant of {stage.model} has a profile",
            why="; ".join(reasons[:8]) or "none was measured on a device that is ready",
            fix="Run: coordinator profile",
            stage=name,
        )
    at_source = _entry(fleet, name, stage) if isinstance(stage, Source) else []
    return ProblemStage(
        name=name,
        kind=stage.kind,  # pyright: ignore[reportArgumentType]
        variants=variants,
        rate_rps=_rate(fleet.workflow, name) if isinstance(stage, Source) else None,
        pinned={device: 1 / len(at_source) for device in at_source},
        devices=_sink_devices(fleet, stage) if isinstance(stage, Sink) else stage.devices,
        tiers=_tiers(fleet, name, stage),
        stateful=isinstance(stage, Aggregate),
        arrivals=_arrivals(stage),
    )


def _arrivals(stage: Stage) -> Literal["constant", "poisson"]:
    """What is known of the arrivals; of a trace, nothing."""
    return "constant" if isinstance(stage, Source) and stage.is_even else "poisson"


def _check_places(fleet: MeasuredFleet, name: str, stage: Stage) -> None:
    known = {
        "devices": [
            *(device.name for device in fleet.devices),
            *(offer.name for offer in fleet.network.serverless),
        ],
        "tiers": fleet.network.tiers,
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


def _entry(fleet: MeasuredFleet, name: str, stage: Source) -> list[str]:
    if stage.devices:
        return stage.devices
    allowed = _tiers(fleet, name, stage) or fleet.network.tiers
    for tier in fleet.network.tiers:
        there = [d.name for d in fleet.devices if d.description.tier == tier and tier in allowed]
        if there:
            return there
    raise TiermeshError(
        f"there is no device for the source `{name}`",
        why=f"no ready device is in {', '.join(allowed)}",
        fix="Name its devices in the workflow, or widen its tiers",
    )


def _sink_devices(fleet: MeasuredFleet, stage: Sink) -> list[str]:
    if stage.devices or stage.tiers:
        return stage.devices
    sources = fleet.workflow.of_kind(Source)
    at_sources = (_entry(fleet, s, fleet.workflow.stages[s]) for s in sources)  # pyright: ignore[reportArgumentType]
    return list(dict.fromkeys(device for devices in at_sources for device in devices))


def _tiers(fleet: MeasuredFleet, name: str, stage: Stage) -> list[str]:
    raw = fleet.workflow.slo.raw_data_stays_in
    for tier in raw:
        if tier not in fleet.network.tiers:
            raise InvalidDocument(
                "the workflow is wrong at `$.slo.raw_data_stays_in`",
                why=f"there is no tier `{tier}`",
                fix=f"Allowed: {', '.join(fleet.network.tiers)}",
                path="$.slo.raw_data_stays_in",
                found=tier,
            )
    handles_raw = name in fleet.workflow.of_kind(Source) or any(
        isinstance(fleet.workflow.stages[u], Source) for u in stage.inputs
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


def _items(fleet: MeasuredFleet, name: str) -> float:
    profiles = [p for found in fleet.of_stage(name).values() for p in found]
    return fmean(p.items_per_request for p in profiles) if profiles else 1.0


def edges(fleet: MeasuredFleet, source_bytes: Mapping[str, float]) -> list[ProblemEdge]:
    """The edges of the problem; `source_bytes` is what each source sends, in bytes per request."""
    items = {name: _items(fleet, name) for name in fleet.workflow.stages}
    sent = {name: _bytes_out(fleet, name, items[name]) for name in fleet.workflow.stages}
    return [
        ProblemEdge(
            source=u,
            target=name,
            ratio=items[name] / items[u] if items[u] else 0.0,
            items_seen=_items_seen(fleet, u, name),
            bytes_per_item=source_bytes.get(u, 0.0) or max(sent[u].values(), default=0.0),
            bytes_by_variant=sent[u],
        )
        for u, name in fleet.workflow.edges
    ]


def _items_seen(fleet: MeasuredFleet, source: str, target: str) -> list[int]:
    """Items of the sample requests at `target`, where each is one item at `source`; none where all are alike."""
    if any(n != 1 for n in _sample_items(fleet, source)):
        return []
    items = _sample_items(fleet, target)
    return items if len(set(items)) > 1 else []


def _sample_items(fleet: MeasuredFleet, name: str) -> list[int]:
    """Stage code, and so its samples, are the same for all variants of a stage."""
    profiles = [p for found in fleet.of_stage(name).values() for p in found]
    return next((p.request_items for p in profiles if p.request_items), list[int]())


def _bytes_out(fleet: MeasuredFleet, name: str, items: float) -> dict[str, float]:
    """Bytes per item that each variant of a stage sends on."""
    found: dict[str, float] = {}
    for variant, profiles in fleet.of_stage(name).items():
        known = [p.bytes_out_per_request for p in profiles if p.bytes_out_per_request is not None]
        if known and items > 0:
            found[variant] = fmean(known) / items
    return found
