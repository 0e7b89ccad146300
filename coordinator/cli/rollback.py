"""`coordinator rollback`: bring back the plan that served before."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.plans import show_difference
from coordinator.cli.progress import bars
from coordinator.cli.rollout import document, show
from coordinator.cli.text import clean
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet import Fleet
    from coordinator.mesh import Mesh
    from coordinator.planning.diff import Difference


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


def _rollback(args: argparse.Namespace, output: Output) -> int:
    return run_with_mesh(args, output, lambda mesh: _work(args, output, mesh))


async def _work(args: argparse.Namespace, output: Output, mesh: Mesh) -> int:
    name = args.workflow or _only(mesh.fleet)
    target = mesh.rolling_back(name).target.plan
    before, found = mesh.fleet.running[name], _changes(mesh.fleet, name, target.digest)
    back = mesh.fleet.way_back[name][-1]
    output.console.print(
        f"[bold]{clean(name)}[/]: from generation {before.generation} back to the plan of"
        f" generation {back.generation}"
    )
    show_difference(found, output)
    told = {"workflow": name, "plan": target.digest, "dry_run": args.dry_run, "changes": found}
    if args.dry_run:
        output.document(told)
        return 0
    with bars(output) as report:
        applied = await mesh.roll_back(name, report=report)
    show(applied, output)
    output.document({**told, **document(applied)})
    return applied.exit_code


def _only(fleet: Fleet) -> str:
    names = sorted(fleet.running)
    if len(names) != 1:
        raise InvalidDocument(
            "which workflow is to be rolled back?" if names else "nothing runs",
            fix=f"Name one: {', '.join(names)}" if names else "Run: coordinator apply PLAN",
        )
    return names[0]


def _changes(fleet: Fleet, workflow: str, target: str) -> Difference:
    from coordinator.planning.diff import difference

    return difference(fleet.plans[fleet.running[workflow].plan].plan, fleet.plans[target].plan)
