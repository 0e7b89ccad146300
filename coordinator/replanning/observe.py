"""`observe(observation, state) -> state`: the only way the state of replanning changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome
from coordinator.replanning.reasons import Band, Policy, ReplanReason
from coordinator.replanning.state import (
    Asked,
    DeviceMoved,
    HysteresisGauge,
    LoadMeasured,
    Observation,
    OperatorApplied,
    ReplanBegun,
    ReplanFinished,
    ReplanPace,
    State,
    Trigger,
    VariantAdded,
)

LOST = frozenset({DeviceState.FAILED, DeviceState.LEFT})


def observe(observation: Observation, state: State) -> State:
    """The state after an observation."""
    match observation:
        case DeviceMoved():
            return _moved(observation, state)
        case LoadMeasured():
            return _measured(observation, state)
        case VariantAdded(at, why):
            return replace(state, variants=state.variants or Trigger(at, why))
        case Asked(at, why):
            return replace(state, asked=Trigger(at, why))
        case _:
            return _planned(observation, state)


def _planned(observation: ReplanBegun | ReplanFinished | OperatorApplied, state: State) -> State:
    match observation:
        case ReplanBegun():
            return replace(state, under_way=observation)
        case ReplanFinished():
            return _ended(observation, state)
        case OperatorApplied(at, used, stages):
            kept = replace(state, under_way=None, failures=0, asked=None)
            return replace(_considered(kept, at, used), stages=stages)


def _moved(moved: DeviceMoved, state: State) -> State:
    device, is_news = moved.device, moved.device not in state.hesitant
    failed, returned = _without(state.failed, device), _without(state.returned, device)
    drained = _without(state.drained, device)
    if device in state.used:
        if moved.state in LOST:
            failed = {**failed, device: state.failed.get(device) or _trigger(moved)}
        elif moved.state is DeviceState.SUSPECT:
            # It may be about to fail, or have failed and be held: nothing is decided by it.
            failed = state.failed
        elif moved.state is DeviceState.DRAINING:
            drained = {**drained, device: _trigger(moved)}
        elif moved.stale:
            returned = {**returned, device: _trigger(moved)}
    elif moved.state is DeviceState.READY and is_news:
        returned = {**returned, device: _trigger(moved)}
    elif moved.probation and state.is_down:
        # Nothing is served, so it is not waited for until it has proved that it stays.
        returned = {**returned, device: _trigger(moved)}
    return replace(
        state,
        failed=failed,
        returned=returned,
        drained=drained,
        lost=_lost(moved, state),
        hesitant=_hesitant(moved, state),
        moved_at=moved.at,
    )


def _lost(moved: DeviceMoved, state: State) -> frozenset[str]:
    if moved.state in LOST:
        return state.lost | {moved.device}
    answers = moved.state is DeviceState.READY or moved.probation
    return state.lost - {moved.device} if answers else state.lost


def _hesitant(moved: DeviceMoved, state: State) -> frozenset[str]:
    """A device that has been considered, and neither was lost since nor is a reason to replan already."""
    is_settled = moved.considered and moved.device not in state.lost | state.returned.keys()
    if moved.state is DeviceState.SUSPECT and not moved.probation and is_settled:
        return state.hesitant | {moved.device}
    return state.hesitant - {moved.device}


def _trigger(moved: DeviceMoved) -> Trigger:
    return Trigger(moved.at, _told(moved))


def _told(moved: DeviceMoved) -> str:
    told = f"{moved.device} is {moved.state}"
    return f"{told}: {moved.why}" if moved.why else told


def _without(triggers: Mapping[str, Trigger], key: str) -> Mapping[str, Trigger]:
    return {k: t for k, t in triggers.items() if k != key}


def _measured(measured: LoadMeasured, state: State) -> State:
    load = measured.load if measured.load is not None else state.load
    drift = {
        replica: replace(_drifted(state, replica, ratio.sure, measured.at), told=ratio)
        for replica, ratio in measured.drift.items()
    }
    return replace(state, load=load, drift={**state.drift, **drift}, burn=measured.burn)


def _drifted(state: State, replica: str, sure: float, at: float) -> HysteresisGauge:
    return gauged(state.drift.get(replica, HysteresisGauge()), sure, at, state.policy.drift)


def gauged(gauge: HysteresisGauge, ratio: float, at: float, band: Band) -> HysteresisGauge:
    """The gauge after a measurement."""
    low, high = band.leave if gauge.out else band.enter
    if low <= ratio <= high:
        return HysteresisGauge(ratio)
    since = at if gauge.beyond_since is None else gauge.beyond_since
    return HysteresisGauge(ratio, since, gauge.out or at - since >= band.sustained_s)


def _ended(ended: ReplanFinished, state: State) -> State:
    began = state.under_way
    if began is None:
        return state
    policy = state.policy
    urgent, pace = state.urgent, state.pace
    if began.reason is not ReplanReason.OPERATOR:
        pace = paced(pace, ended.at, policy)
    if began.reason is ReplanReason.DEVICE_FAILED:
        urgent = paced(urgent, ended.at, policy)
    if ended.outcome is ReplanOutcome.FAILED and overtaken(state):
        # It was for a mesh that there is no more; the next one is for what came meanwhile.
        return replace(state, under_way=None)
    state = replace(state, under_way=None, urgent=urgent, pace=pace)
    if ended.outcome is ReplanOutcome.FAILED:
        longest_s = policy.down_dwell_max_s if state.is_down else policy.dwell_max_s
        wait_s = min(policy.retry_s * 2.0 ** min(state.failures, 32), longest_s)
        return replace(state, failures=state.failures + 1, retry_at=ended.at + wait_s)
    return _considered(replace(state, failures=0, stages=ended.stages), began.at, ended.used)


def overtaken(state: State) -> bool:
    """Whether a device of the running plan has failed since the replan under way began, so that it is of no use."""
    began = state.under_way
    return began is not None and any(t.since > began.at for t in state.failed.values())


def paced(pace: ReplanPace, ended_at: float, policy: Policy) -> ReplanPace:
    """The pace after one more replan."""
    calm = ended_at - pace.ended_at >= policy.calm_s
    return ReplanPace(ended_at, 1 if calm else pace.spree + 1)


def _considered(state: State, until: float, used: frozenset[str]) -> State:
    """All that came until then has been thought of; what is measured counts against a new reference."""

    def later(triggers: Mapping[str, Trigger]) -> dict[str, Trigger]:
        return {k: t for k, t in triggers.items() if t.since > until}

    return replace(
        state,
        used=used,
        failed={k: t for k, t in later(state.failed).items() if k in used},
        returned=later(state.returned),
        drained={k: t for k, t in later(state.drained).items() if k in used},
        hesitant=frozenset(),
        load=None,
        drift={},
        burn=None,
        variants=_later(state.variants, until),
        asked=_later(state.asked, until),
    )


def _later(trigger: Trigger | None, until: float) -> Trigger | None:
    return trigger if trigger is not None and trigger.since > until else None
