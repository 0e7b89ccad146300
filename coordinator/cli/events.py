"""`coordinator events`: the audit: what happened, when, and who did it."""

from __future__ import annotations

import argparse
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean
from coordinator.fleet import events
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import EventDocument
    from coordinator.cli import Commands

KINDS = sorted(events.kind_of(kind) for kind in get_args(events.Event))


def register(commands: Commands) -> None:
    """Add `events`."""
    parser = commands.add(
        "events",
        _events,
        help="Show the event log: what happened, when, and by whom",
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
    parser.add_argument("--follow", action="store_true", help="keep printing new events")
    add_state_option(parser)


def _events(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.api.documents import Events

    if args.follow and args.json:
        raise InvalidDocument(
            "--follow and --json exclude each other",
            why="--json prints one document, and --follow never ends",
            fix="Leave one of them out",
        )

    async def work(client: CoordinatorClient) -> None:
        kinds: list[str] = args.kind or []
        about: str = args.about or ""
        found = await client.events(kinds=kinds, about=about, limit=args.limit)
        output.console.print(_table(found) if found else "no such events")
        output.document(Events(events=found))
        if args.follow:
            await _follow(client, found, kinds, about, output)

    run_reading(args, work)
    return 0


async def _follow(
    client: CoordinatorClient,
    known: Sequence[EventDocument],
    kinds: list[str],
    about: str,
    output: CommandOutput,
) -> None:
    """Print what is recorded from now on, forever."""
    newest = known[-1].number if known else (await client.fleet()).number
    async with contextlib.aclosing(client.watch_fleet(newest)) as changes:
        async for _ in changes:
            fresh = await client.events(after=newest, kinds=kinds, about=about)
            if fresh:
                newest = fresh[-1].number
                output.console.print(_table(fresh))


def line(event: EventDocument) -> str:
    """An event for people, as one line."""
    return f"{_when(event, '%H:%M:%S')} {clean(event.by)} [bold]{event.event}[/] {_told(event)}".rstrip()


def _when(event: EventDocument, form: str) -> str:
    return datetime.fromtimestamp(event.at, UTC).astimezone().strftime(form)


def _table(found: Sequence[EventDocument]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    for wrapped in (False, False, False, False, True):
        table.add_column(no_wrap=not wrapped, overflow="fold" if wrapped else "ellipsis")
    for event in found:
        table.add_row(
            f"[dim]{event.number}[/]",
            _when(event, "%m-%d %H:%M:%S"),
            clean(event.by),
            f"[bold]{event.event}[/]",
            _told(event),
        )
    return table


def _told(event: EventDocument) -> str:
    """What happened, after whom or what it is about, where that is not who did it."""
    if event.about in ("", event.by):
        return clean(event.text)
    return clean(f"{event.about}: {event.text}" if event.text else event.about)
