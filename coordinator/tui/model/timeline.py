"""Events that belong together: how a generation came to serve, and the way from a lost device to the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coordinator.fleet import events

if TYPE_CHECKING:
    from coordinator.journal.store import Entry

TRIGGER_S: Final = 60.0
"""So long before a replan, what befell a device may be what made it necessary."""
_TRIGGERS: Final = (events.DeviceLost, events.DeviceFailed, events.DeviceReturned)
_CHAPTERS: Final = (
    events.ReplanStarted,
    events.PlanMade,
    events.RolloutStarted,
    events.RolloutFailed,
    events.RolloutCancelled,
    events.ReplanEnded,
)


@dataclass(frozen=True, slots=True)
class GenerationLive:
    """A generation serves: its last device has switched. `reason` is that of the replan, or why it was rolled out."""

    workflow: str
    generation: int
    devices: int
    reason: str

    def __str__(self) -> str:
        """In words."""
        on = "1 device" if self.devices == 1 else f"{self.devices} devices"
        return f"generation {self.generation} ({self.reason}) of {self.workflow}, on {on}"


def served(journal: Sequence[Entry]) -> Mapping[int, GenerationLive]:
    """The entries, by number, with which a generation began to serve."""
    found: dict[int, GenerationLive] = {}
    open_: dict[tuple[str, int], tuple[events.RolloutStarted, set[str]]] = {}
    reasons: dict[str, str] = {}
    for entry in journal:
        match entry.event:
            case events.ReplanStarted(workflow=workflow, reason=reason):
                reasons[workflow] = reason
            case events.ReplanEnded(workflow=workflow):
                reasons.pop(workflow, None)
            case events.RolloutStarted() as begun:
                open_[begun.workflow, begun.generation] = begun, set(begun.devices)
            case events.RolloutCommitted() as done if (
                done.workflow,
                done.generation,
            ) in open_:
                begun, waited = open_[done.workflow, done.generation]
                waited.discard(done.device)
                if not waited:
                    del open_[done.workflow, done.generation]
                    reason = reasons.get(done.workflow, str(begun.purpose))
                    found[entry.number] = GenerationLive(
                        done.workflow, done.generation, len(begun.devices), reason
                    )
            case _:
                pass
    return found


def story(journal: Sequence[Entry], chosen: Entry) -> list[Entry]:
    """The replan that an entry belongs to, from what befell a device to what came of it; nothing without one."""
    for at, entry in enumerate(journal):
        if not isinstance(entry.event, events.ReplanStarted):
            continue
        begun = entry.event
        ended = range(at, len(journal))
        end = next((i for i in ended if _ends(journal[i].event, begun)), len(journal) - 1)
        told = [*_trigger(journal, at, begun), *_chapters(journal[at : end + 1], begun)]
        if told[0].number <= chosen.number <= journal[end].number:
            return told
    return []


def _trigger(journal: Sequence[Entry], at: int, begun: events.ReplanStarted) -> list[Entry]:
    """What befell the device that the newest such event is about."""
    found: list[Entry] = []
    for i in range(at - 1, -1, -1):
        entry, event = journal[i], journal[i].event
        if begun.at - event.at > TRIGGER_S or isinstance(event, events.ReplanEnded):
            break
        if isinstance(event, _TRIGGERS) and (not found or event.subject == found[0].event.subject):
            found.insert(0, entry)
    return found


def _ends(event: events.Event, begun: events.ReplanStarted) -> bool:
    return isinstance(event, events.ReplanEnded) and event.workflow == begun.workflow


def _chapters(after: Sequence[Entry], begun: events.ReplanStarted) -> list[Entry]:
    serves = served(after)
    return [
        entry
        for entry in after
        if (isinstance(entry.event, _CHAPTERS) or entry.number in serves)
        and getattr(entry.event, "workflow", "") == begun.workflow
    ]
