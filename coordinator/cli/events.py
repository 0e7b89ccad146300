"""`coordinator events`: the audit: what happened, when, and who did it."""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from rich.table import Table

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.mesh import add_state_option
from coordinator.cli.output import Output
from coordinator.cli.text import clean
from coordinator.fleet import events
from coordinator.fleet.event_text import described, name_of, summary
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet import Fleet
    from coordinator.journal.store import Entry, Journal

POLL_S = 0.5
KINDS = sorted(events.kind_of(kind) for kind in get_args(events.Event))


def register(commands: Commands) -> None:
    """Add `events`."""
    parser = commands.add(
        "events",
        _events,
        help="Show what happened, when, and who did it",
        examples=(
            "  coordinator events\n"
            "  coordinator events --kind rollout-failed --kind worker-restarted\n"
            "  coordinator events --about hub-1 --limit 500 --json\n"
            "  coordinator events --follow"
        ),
    )
    parser.add_argument(
        "--kind", action="append", choices=KINDS, metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--about", metavar="NAME", help="only of this device or workflow")
    parser.add_argument(
        "--limit", type=arguments.count, default=50, metavar="N", help="the newest N"
    )
    parser.add_argument("--follow", action="store_true", help="go on as more happens")
    add_state_option(parser)


def _events(args: argparse.Namespace, output: Output) -> int:
    from coordinator.journal.store import Journal

    if args.follow and args.json:
        raise InvalidDocument(
            "--follow and --json exclude each other",
            why="--json prints one document, and --follow never ends",
            fix="Leave one of them out",
        )
    journal = Journal.read_only(args.state or config.state_dir())
    try:
        fleet = journal.load()
        about = _subject(fleet, args.about)
        kinds: list[str] = args.kind or []
        entries = journal.events(kinds=kinds, about=about, limit=args.limit)
        output.console.print(_table(entries, fleet) if entries else "no such events")
        output.document({"events": [_plain(entry, fleet) for entry in entries]})
        if args.follow:
            asyncio.run(
                _follow(journal, entries[-1].number if entries else 0, kinds, about, output)
            )
    finally:
        journal.close()
    return 0


async def _follow(
    journal: Journal, after: int, kinds: list[str], about: str, output: Output
) -> None:
    while True:
        fresh = await asyncio.to_thread(journal.events, after=after, kinds=kinds, about=about)
        if fresh:
            after = fresh[-1].number
            output.console.print(_table(fresh, await asyncio.to_thread(journal.load)))
        await asyncio.sleep(POLL_S)


def _subject(fleet: Fleet, about: str | None) -> str:
    if about is None:
        return ""
    device = fleet.named(about)
    return device.id if device is not None else about


def told(entry: Entry, fleet: Fleet) -> dict[str, Any]:
    """An event for programs, in a few words."""
    event = entry.event
    return {
        "number": entry.number,
        "at": event.at,
        "who": event.who,
        "event": event.kind,
        "about": name_of(fleet, event.subject),
        "text": summary(event),
    }


def _plain(entry: Entry, fleet: Fleet) -> dict[str, Any]:
    return told(entry, fleet) | {"details": msgspec.to_builtins(entry.event, enc_hook=float)}


def line(entry: Entry, fleet: Fleet) -> str:
    """An event for people, as one line."""
    event = entry.event
    who, text = clean(name_of(fleet, event.who)), clean(described(event, fleet))
    return f"{_when(event, '%H:%M:%S')} {who} [bold]{event.kind}[/] {text}".rstrip()


def _when(event: events.Event, form: str) -> str:
    return datetime.fromtimestamp(event.at, UTC).astimezone().strftime(form)


def _table(entries: list[Entry], fleet: Fleet) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    for wrapped in (False, False, False, False, True):
        table.add_column(no_wrap=not wrapped, overflow="fold" if wrapped else "ellipsis")
    for entry in entries:
        event = entry.event
        table.add_row(
            f"[dim]{entry.number}[/]",
            _when(event, "%m-%d %H:%M:%S"),
            clean(name_of(fleet, event.who)),
            f"[bold]{event.kind}[/]",
            clean(described(event, fleet)),
        )
    return table
