"""`coordinator artifacts`: what lies on the devices and what it is needed for; frees what nothing needs."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from coordinator.cli.devices import known_device
from coordinator.cli.mesh import add_mesh_options, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.text import clean, megabytes
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet.state import Device
    from coordinator.mesh import Mesh
    from tiermesh.v1.rollout_pb2 import CollectReply


def register(commands: Commands) -> None:
    """Add `artifacts`."""
    parser = commands.add(
        "artifacts",
        _artifacts,
        help="What models and code lie on the devices, and what for; free what nothing needs",
        examples=(
            "  coordinator artifacts\n"
            "  coordinator artifacts cam-2 --json     # each artifact, and what keeps it\n"
            "  coordinator artifacts --collect        # free what nothing needs, at once\n"
            "what runs, what ran before it, and what is on its way there is never freed"
        ),
    )
    parser.add_argument("of", metavar="DEVICE", nargs="*", help="names or ids (default: all)")
    parser.add_argument("--collect", action="store_true", help="free what nothing needs")
    add_mesh_options(parser)


def _artifacts(args: argparse.Namespace, output: Output) -> int:
    return run_with_mesh(args, output, lambda mesh: _work(args, output, mesh))


async def _work(args: argparse.Namespace, output: Output, mesh: Mesh) -> int:
    devices = [known_device(mesh.fleet, name) for name in args.of] or mesh.fleet.ready

    async def ask(device: Device) -> CollectReply | TiermeshError:
        try:
            return await mesh.distribution.link(device).collect(free=args.collect)
        except TiermeshError as error:
            return error

    answers = await asyncio.gather(*(ask(device) for device in devices))
    told = {d.name: a for d, a in zip(devices, answers, strict=True)}
    failed = {name: a for name, a in told.items() if isinstance(a, TiermeshError)}
    replies = {name: a for name, a in told.items() if not isinstance(a, TiermeshError)}
    if args.collect:
        freed = sum(reply.freed_bytes for reply in replies.values())
        await mesh.note(f"freed {freed} bytes of artifacts on {', '.join(replies) or 'no device'}")
    output.console.print(_table(replies, collected=args.collect))
    for name, error in failed.items():
        output.progress.print(f"[red]{clean(name)}[/]: {clean(error)}")
    output.document(
        {
            "devices": {name: _plain(reply) for name, reply in replies.items()},
            "failures": {name: error.to_dict() for name, error in failed.items()},
        }
    )
    return 1 if failed else 0


def _plain(reply: CollectReply) -> dict[str, Any]:
    return {
        "artifacts": [
            {
                "digest": one.digest,
                "bytes": one.bytes,
                "complete": one.complete,
                "needed_for": one.needed_for,
                "used_at": one.used_at,
                "freed": one.freed,
            }
            for one in reply.artifacts
        ],
        "unneeded_bytes": _unneeded(reply),
        "freed_bytes": reply.freed_bytes,
        "free_bytes": reply.free_bytes,
    }


def _unneeded(reply: CollectReply) -> int:
    return sum(one.bytes for one in reply.artifacts if not one.needed_for and not one.freed)


def _table(replies: Mapping[str, CollectReply], *, collected: bool) -> Table:
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


def _rows(reply: CollectReply) -> Sequence[tuple[str, int, int]]:
    """What is needed for what, in words: how many artifacts, and their bytes. One line where nothing is there."""
    left = [one for one in reply.artifacts if not one.freed]
    counts = Counter(one.needed_for for one in left)
    sizes = Counter[str]()
    for one in left:
        sizes[one.needed_for] += one.bytes
    return [(word, counts[word], sizes[word]) for word in sorted(counts, reverse=True)] or [
        ("", 0, 0)
    ]
