"""`coordinator profiles list|export|import`: what was measured, and what is taken for it where nothing was."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table

from coordinator.cli import Commands
from coordinator.cli.mesh import (
    add_mesh_options,
    add_state_option,
    add_variants_option,
    run_changing,
    run_reading,
)
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean, megabytes
from coordinator.fleet.profile_text import is_disturbed
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from tiermesh.documents.profile import Profile
    from tiermesh.documents.published import PublishedProfile

    Profiles = list[tuple[list[str], Profile]]
    Priors = list[tuple[list[str], PublishedProfile]]

PROFILES: Final = Path("profiles")
"""The folder of published profiles in a checkout."""


def register(commands: Commands) -> None:
    """Add `profiles` and its actions."""
    parser = commands.add(
        "profiles",
        _no_action,
        help="List, export and import profiles: what was measured on which device",
        examples=(
            "  coordinator profiles                                  # as: coordinator profiles list\n"
            "  coordinator profiles ocr-recognise/v6s --on hub-1 -o profile.json\n"
            "  coordinator profiles export\n"
            "  coordinator profiles import"
        ),
    )
    actions = Commands(parser)
    _add_list(actions)
    _add_export(actions)
    _add_import(actions)


def _add_list(actions: Commands) -> None:
    parser = actions.add(
        "list",
        _list,
        help="list what was measured on which device, or write one profile to a file",
        examples=(
            "  coordinator profiles list\n"
            "  coordinator profiles list ocr-recognise --on hub-1\n"
            "  coordinator profiles list ocr-recognise/v6s --on hub-1 -o profile.json"
        ),
    )
    _add_filters(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the one profile that is left here"
    )
    add_state_option(parser)


def _add_export(actions: Commands) -> None:
    parser = actions.add(
        "export",
        _export,
        help="write measured profiles to files by class of hardware, without names of devices",
        examples=(
            "  coordinator profiles export\n"
            "  coordinator profiles export ocr-recognise --on server --to published/"
        ),
    )
    _add_filters(parser)
    parser.add_argument(
        "--to", type=Path, default=PROFILES, metavar="DIR", help="default: %(default)s"
    )
    add_state_option(parser)


def _add_import(actions: Commands) -> None:
    parser = actions.add(
        "import",
        _import,
        help="use published profiles as priors, for devices of their class that have not measured",
        examples=(
            "  coordinator profiles import\n"
            "  coordinator profiles import profiles/amd-epyc-2-threads-onnx-1.31.1-5b0ce0c6"
        ),
    )
    parser.add_argument(
        "sources",
        nargs="*",
        type=Path,
        default=[PROFILES],
        metavar="FILE|DIR",
        help=f"files, or folders with files (default: {PROFILES})",
    )
    add_variants_option(parser)
    add_mesh_options(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "variant", nargs="?", metavar="MODEL[/VARIANT]", help="only of this model or variant"
    )
    parser.add_argument("--on", metavar="DEVICE", help="only profiles that apply to this device")


def _no_action(args: argparse.Namespace, output: CommandOutput) -> int:
    del args, output
    raise AssertionError("the parser requires an action")


# --- list --------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, output: CommandOutput) -> int:
    async def asked(client: CoordinatorClient) -> tuple[Profiles, Priors]:
        wanted = args.variant or "", args.on or ""
        return await client.profiles(*wanted), await client.priors(*wanted)

    held, priors = run_reading(args, asked)
    found = [(", ".join(devices), profile) for devices, profile in held]
    if args.output is not None:
        _write(_only(found), args.output)
    for part in [*_tables(found), *_prior_tables(priors)]:
        output.console.print(part)
    if not found and not priors:
        output.console.print("nothing was measured")
    output.document(
        {
            "profiles": [profile for _, profile in found],
            "priors": [
                {"used_for": devices, "hardware": one.hardware, "profile": one.profile}
                for devices, one in priors
            ],
        }
    )
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


def _prior_tables(priors: list[tuple[list[str], PublishedProfile]]) -> Iterator[str | Table]:
    """A heading and a table for each class of hardware, and the devices that use it."""
    for (label, *devices), group in groupby(priors, key=lambda o: (o[1].hardware.label, *o[0])):
        profiles = [one.profile for _, one in group]
        used = f"not measured on {', '.join(devices)}" if devices else "no device uses it"
        yield f"[yellow]prior from class {clean(label)}[/]: {clean(used)}  [dim]{_when(profiles)}[/]"
        yield _table(profiles, priors=True)


def _table(profiles: list[Profile], *, priors: bool = False) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("variant", "batch", "threads", "mean", "p95", "memory"):
        table.add_column(column, no_wrap=column == "variant")
    for profile in profiles:
        whose = clean(f"{profile.model}/{profile.variant}")
        if not profile.points:
            why = f"cannot run: {clean(profile.cannot_run or 'nothing was measured')}"
            table.add_row(whose, "", "", why)
        for row in _rows(profile, priors):
            table.add_row(whose, *row)
            whose = ""
    return table


def _rows(profile: Profile, priors: bool) -> list[list[str]]:
    """A prior's interval is as wide as it counts in a plan: between devices of the class."""
    from coordinator.planning.problem_profiles import NORMAL_95, prior_error

    return [
        [
            str(point.batch_size),
            str(point.threads),
            f"{1e3 * point.seconds.mean:.1f} ms ±"
            f" {NORMAL_95 * prior_error(point) if priors else point.interval:.0%}",
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


# --- export ------------------------------------------------------------------------------------------------------


def _export(args: argparse.Namespace, output: CommandOutput) -> int:
    published = run_reading(
        args, lambda client: client.exported_profiles(args.variant or "", args.on or "")
    )
    if not published:
        raise InvalidDocument(
            "there is nothing to export",
            why="emulated devices and disturbed measurements are left out, and nothing else was measured",
            fix="Run on an idle machine: coordinator profile --again; see: coordinator profiles",
        )
    written = [_write_published(one, args.to) for one in published]
    for path in written:
        output.console.print(clean(path))
    output.document({"written": [str(path) for path in written]})
    return 0


def _write_published(published: PublishedProfile, folder: Path) -> Path:
    from coordinator.cli.planning import write_file
    from tiermesh.documents.published import file_name
    from tiermesh.documents.reading import encode_json

    path = folder / published.hardware.folder / file_name(published.profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encode_json(published))
    return path


# --- import ------------------------------------------------------------------------------------------------------


def _import(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.workflows.published_files import read_published_files

    published = read_published_files(args.sources)
    taken = run_changing(args, lambda client: client.import_priors(published))
    used = ", ".join(taken.used_for) or "no known device, until one of their class comes"
    output.console.print(
        f"{taken.imported} of {len(published)} published profiles are new; used for {clean(used)}"
    )
    output.document(
        {"read": len(published), "imported": taken.imported, "used_for": list(taken.used_for)}
    )
    return 0
