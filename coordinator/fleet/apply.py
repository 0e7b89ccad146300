"""`apply(event, fleet) -> fleet`: the only way the state changes.

Total: an event that comes too late (an older generation, a device that is gone) changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from coordinator.fleet import events
from coordinator.fleet.lifecycle import (
    MOVED_BY_LIVENESS,
    DeviceState,
    Phase,
    RolloutOutcome,
    answered,
    may_move,
    unanswered,
)
from coordinator.fleet.naming import unique
from coordinator.fleet.priors import is_fresh
from coordinator.fleet.spending import spent_usd
from coordinator.fleet.state import (
    WAY_BACK,
    Device,
    Fleet,
    Judged,
    PlanRecord,
    Prediction,
    ReplanRecord,
    Rollout,
    RunningPlan,
    Sighting,
    WorkflowSource,
)

V = TypeVar("V")


def apply(event: events.Event, fleet: Fleet) -> Fleet:
    """The state after an event."""
    handler = _HANDLERS.get(type(event))
    return handler(event, fleet) if handler is not None else fleet


def replay(happened: Iterable[events.Event], fleet: Fleet | None = None) -> Fleet:
    """The state after all events, from an empty one or from a snapshot."""
    return reduce(lambda state, event: apply(event, state), happened, fleet or Fleet())


def is_news(event: events.Event, before: Fleet, after: Fleet) -> bool:
    """Whether the journal must keep an event: all but contacts that found everything as it was."""
    if not isinstance(event, _CONTACTS):
        return True
    found = [_contact(event, fleet) for fleet in (before, after)]
    return found[0] != found[1]


def _contact(event: events.Event, fleet: Fleet) -> object:
    """What a contact can change, without its time."""
    way = fleet.sightings.get(getattr(event, "sighting", ""))
    device = fleet.devices.get(way.device or "") if way is not None else None
    return (
        replace(way, checked_at=0.0) if way is not None else None,
        replace(device, seen_at=0.0) if device is not None else None,
        len(fleet.sightings),
    )


def _with(mapping: dict[str, V], key: str, value: V) -> dict[str, V]:
    return {**mapping, key: value}


def _discovered(event: events.DeviceDiscovered, fleet: Fleet) -> Fleet:
    known = fleet.sightings.get(event.sighting)
    sighting = Sighting(
        addresses=event.addresses, via=event.via, device=known.device if known else None
    )
    return replace(fleet, sightings=_with(fleet.sightings, event.sighting, sighting))


def _unreachable(event: events.DeviceUnreachable, fleet: Fleet) -> Fleet:
    sighting = fleet.sightings.get(event.sighting)
    if sighting is None:
        return fleet
    failures = [
        f"{r.address}: {r.reach.value}" + (f" ({r.detail})" if r.detail else "")
        for r in event.reasons
    ]
    failed = replace(sighting, failures=failures or ["no address"], checked_at=event.at)
    fleet = replace(fleet, sightings=_with(fleet.sightings, event.sighting, failed))
    ways = [s for s in fleet.sightings.values() if s.device == sighting.device]
    if sighting.device is None or not all(way.failures for way in ways):
        return fleet
    return _without_answer(fleet, sighting.device, "; ".join(failed.failures))


def _without_answer(fleet: Fleet, device_id: str, why: str) -> Fleet:
    device = fleet.devices.get(device_id)
    if device is None or device.state is DeviceState.LEFT:
        return fleet
    lost = replace(device, state=unanswered(device.state), why=why)
    return _with_device(fleet, lost)


def _with_device(fleet: Fleet, device: Device) -> Fleet:
    return replace(fleet, devices=_with(fleet.devices, device.id, device))


def _described(event: events.DeviceDescribed, fleet: Fleet) -> Fleet:
    known = fleet.devices.get(event.device)
    taken = {d.name for d in fleet.devices.values() if d.id != event.device}
    held = known is not None and known.is_held(event.at)
    device = Device(
        id=event.device,
        name=unique(event.name, event.device, taken, known.name if known else None),
        state=known.state if known and held else answered(known.state if known else None),
        why=known.why if known and held else "",
        held_until=known.held_until if known and held else 0.0,
        hold_s=known.hold_s if known and held else 0.0,
        address=event.address,
        device_class=event.description.fingerprint.device_class,
        description=event.description,
        seen_at=event.at,
        noted_boot=known.noted_boot if known else "",
        noted_number=known.noted_number if known else 0,
    )
    return replace(
        fleet,
        devices=_with(fleet.devices, event.device, device),
        sightings=_sightings_after(event, fleet),
        profile_failures={k: v for k, v in fleet.profile_failures.items() if k != event.device},
    )


def _sightings_after(event: events.DeviceDescribed, fleet: Fleet) -> dict[str, Sighting]:
    """A way that failed is forgotten once another leads to the same device."""
    known = fleet.sightings.get(event.sighting)
    seen = Sighting(
        addresses=known.addresses if known else [event.address],
        via=known.via if known else "static",
        checked_at=event.at,
        device=event.device,
    )
    others = {
        key: way
        for key, way in fleet.sightings.items()
        if not (way.device == event.device and way.failures)
    }
    return _with(others, event.sighting, seen)


def _lost(event: events.DeviceLost, fleet: Fleet) -> Fleet:
    return _without_answer(fleet, event.device, event.why)


def _failed(event: events.DeviceFailed, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None or device.state not in MOVED_BY_LIVENESS:
        return fleet
    failed = replace(
        device,
        state=DeviceState.FAILED,
        why=event.why,
        held_until=event.at + event.hold_s,
        hold_s=event.hold_s,
    )
    fleet = _with_device(fleet, failed)
    for rollout in fleet.rollouts.values():
        fleet = _rolled_out_without(fleet, rollout, event)
    return fleet


def _rolled_out_without(fleet: Fleet, rollout: Rollout, event: events.DeviceFailed) -> Fleet:
    """A device that is lost need not be waited for: before it has switched, the rollout goes on or ends without it."""
    phase = rollout.phases.get(event.device)
    if rollout.outcome is not None or phase is None:
        return fleet
    if phase is Phase.LEAVING:
        phases = {d: p for d, p in rollout.phases.items() if d != event.device}
        rollout = replace(rollout, phases=phases)
    elif phase in (Phase.PENDING, Phase.PUSHED, Phase.FAILED):
        rollout = replace(
            rollout,
            phases=_with(rollout.phases, event.device, Phase.ABORTED),
            failures=_with(rollout.failures, event.device, event.why),
        )
    elif phase is Phase.COMMITTED and set(rollout.members.values()) == {Phase.COMMITTED}:
        # All have switched. Those that the plan leaves out may drain for a minute, and another plan is due now: they
        # were told to stop, and who listens to them tells them again.
        rollout = replace(rollout, phases=rollout.members)
    fleet = replace(fleet, rollouts=_with(fleet.rollouts, rollout.workflow, rollout))
    return _settled(fleet, rollout, event.at)


def _held(event: events.DeviceHeld, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None or device.state not in MOVED_BY_LIVENESS:
        return fleet
    held = replace(
        device,
        state=DeviceState.SUSPECT,
        why=event.why,
        held_until=event.at + event.hold_s,
        hold_s=event.hold_s,
    )
    return _with_device(fleet, held)


def _returned(event: events.DeviceReturned, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None or device.state not in MOVED_BY_LIVENESS:
        return fleet
    return _with_device(
        fleet, replace(device, state=DeviceState.READY, why="", held_until=0.0, hold_s=0.0)
    )


def _left(event: events.DeviceLeft, fleet: Fleet) -> Fleet:
    sightings = {k: s for k, s in fleet.sightings.items() if s.device != event.device}
    device = fleet.devices.get(event.device)
    if device is None:
        return fleet
    gone = replace(device, state=DeviceState.LEFT, why=event.why)
    return replace(fleet, sightings=sightings, devices=_with(fleet.devices, event.device, gone))


def _draining(event: events.DeviceDraining, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None or device.state is DeviceState.LEFT:
        return fleet
    drained = replace(device, state=DeviceState.DRAINING, why=event.why)
    return replace(fleet, devices=_with(fleet.devices, event.device, drained))


def _drain_undone(event: events.DrainUndone, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None or device.state is not DeviceState.DRAINING:
        return fleet
    back = replace(device, state=DeviceState.READY, why="")
    return replace(fleet, devices=_with(fleet.devices, event.device, back))


def _profile_measured(event: events.ProfileMeasured, fleet: Fleet) -> Fleet:
    profile = event.profile
    of_class = fleet.profiles.get(profile.device_class, {})
    updated = _with(of_class, profile.variant_digest, profile)
    return replace(fleet, profiles=_with(fleet.profiles, profile.device_class, updated))


def _profile_failed(event: events.ProfileFailed, fleet: Fleet) -> Fleet:
    of_device = fleet.profile_failures.get(event.device, {})
    updated = _with(of_device, event.variant_digest, event.why)
    return replace(fleet, profile_failures=_with(fleet.profile_failures, event.device, updated))


def _profile_dropped(event: events.ProfileDropped, fleet: Fleet) -> Fleet:
    of_class = fleet.profiles.get(event.device_class, {})
    kept = {k: v for k, v in of_class.items() if k != event.variant_digest}
    return replace(fleet, profiles=_with(fleet.profiles, event.device_class, kept))


def _prior_imported(event: events.PriorImported, fleet: Fleet) -> Fleet:
    """The newer one of two counts, whichever was imported last."""
    hardware, profile = event.published.hardware.digest, event.published.profile
    of_class = fleet.priors.get(hardware, {})
    if not is_fresh(fleet, event.published):
        return fleet
    updated = _with(of_class, profile.variant_digest, event.published)
    return replace(fleet, priors=_with(fleet.priors, hardware, updated))


def _workflow_recorded(event: events.WorkflowRecorded, fleet: Fleet) -> Fleet:
    source = WorkflowSource(name=event.workflow, text=event.text, folder=event.folder)
    return replace(fleet, workflows=_with(fleet.workflows, event.digest, source))


def _workflow_removed(event: events.WorkflowRemoved, fleet: Fleet) -> Fleet:
    left = {d: source for d, source in fleet.workflows.items() if source.name != event.workflow}
    return replace(fleet, workflows=left)


def _plan_made(event: events.PlanMade, fleet: Fleet) -> Fleet:
    record = PlanRecord(plan=event.plan, inputs=event.inputs, made_at=event.at)
    return replace(fleet, plans=_with(fleet.plans, event.plan.digest, record))


def _replan_started(event: events.ReplanStarted, fleet: Fleet) -> Fleet:
    replan = ReplanRecord(
        reason=event.reason,
        why=event.why,
        at=event.at,
        before=event.before,
        generation=event.generation,
    )
    return replace(fleet, replans=_with(fleet.replans, event.workflow, replan))


def _replan_ended(event: events.ReplanEnded, fleet: Fleet) -> Fleet:
    replan = ReplanRecord(
        reason=event.reason,
        why=event.why,
        at=event.at,
        outcome=event.outcome,
        text=event.text,
        before=event.before,
        after=event.after,
        generation=event.generation,
    )
    return replace(fleet, replans=_with(fleet.replans, event.workflow, replan))


def _prediction_corrected(event: events.PredictionCorrected, fleet: Fleet) -> Fleet:
    corrected = Prediction(
        at=event.at,
        generation=event.generation,
        latency_ms=event.latency_ms,
        text=event.text,
        latency_interval_ms=event.latency_interval_ms,
    )
    return replace(fleet, expected=_with(fleet.expected, event.workflow, corrected))


def _slo_verdict(event: events.SloVerdict, fleet: Fleet) -> Fleet:
    judged = Judged(at=event.at, verdict=event.verdict, causes=event.causes)
    return replace(fleet, judged=_with(fleet.judged, event.workflow, judged))


def _rollout_started(event: events.RolloutStarted, fleet: Fleet) -> Fleet:
    # One that is lost cannot be told; it is when it comes back with an older generation.
    leaving = (d for d in event.leaving if not _is_lost(fleet.devices.get(d)))
    phases = dict.fromkeys(leaving, Phase.LEAVING)
    rollout = Rollout(
        workflow=event.workflow,
        generation=event.generation,
        plan=event.plan,
        workflow_digest=event.workflow_digest,
        run=event.run,
        purpose=event.purpose,
        catalogue=event.catalogue,
        phases={**phases, **dict.fromkeys(event.devices, Phase.PENDING)},
    )
    newest = max(event.generation, fleet.generations.get(event.workflow, 0))
    fleet = replace(
        fleet,
        rollouts=_with(fleet.rollouts, event.workflow, rollout),
        generations=_with(fleet.generations, event.workflow, newest),
    )
    return _settled(fleet, rollout, event.at)


def _is_lost(device: Device | None) -> bool:
    return device is not None and device.state is DeviceState.FAILED


def _step(to: Phase) -> Callable[[Any, Fleet], Fleet]:
    def handle(event: Any, fleet: Fleet) -> Fleet:
        rollout = fleet.rollouts.get(event.workflow)
        if rollout is None or rollout.generation != event.generation or rollout.outcome:
            return fleet
        phase = rollout.phases.get(event.device)
        if phase is None or not may_move(phase, to):
            return fleet
        why = _why(event)
        rollout = replace(
            rollout,
            phases=_with(rollout.phases, event.device, to),
            failures=_with(rollout.failures, event.device, why) if why else rollout.failures,
        )
        fleet = replace(fleet, rollouts=_with(fleet.rollouts, event.workflow, rollout))
        return _settled(fleet, rollout, event.at)

    return handle


def _why(event: Any) -> str:
    failure = getattr(event, "failure", None)
    if failure is None:
        return ""
    parts = (str(failure.get(key) or "").rstrip(".") for key in ("what", "why"))
    return f"{event.step}: " + ". ".join(part for part in parts if part)


def _cancelled(event: events.RolloutCancelled, fleet: Fleet) -> Fleet:
    rollout = fleet.rollouts.get(event.workflow)
    if rollout is None or rollout.generation != event.generation or rollout.outcome:
        return fleet
    rollout = replace(rollout, cancelled=event.why or "cancelled")
    fleet = replace(fleet, rollouts=_with(fleet.rollouts, event.workflow, rollout))
    return _settled(fleet, rollout, event.at)


def _held_or_released(event: events.RolloutHeld, fleet: Fleet) -> Fleet:
    rollout = fleet.rollouts.get(event.workflow)
    if rollout is None or rollout.generation != event.generation or rollout.outcome:
        return fleet
    rollout = replace(rollout, held=event.hold)
    return replace(fleet, rollouts=_with(fleet.rollouts, event.workflow, rollout))


def _settled(fleet: Fleet, rollout: Rollout, at: float) -> Fleet:
    """Close the rollout when nothing is left to do, and note what runs from then on."""
    outcome = _outcome(rollout)
    if outcome is None:
        return fleet
    closed = replace(rollout, outcome=outcome)
    fleet = replace(fleet, rollouts=_with(fleet.rollouts, rollout.workflow, closed))
    if outcome is RolloutOutcome.ABORTED:
        return fleet
    if outcome is RolloutOutcome.BROKEN:
        return fleet
    fleet = replace(
        fleet, way_back=_with(fleet.way_back, rollout.workflow, _way_back(fleet, closed))
    )
    before = fleet.running.get(rollout.workflow)
    same_run = before is not None and before.run == rollout.run
    spent = spent_usd(fleet, before, at) if before is not None and same_run else 0.0
    running = {k: v for k, v in fleet.running.items() if k != rollout.workflow}
    serving = [d for d, phase in rollout.phases.items() if phase is Phase.COMMITTED]
    if serving:
        running[rollout.workflow] = RunningPlan(
            plan=rollout.plan,
            workflow_digest=rollout.workflow_digest,
            generation=rollout.generation,
            run=rollout.run,
            catalogue=rollout.catalogue,
            devices=serving,
            since=at,
            spent_usd=spent,
        )
    return replace(fleet, running=running)


def _way_back(fleet: Fleet, closed: Rollout) -> list[RunningPlan]:
    """What a rollback could go back through, once a rollout has ended well."""
    way = fleet.way_back.get(closed.workflow, [])
    before = fleet.running.get(closed.workflow)
    new = (closed.plan, closed.workflow_digest)
    if closed.purpose == "rollback":
        there = [i for i, r in enumerate(way) if (r.plan, r.workflow_digest) == new]
        return way[: there[-1]] if there else way
    if before is None or closed.purpose == "restore":
        return way
    if (before.plan, before.workflow_digest) == new:
        return way
    return [*way, before][-WAY_BACK:]


def _outcome(rollout: Rollout) -> RolloutOutcome | None:
    phases = set(rollout.phases.values())
    if rollout.giving_up:
        if phases - {Phase.ABORTED, Phase.COMMITTED, Phase.LEAVING, Phase.STOPPED}:
            return None
        return RolloutOutcome.BROKEN if Phase.COMMITTED in phases else RolloutOutcome.ABORTED
    if phases - {Phase.ABORTED, Phase.COMMITTED, Phase.STOPPED}:
        return None
    return RolloutOutcome.RESTORED if rollout.purpose == "restore" else RolloutOutcome.COMMITTED


def _device_noted(event: events.WorkerRestarted | events.DeviceNoted, fleet: Fleet) -> Fleet:
    device = fleet.devices.get(event.device)
    if device is None:
        return fleet
    noted = replace(device, noted_boot=event.boot, noted_number=event.number)
    return replace(fleet, devices=_with(fleet.devices, event.device, noted))


_CONTACTS: Final = (events.DeviceDiscovered, events.DeviceDescribed, events.DeviceUnreachable)
_HANDLERS: Final[dict[type, Callable[[Any, Fleet], Fleet]]] = {
    events.DeviceDiscovered: _discovered,
    events.DeviceUnreachable: _unreachable,
    events.DeviceDescribed: _described,
    events.DeviceLost: _lost,
    events.DeviceFailed: _failed,
    events.DeviceHeld: _held,
    events.DeviceReturned: _returned,
    events.DeviceLeft: _left,
    events.DeviceDraining: _draining,
    events.DrainUndone: _drain_undone,
    events.ProfileMeasured: _profile_measured,
    events.ProfileFailed: _profile_failed,
    events.ProfileDropped: _profile_dropped,
    events.PriorImported: _prior_imported,
    events.WorkflowRecorded: _workflow_recorded,
    events.WorkflowRemoved: _workflow_removed,
    events.PlanMade: _plan_made,
    events.ReplanStarted: _replan_started,
    events.ReplanEnded: _replan_ended,
    events.PredictionCorrected: _prediction_corrected,
    events.RolloutStarted: _rollout_started,
    events.ArtifactsPushed: _step(Phase.PUSHED),
    events.RolloutPrepared: _step(Phase.PREPARED),
    events.RolloutCommitted: _step(Phase.COMMITTED),
    events.RolloutFailed: _step(Phase.FAILED),
    events.RolloutAborted: _step(Phase.ABORTED),
    events.RolloutStopped: _step(Phase.STOPPED),
    events.RolloutCancelled: _cancelled,
    events.RolloutHeld: _held_or_released,
    events.WorkerRestarted: _device_noted,
    events.DeviceNoted: _device_noted,
    events.SloVerdict: _slo_verdict,
}
