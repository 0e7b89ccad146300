"""`coordinator rollback`: bring back the plan that served before."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.plans import show_difference
from coordinator.cli.progress import bars
from coordinator.cli.rollout import show
from coordinator.cli.text import clean

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.cli import Commands


def register(commands: Commands) -> None:
    """Add `rollback`."""
    parser = commands.add(
        "rollback",
        _rollback,
        help="Roll out the plan that served a workflow before the one that does",
        examples=(
            "  coordinator rollback\n"
            "  coordinator rollback read-signs --dry-run\n"
            "each rollback goes one plan further back; exit code 4: a device failed, and what ran runs on"
        ),
    )
    parser.add_argument(
        "workflow",
        nargs="?",
        metavar="WORKFLOW",
        help="its name (default: the one that runs)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change")
    add_variants_option(parser)
    add_mesh_options(parser)


def _rollback(args: argparse.Namespace, output: CommandOutput) -> int:
    return run_with_mesh(args, output, lambda client: _work(args, output, client))


async def _work(args: argparse.Namespace, output: CommandOutput, client: CoordinatorClient) -> int:
    back, changes = await client.preview_rollback(args.workflow or "")
    output.console.print(
        f"[bold]{clean(back.workflow)}[/]: from generation {back.running} back to the plan of"
        f" generation {back.generation}"
    )
    show_difference(changes, output)
    told = {"workflow": back.workflow, "plan": back.plan, "dry_run": args.dry_run}
    if args.dry_run:
        output.document({**told, "changes": changes})
        return 0
    with bars(output) as report:
        rollout = await client.roll_back(back.workflow, report=report)
    show(rollout, output)
    output.document({**told, "changes": changes, **rollout.flat()})
    return rollout.exit_code
