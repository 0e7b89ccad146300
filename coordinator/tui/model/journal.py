"""The journal as a log of what happened, to whom, why and what followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from coordinator.fleet import events
from coordinator.fleet.event_text import summary
from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.timeline import GenerationLive, served, story
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.journal.store import Entry

_BAD: Final = frozenset(
    {
        "device-failed",
        "device-lost",
        "device-unreachable",
        "profile-failed",
        "rollout-failed",
        "rollout-cancelled",
    }
)
_WARN: Final = frozenset(
    {
        "worker-restarted",
        "rollout-aborted",
        "device-left",
        "device-held",
        "device-draining",
        "replan-started",
    }
)
_GOOD: Final = frozenset(
    {"rollout-committed", "device-described", "device-returned", "replan-ended"}
)
_TOLD: Final = (_BAD | _WARN) - {"device-unreachable", "profile-failed"} | {
    "rollout-started",
    "device-returned",
    "replan-ended",
    "plan-made",
    "slo-verdict",
}
"""What the ticker tells: what changes how a workflow is served."""
_VERDICTS: Final = {"met": ("✓", "good"), "at-risk": ("▲", "warn"), "missed": ("✗", "bad")}
SERVES: Final = "generation-serves"
REQUEST_FAILED: Final = "request-failed"


def role_of(event: events.Event) -> tuple[str, str]:
    """A sign and a role for an event."""
    kind = event.kind
    note = getattr(event, "note", "")
    if isinstance(event, events.SloVerdict):
        return _VERDICTS.get(event.verdict, ("·", "dim"))
    if kind in _BAD or note == REQUEST_FAILED:
        return "✗", "bad"
    if kind in _WARN or note == "peer-lost":
        return "▲", "warn"
    if kind in _GOOD:
        return "✓", "good"
    return "·", "dim"


def when(at: float) -> str:
    """A time of day, where this machine is."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def name_of(view: View, subject: str) -> str:
    """A device's name for its id; else the subject as it is."""
    device = view.fleet.devices.get(subject)
    return t.safe(device.name if device is not None else subject)


class JournalLog:
    """The entries that a filter lets through, newest last. A line is made when it is shown."""

    def __init__(self, view: View, cells: int, *, wanted: str = "", errors: bool = False) -> None:
        self.view, self.width = view, cells
        self.served = served(view.journal)
        words = wanted.casefold().split()
        self.entries: Sequence[Entry] = [
            entry
            for entry in view.journal
            if (not errors or _is_error(entry.event)) and _matches(view, entry, words, self.served)
        ]

    @property
    def height(self) -> int:
        """One line per entry."""
        return max(len(self.entries), 1)

    def head(self) -> Line:
        """The titles of the columns."""
        kind = max(min(24, self.width // 5), 18)
        return (Run(f"{'when':<10}{'who':<13}{'  what':<{kind + 2}}{'about, and why'}", "head"),)

    def line(self, y: int) -> Line:
        """One event."""
        if not self.entries:
            return (Run(" nothing has happened", "dim"),)
        return event_line(self.view, self.entries[y], self.width, self.served)

    def entry(self, y: int) -> Entry | None:
        """The entry of a line."""
        return self.entries[y] if 0 <= y < len(self.entries) else None


def event_line(view: View, entry: Entry, cells: int, served: Mapping[int, GenerationLive]) -> Line:
    """An event in one line. `served` are the entries with which a generation began to serve."""
    event = entry.event
    sign, role = role_of(event)
    kind = max(min(24, cells // 5), 18)
    told, about = _told(view, entry, served)
    return t.clip(
        (
            Run(f"{when(event.at)}  ", "dim"),
            Run(t.fit(name_of(view, event.who), 12) + " ", "dim"),
            Run(f"{sign} ", role),
            Run(t.fit(told, kind - 1) + " ", f"{role} bold" if role != "dim" else "bold"),
            Run(about),
        ),
        cells,
    )


def _told(view: View, entry: Entry, served: Mapping[int, GenerationLive]) -> tuple[str, str]:
    """What happened, and about what; the last device that switches is the generation's beginning."""
    serves = served.get(entry.number)
    if serves is not None:
        return SERVES, t.safe(str(serves))
    note = getattr(entry.event, "note", "")
    return t.safe(note or entry.event.kind), _about(view, entry.event)


def _about(view: View, event: events.Event) -> str:
    text = t.safe(summary(event))
    if event.subject in ("", event.who):
        return text
    subject = name_of(view, event.subject)
    return f"{subject}: {text}" if text else subject


def _is_error(event: events.Event) -> bool:
    return getattr(event, "note", "") == REQUEST_FAILED


def _matches(
    view: View, entry: Entry, words: list[str], served: Mapping[int, GenerationLive]
) -> bool:
    if not words:
        return True
    event = entry.event
    told = " ".join(_told(view, entry, served))
    text = f"{event.kind} {told} {name_of(view, event.who)}".casefold()
    return all(word in text for word in words)


def chain(view: View, cells: int, count: int) -> list[Line]:
    """The newest events that changed how something is served, oldest first."""
    found: list[Entry] = []
    serves = served(view.journal)
    for entry in reversed(view.journal):
        told = entry.event.kind in _TOLD or entry.number in serves
        if told or _is_error(entry.event):
            found.append(entry)
        if len(found) == count:
            break
    return [event_line(view, entry, cells, serves) for entry in reversed(found)]


def entry_lines(view: View, entry: Entry, cells: int) -> list[Line]:
    """One event in full."""
    import msgspec

    event = entry.event
    sign, role = role_of(event)
    lines: list[Line] = [
        (Run(f"{sign} {event.kind}", f"{role} bold"), Run(f"   number {entry.number}", "dim")),
        (Run(f"{when(event.at)} by {name_of(view, event.who)}", "dim"),),
        (),
        *((Run(part),) for part in t.wrap(_about(view, event), cells)),
        (),
    ]
    plain = msgspec.to_builtins(event, enc_hook=float)
    for key, value in plain.items():
        if key in ("event", "at", "who") or isinstance(value, dict | list):
            continue
        parts = t.wrap(t.safe(value), max(cells - 16, 8))
        lines.append((Run(f"{key:<16}", "dim"), Run(parts[0])))
        lines += [(Run(" " * 16 + part),) for part in parts[1:]]
    return [*lines, *_story_lines(view, entry, cells)]


def _story_lines(view: View, entry: Entry, cells: int) -> list[Line]:
    """What led to it, and what came of it, each with the seconds since the first."""
    told = story(list(view.journal), entry)
    if not told:
        return []
    serves = served(view.journal)
    lines: list[Line] = [(), (Run("from the reason to what came of it", "head"),)]
    for one in told:
        sign, role = role_of(one.event)
        what, about = _told(view, one, serves)
        here = "bold" if one.number == entry.number else ""
        since = one.event.at - told[0].event.at
        lines.append(
            (Run(f"{since:>+6.1f} s ", "dim"), Run(f"{sign} ", role), Run(what, here or role))
        )
        lines += [(Run(" " * 11 + part, here or "dim"),) for part in t.wrap(about, cells - 11)[:2]]
    return lines
