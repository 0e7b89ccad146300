"""`coordinator workflows`: the workflows that the coordinator knows; adds one without planning it, and removes one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli.mesh import add_mesh_options, run_reading, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from tiermesh.v1 import coordinator_pb2 as pb


def register(commands: Commands) -> None:
    """Add `workflows`."""
    parser = commands.add(
        "workflows",
        _workflows,
        help="List the workflows that the coordinator knows; add or remove one",
        examples=(
            "  coordinator workflows\n"
            "  coordinator workflows --add read-signs.yaml\n"
            "  coordinator workflows --remove read-signs      # one that does not run"
        ),
    )
    parser.add_argument("--add", type=Path, metavar="FILE", help="a workflow file to add first")
    parser.add_argument("--remove", metavar="NAME", help="a workflow to remove first")
    add_mesh_options(parser)


def _workflows(args: argparse.Namespace, output: CommandOutput) -> int:
    if args.add is not None:
        run_with_mesh(args, output, lambda client: client.add_workflow_file(args.add))
    if args.remove is not None:
        run_with_mesh(args, output, lambda client: client.remove_workflow(args.remove))
    known = run_reading(args, lambda client: client.workflows())
    table = Table("workflow", "version", "generation", "folder", box=None, header_style="bold")
    for one in known:
        version = one.digest.removeprefix("sha256:")[:12]
        table.add_row(clean(one.name), version, str(one.generation or ""), clean(one.folder))
    output.console.print(table if known else "no workflow is known")
    output.document({"workflows": [_document(one) for one in known]})
    return 0


def _document(one: pb.KnownWorkflow) -> dict[str, object]:
    return {
        "name": one.name,
        "digest": one.digest,
        "folder": one.folder,
        "generation": one.generation or None,
    }
