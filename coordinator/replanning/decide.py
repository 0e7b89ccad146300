"""`decide(state, now) -> Replan | None`: whether to plan again now, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coordinator.replanning.reasons import Policy, ReplanReason
from coordinator.replanning.state import HysteresisGauge, ReplanDue, ReplanPace, State, Trigger

SHOWN = 4


def decide(state: State, now: float) -> ReplanDue | None:
    """The replan that is due at `now`; None while one is under way, or while it is too early."""
    if state.under_way is not None:
        return None
    due = ((reason, why) for reason, why in _reasons(state) if now >= due_at(reason, state))
    return next((ReplanDue(reason, why) for reason, why in due), None)


def next_due(state: State) -> float | None:
    """When `decide` must be asked again at the latest if nothing is observed meanwhile."""
    if state.under_way is not None:
        return None
    return min((due_at(reason, state) for reason, _ in _reasons(state)), default=None)


def due_at(reason: ReplanReason, state: State) -> float:
    """From when on a reason that there is may be acted upon."""
    policy = state.policy
    match reason:
        case ReplanReason.OPERATOR if state.asked is not None:
            return state.retry_at
        case ReplanReason.OPERATOR:
            first = min((t.since for t in state.drained.values()), default=0.0)
            return max(first + policy.drain_s, state.retry_at)
        case ReplanReason.DEVICE_FAILED:
            longest_s = policy.down_dwell_max_s if state.is_down else policy.urgent_dwell_max_s
            earliest = dwelt(state.urgent, policy.urgent_dwell_s, longest_s, policy)
            return max(earliest, state.retry_at)
        case _ if state.is_down:
            earliest = dwelt(state.pace, policy.urgent_dwell_s, policy.down_dwell_max_s, policy)
            return max(earliest, state.retry_at)
        case _:
            earliest = dwelt(state.pace, policy.dwell_s, policy.dwell_max_s, policy)
            return max(earliest, state.moved_at + policy.settle_s, state.retry_at)


def dwelt(pace: ReplanPace, dwell_s: float, longest_s: float, policy: Policy) -> float:
    """When the dwell after the last replan is over: it doubles with each that came without a calm between."""
    if not pace.spree:
        return pace.ended_at
    doubled = dwell_s * 2.0 ** min(pace.spree - 1, 64)
    return pace.ended_at + min(doubled, longest_s, policy.calm_s)


def _reasons(state: State) -> Iterator[tuple[ReplanReason, str]]:
    """Every reason there is, the most important first."""
    if state.asked is not None:
        yield ReplanReason.OPERATOR, state.asked.why
    elif state.drained:
        yield ReplanReason.OPERATOR, _all(state.drained.values())
    if state.failed:
        yield ReplanReason.DEVICE_FAILED, _all(state.failed.values())
    if state.returned:
        yield ReplanReason.DEVICE_RETURNED, _all(state.returned.values())
    drifted = {replica: gauge for replica, gauge in state.drift.items() if gauge.out}
    if drifted:
        yield ReplanReason.PROFILE_DRIFT, _drifted(drifted)
    if state.load is not None and state.load.changed:
        yield ReplanReason.LOAD_CHANGE, str(state.load)
    if state.burn is not None:
        yield ReplanReason.SLO_MISSED, str(state.burn)
    if state.variants is not None:
        yield ReplanReason.VARIANT_ADDED, state.variants.why


def _all(triggers: Iterable[Trigger]) -> str:
    return _listed([trigger.why for trigger in sorted(triggers, key=lambda t: (t.since, t.why))])


def _drifted(gauges: dict[str, HysteresisGauge]) -> str:
    ratios = sorted(f"{name} {gauge.told or gauge.ratio}" for name, gauge in gauges.items())
    return f"measured over planned device time: {_listed(ratios)}"


def _listed(told: list[str]) -> str:
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return "; ".join(told[:SHOWN]) + more
