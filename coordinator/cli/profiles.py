"""`coordinator profiles`: what was measured, from the journal; one of them as a document."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import Output
from coordinator.cli.text import clean, megabytes
from coordinator.fleet.profile_text import is_disturbed
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from tiermesh.documents.profile import Profile


def register(commands: Commands) -> None:
    """Add `profiles`."""
    parser = commands.add(
        "profiles",
        _profiles,
        help="Show what was measured on which device, or write one profile to a file",
        examples=(
            "  coordinator profiles\n"
            "  coordinator profiles ocr-recognise --on hub-1\n"
            "  coordinator profiles ocr-recognise/v6s --on hub-1 -o profile.json"
        ),
    )
    parser.add_argument(
        "variant", nargs="?", metavar="MODEL[/VARIANT]", help="only of this model or variant"
    )
    parser.add_argument("--on", metavar="DEVICE", help="only what holds for this device")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the one profile that is left here"
    )
    add_state_option(parser)


def _profiles(args: argparse.Namespace, output: Output) -> int:
    held = run_reading(args, lambda client: client.profiles(args.variant or "", args.on or ""))
    found = [(", ".join(devices), profile) for devices, profile in held]
    if args.output is not None:
        _write(_only(found), args.output)
    for part in _tables(found):
        output.console.print(part)
    if not found:
        output.console.print("nothing was measured")
    output.document({"profiles": [profile for _, profile in found]})
    return 0


def _only(found: list[tuple[str, Profile]]) -> Profile:
    if len(found) == 1:
        return found[0][1]
    names = [f"{p.model}/{p.variant} on {devices}" for devices, p in found]
    raise InvalidDocument(
        f"{len(found)} profiles cannot go into one file"
        if found
        else "there is no such profile to write",
        why=f"they are of {'; '.join(names[:8])}" if found else "it was not measured",
        fix="Name one: coordinator profiles MODEL/VARIANT --on DEVICE -o FILE"
        if found
        else "Run: coordinator profile",
    )


def _write(profile: Profile, path: Path) -> None:
    from coordinator.cli.planning import write_file
    from tiermesh.documents.reading import encode_json

    write_file(path, encode_json(profile))


def _tables(found: list[tuple[str, Profile]]) -> Iterator[str | Table]:
    """A heading and a table for the devices of each class."""
    for devices, group in groupby(found, key=itemgetter(0)):
        profiles = [profile for _, profile in group]
        yield f"[bold]{clean(devices)}[/]  [dim]{_when(profiles)}[/]"
        yield _table(profiles)


def _table(profiles: list[Profile]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("variant", "batch", "threads", "mean", "p95", "memory"):
        table.add_column(column, no_wrap=column == "variant")
    for profile in profiles:
        whose = clean(f"{profile.model}/{profile.variant}")
        if not profile.points:
            why = f"cannot run: {clean(profile.cannot_run or 'nothing was measured')}"
            table.add_row(whose, "", "", why)
        for row in _rows(profile):
            table.add_row(whose, *row)
            whose = ""
    return table


def _rows(profile: Profile) -> list[list[str]]:
    return [
        [
            str(point.batch_size),
            str(point.threads),
            f"{1e3 * point.seconds.mean:.1f} ms ± {point.interval:.0%}",
            f"{1e3 * point.seconds.p95:.1f} ms",
            megabytes(point.peak_memory_bytes or profile.peak_memory_bytes),
        ]
        for point in profile.points
    ]


def _when(profiles: list[Profile]) -> str:
    """When these were measured, and how."""
    times = sorted(profile.measured_at[:16].replace("T", " ") for profile in profiles)
    span = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    rests = sorted({f"{1e3 * p.pause_seconds:g} ms" for p in profiles if p.pause_seconds})
    disturbed = max((p.disturbed or 0.0 for p in profiles), default=0.0)
    others = f"; disturbed: up to {disturbed:.0%} of CPU time taken by other processes"
    return (
        f"measured {span}"
        + (f", with rests of {', '.join(rests)}" if rests else "")
        + (others if any(map(is_disturbed, profiles)) else "")
    )
