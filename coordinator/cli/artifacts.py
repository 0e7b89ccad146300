"""`coordinator artifacts`: what lies on the devices and what it is needed for; frees what nothing needs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli.mesh import add_mesh_options, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean, megabytes
from tiermesh.errors import error_of

if TYPE_CHECKING:
    from coordinator.api.documents import DeviceArtifacts
    from coordinator.cli import Commands


def register(commands: Commands) -> None:
    """Add `artifacts`."""
    parser = commands.add(
        "artifacts",
        _artifacts,
        help="List the artifacts on devices and what uses them; delete unused ones",
        examples=(
            "  coordinator artifacts\n"
            "  coordinator artifacts cam-2 --json     # each artifact, and what uses it\n"
            "  coordinator artifacts --collect        # delete unused artifacts now\n"
            "what runs, what ran before it, and what is on its way there is never freed"
        ),
    )
    parser.add_argument("of", metavar="DEVICE", nargs="*", help="names or ids (default: all)")
    parser.add_argument("--collect", action="store_true", help="free what nothing needs")
    add_mesh_options(parser)


def _artifacts(args: argparse.Namespace, output: CommandOutput) -> int:
    found = run_with_mesh(args, output, lambda c: c.artifacts(args.of, collect=args.collect))
    output.console.print(_table(found.devices, collected=args.collect))
    for name, error in found.failures.items():
        output.progress.print(f"[red]{clean(name)}[/]: {clean(error_of(error))}")
    output.document(found)
    return 1 if found.failures else 0


def _table(replies: Mapping[str, DeviceArtifacts], *, collected: bool) -> Table:
    """A row for each device and each thing that artifacts are needed for; it fits into 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("device", "needed for", ">artifacts", ">size", ">freed", ">free disk"):
        table.add_column(column.lstrip(">"), justify="right" if column[0] == ">" else "left")
    for name, reply in sorted(replies.items()):
        rows = _rows(reply)
        for number, (word, count, size) in enumerate(rows):
            first = number == 0
            table.add_row(
                clean(name) if first else "",
                clean(word) or "[yellow]nothing[/]",
                str(count),
                megabytes(size),
                megabytes(reply.freed_bytes) if first and collected else "",
                megabytes(reply.free_bytes) if first else "",
            )
    return table


def _rows(reply: DeviceArtifacts) -> Sequence[tuple[str, int, int]]:
    """What is needed for what, in words: how many artifacts, and their bytes. One line where nothing is there."""
    left = [one for one in reply.artifacts if not one.freed]
    counts = Counter(one.needed_for for one in left)
    sizes = Counter[str]()
    for one in left:
        sizes[one.needed_for] += one.bytes
    return [(word, counts[word], sizes[word]) for word in sorted(counts, reverse=True)] or [
        ("", 0, 0)
    ]
