"""`decide(state, now) -> Replan | None`: whether to plan again now, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from coordinator.replanning.reasons import Policy, Reason
from coordinator.replanning.state import Gauge, Pace, Replan, State, Trigger

SHOWN = 4


def decide(state: State, now: float) -> Replan | None:
    """The replan that is due at `now`; None while one is under way, or while it is too early."""
    if state.under_way is not None:
        return None
    due = ((reason, why) for reason, why in _reasons(state) if now >= due_at(reason, state))
    return next((Replan(reason, why) for reason, why in due), None)


def next_due(state: State) -> float | None:
    """When `decide` must be asked again at the latest if nothing is observed meanwhile."""
    if state.under_way is not None:
        return None
    return min((due_at(reason, state) for reason, _ in _reasons(state)), default=None)


def due_at(reason: Reason, state: State) -> float:
    """From when on a reason that there is may be acted upon."""
    policy = state.policy
    match reason:
        case Reason.OPERATOR if state.asked is not None:
            return state.retry_at
        case Reason.OPERATOR:
            first = min((t.since for t in state.drained.values()), default=0.0)
            return max(first + policy.drain_s, state.retry_at)
        case Reason.DEVICE_FAILED:
            longest_s = policy.down_dwell_max_s if state.is_down else policy.urgent_dwell_max_s
            earliest = dwelt(state.urgent, policy.urgent_dwell_s, longest_s, policy)
            return max(earliest, state.retry_at)
        case _ if state.is_down:
            earliest = dwelt(state.pace, policy.urgent_dwell_s, policy.down_dwell_max_s, policy)
            return max(earliest, state.retry_at)
        case _:
            earliest = dwelt(state.pace, policy.dwell_s, policy.dwell_max_s, policy)
            return max(earliest, state.moved_at + policy.settle_s, state.retry_at)


def dwelt(pace: Pace, dwell_s: float, longest_s: float, policy: Policy) -> float:
    """When the dwell after the last replan is over: it doubles with each that came without a calm between."""
    if not pace.spree:
        return pace.ended_at
    doubled = dwell_s * 2.0 ** min(pace.spree - 1, 64)
    return pace.ended_at + min(doubled, longest_s, policy.calm_s)


def _reasons(state: State) -> Iterator[tuple[Reason, str]]:
    """Every reason there is, the most important first."""
    if state.asked is not None:
        yield Reason.OPERATOR, state.asked.why
    elif state.drained:
        yield Reason.OPERATOR, _all(state.drained.values())
    if state.failed:
        yield Reason.DEVICE_FAILED, _all(state.failed.values())
    if state.returned:
        yield Reason.DEVICE_RETURNED, _all(state.returned.values())
    drifted = {replica: gauge for replica, gauge in state.drift.items() if gauge.out}
    if drifted:
        yield Reason.PROFILE_DRIFT, _drifted(drifted)
    if state.load is not None and state.load.changed:
        yield Reason.LOAD_CHANGE, str(state.load)
    if state.burn is not None:
        yield Reason.SLO_MISSED, str(state.burn)
    if state.variants is not None:
        yield Reason.VARIANT_ADDED, state.variants.why


def _all(triggers: Iterable[Trigger]) -> str:
    return _listed([trigger.why for trigger in sorted(triggers, key=lambda t: (t.since, t.why))])


def _drifted(gauges: dict[str, Gauge]) -> str:
    ratios = sorted(f"{name} {gauge.told or gauge.ratio}" for name, gauge in gauges.items())
    return f"measured over planned device time: {_listed(ratios)}"


def _listed(told: list[str]) -> str:
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return "; ".join(told[:SHOWN]) + more
