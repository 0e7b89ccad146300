"""`coordinator drain`: take the work off a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.plans import show_difference
from coordinator.cli.progress import bars
from coordinator.cli.rollout import show
from coordinator.cli.text import clean
from coordinator.cli.workflows import add_workflow_options

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import Drain
    from coordinator.cli import Commands


def register(commands: Commands) -> None:
    """Add `drain`."""
    parser = commands.add(
        "drain",
        _drain,
        help="Take the work off a device: roll out plans without it, and leave it out of new ones",
        examples=(
            "  coordinator drain cam-2\n"
            "  coordinator drain cam-2 --dry-run        # what would move where\n"
            "  coordinator drain cam-2 --undo           # plan for it again\n"
            "exit code 3: a workflow cannot be served without it, and nothing was changed;\n"
            "exit code 4: a device failed, what ran before runs (again), and the device is not drained"
        ),
    )
    # `--device` is an address, as for the other commands.
    parser.add_argument("drained", metavar="DEVICE", help="its name or id")
    parser.add_argument("--undo", action="store_true", help="plan for it again from now on")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    add_workflow_options(parser)
    add_variants_option(parser)
    add_mesh_options(parser)


def _drain(args: argparse.Namespace, output: CommandOutput) -> int:
    if args.undo:
        name = run_with_mesh(args, output, lambda client: client.undo_drain(args.drained))
        output.console.print(f"{clean(name)} is planned for again, from the next plan on")
        output.document({"device": name, "undone": True})
        return 0
    found = run_with_mesh(args, output, lambda client: _drained(args, output, client))
    code = _show(found, output)
    output.document(found)
    return code


async def _drained(
    args: argparse.Namespace, output: CommandOutput, client: CoordinatorClient
) -> Drain:
    with bars(output) as report:
        return await client.drain(
            args.drained,
            dry_run=args.dry_run,
            source_bytes=dict(args.source_bytes),
            planned=lambda planned: _show_changes(planned, output),
            report=report,
        )


def _show_changes(planned: Drain, output: CommandOutput) -> None:
    for workflow, found in planned.changes.items():
        output.console.print(f"[bold]{clean(workflow)}[/]")
        show_difference(found, output)
    if planned.dry_run and not planned.changes:
        name = clean(planned.device)
        output.console.print(f"nothing runs on {name}; it would be left out of new plans")


def _show(found: Drain, output: CommandOutput) -> int:
    """Say what came of it; returns the exit code."""
    if found.drained is None:
        return 0
    for one in found.rollouts:
        show(one, output)
    name = clean(found.device)
    output.console.print(
        f"{name} serves nothing, and is left out of new plans until: coordinator drain {name} --undo"
        if found.drained
        else f"[yellow]{name} is not drained: it is planned for again[/]",
        soft_wrap=True,
    )
    return found.rollouts[-1].exit_code if found.rollouts else 0
