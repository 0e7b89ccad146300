"""A snapshot of the fleet, its profiles and a workflow as one planning problem. Pure.

What the workflow leaves open is settled in `problem_stages` and `problem_profiles`. Device times are as uncertain as
profiles say and `Uncertainty` by default; plans are asked for with 95 % confidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import structs

from coordinator.fleet.file import FleetFile
from coordinator.fleet.state import Catalogue, Fleet, Inputs
from coordinator.planning.margin import CONFIDENCE
from coordinator.planning.measured_fleet import MeasuredFleet, measured_fleet
from coordinator.planning.options import LEAST_CONFIDENCE
from coordinator.planning.problem_profiles import (
    device_profiles,
    function_device,
    function_profiles,
    problem_devices,
)
from coordinator.planning.problem_stages import edges, stage_of
from tiermesh import ids
from tiermesh.documents.problem import (
    Accuracy,
    Asks,
    Combination,
    Problem,
    ProblemStage,
    Uncertainty,
)
from tiermesh.documents.reading import to_plain
from tiermesh.documents.workflow import Model, Workflow
from tiermesh.errors import InvalidDocument, TiermeshError

AccuracyTable: TypeAlias = Sequence[tuple[Mapping[str, str], float]]
"""Measured accuracies (0 to 1), each of one choice of variants by model."""


@dataclass(frozen=True, slots=True)
class ProblemSnapshot:
    """The problem, and what of the fleet it was made from, so that a change can be named."""

    problem: Problem
    inputs: Inputs


def snapshot(
    fleet: Fleet,
    workflow: Workflow,
    catalogue: Catalogue,
    *,
    accuracy: AccuracyTable = (),
    network: FleetFile | None = None,
    source_bytes: Mapping[str, float] | None = None,
    functions: bool = False,
) -> ProblemSnapshot:
    """The problem of serving `workflow` on the ready devices of `fleet`, and by its providers' `functions`.

    Raises:
        TiermeshError: no device is ready, or a stage's variants are profiled nowhere.
        InvalidDocument: the workflow names a device, tier or variant that there is not.
    """
    known = measured_fleet(fleet, workflow, catalogue, network or FleetFile())
    inputs = _inputs(known)
    offered = [function_device(offer) for offer in known.network.serverless] if functions else []
    problem = Problem(
        name=workflow.workflow,
        workflow_digest=workflow.digest,
        fleet_digest=ids.digest_value(inputs),
        tiers=known.network.tiers,
        devices=[*problem_devices(known.devices), *offered],
        links=known.network.links,
        default_link=known.network.default_link,
        upward_only=known.network.upward_only,
        stages=[stage_of(known, name) for name in workflow.stages],
        edges=edges(known, source_bytes or {}),
        profiles=[*device_profiles(known), *(function_profiles(known) if functions else [])],
        accuracy=_accuracy(known, accuracy),
        asks=_asks(workflow),
        uncertainty=Uncertainty(),
    )
    return ProblemSnapshot(problem, inputs)


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
        raise InvalidDocument("every device is excluded", fix="Allow some of them")
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
    return _inputs(measured_fleet(fleet, workflow, catalogue, network))


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


def _inputs(known: MeasuredFleet) -> Inputs:
    inputs: Inputs = {
        "the fleet file": {"links": ids.digest_value(to_plain(known.network))},
    }
    for device in known.devices:
        said = device.description
        inputs[f"device {device.name}"] = {
            "id": device.id,
            "class": device.device_class,
            "tier": said.tier,
            "price_per_hour": said.price_per_hour,
            "usable_share": said.usable_share,
        }
    classes = {device.name: device.device_class for device in known.devices}
    for (stage, variant), by_device in known.measured.items():
        seen: set[str] = set()
        for name, profile in by_device.items():
            if classes[name] not in seen:
                seen.add(classes[name])
                inputs[f"profile of {stage}/{variant} on {name}"] = {
                    "variant": profile.variant_digest,
                    "measured": ids.digest_value(to_plain(profile)),
                }
    return inputs


def _accuracy(known: MeasuredFleet, table: AccuracyTable) -> Accuracy | None:
    """The table by stage, without the combinations that no device can serve."""
    stages = {n: s.model for n, s in known.workflow.stages.items() if isinstance(s, Model)}
    usable = {name: known.of_stage(name).keys() for name in stages}
    rows: list[Combination] = []
    for by_model, value in table:
        chosen = {name: by_model[model] for name, model in stages.items() if model in by_model}
        if chosen and all(variant in usable[name] for name, variant in chosen.items()):
            rows.append(Combination(variants=chosen, accuracy=value))
    ask = known.workflow.slo.accuracy
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
