"""Events in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from coordinator.fleet import events, profile_text
from coordinator.fleet.state import Fleet

FAILURES: Final = frozenset(
    events.kind_of(kind)
    for kind in (
        events.DeviceUnreachable,
        events.DeviceLost,
        events.DeviceFailed,
        events.DeviceHeld,
        events.ProfileFailed,
        events.RolloutFailed,
        events.WorkerRestarted,
    )
)
"""The kinds of events that say that something is wrong."""


def short(digest: str) -> str:
    """The beginning of a digest, long enough to tell it from others; `--json` has it all."""
    return digest[: len("sha256:") + 12]


def summary(event: events.Event) -> str:
    """An event in a few words."""
    return _SUMMARIES.get(type(event), _rest)(event)


def described(event: events.Event, fleet: Fleet) -> str:
    """An event in a few words, after the name of what it is about, where that is not who did it."""
    text = summary(event)
    if event.subject in ("", event.who):
        return text
    name = name_of(fleet, event.subject)
    return f"{name}: {text}" if text else name


def name_of(fleet: Fleet, subject: str) -> str:
    """The name of the device with the id `subject`, else `subject` itself (a workflow or a person)."""
    device = fleet.devices.get(subject)
    return device.name if device is not None else subject


def _profile(event: events.ProfileMeasured) -> str:
    profile = event.profile
    what = f"{profile.model}/{profile.variant}"
    if event.total:
        return f"{what}: {profile_text.summary(profile)} ({event.number} of {event.total})"
    return f"{what}: {profile.cannot_run}" if profile.cannot_run else what


def _prior(event: events.PriorImported) -> str:
    profile = event.published.profile
    return f"{profile.model}/{profile.variant}: prior of class {event.published.hardware.label}"


def _described(event: events.DeviceDescribed) -> str:
    said = event.description
    return f"{event.name} at {event.address}, tier {said.tier}, agent {said.agent_version}"


def _replan_ended(event: events.ReplanEnded) -> str:
    plan = f", plan {short(event.after)}" if event.after else ""
    return f"{event.reason}: {event.outcome}, generation {event.generation}{plan}: {event.text}"


def _rest(event: events.Event) -> str:
    generation = getattr(event, "generation", None)
    words = [f"generation {generation}"] if generation is not None else []
    failure = getattr(event, "failure", None)
    if failure is not None:
        words.append(
            f"{getattr(event, 'step', '')}: {failure.get('what', '')}. {failure.get('why', '')}"
        )
    words += [str(getattr(event, field, "")) for field in ("why", "text", "variant_digest")]
    return ", ".join(word for word in words if word)


def _held(event: events.RolloutHeld) -> str:
    return f"generation {event.generation} {'is held' if event.hold else 'goes on'}"


_SUMMARIES: Final[dict[type, Callable[[Any], str]]] = {
    events.DeviceDiscovered: lambda e: f"at {', '.join(e.addresses)}, by {e.via}",
    events.DeviceUnreachable: lambda e: "; ".join(
        f"{r.address}: {r.reach} {r.detail}".strip() for r in e.reasons
    ),
    events.DeviceDescribed: _described,
    events.ProfileMeasured: _profile,
    events.PriorImported: _prior,
    events.ProfileFailed: lambda e: f"{e.model}/{e.variant}: {e.why}",
    events.WorkflowRecorded: lambda e: short(e.digest),
    events.WorkflowRemoved: lambda _e: "",
    events.PlanMade: lambda e: f"{short(e.plan.digest)}, {e.plan.cost.total_per_hour:.4g} USD/h",
    events.ReplanStarted: lambda e: f"{e.reason}: {e.why}",
    events.ReplanEnded: _replan_ended,
    events.RolloutHeld: _held,
    events.SloVerdict: lambda e: f"{e.verdict}, was {e.before}: {'; '.join([e.why, *e.causes])}",
    events.RolloutStarted: lambda e: (
        f"generation {e.generation} to {len(e.devices)} devices ({e.purpose})"
    ),
}
