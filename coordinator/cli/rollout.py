"""`coordinator apply`: bring a plan to the devices, all of it or nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.plans import read_plan
from coordinator.cli.progress import bars
from coordinator.cli.text import clean, megabytes
from coordinator.cli.waiting import show as show_waited
from coordinator.cli.waiting import wait_and_show

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import Preview, RolloutReport
    from coordinator.api.messages import PlanToApply
    from coordinator.cli import Commands

MEASURE_S: Final = 1.0
"""How long each replica is run on its samples before it serves."""
_SAID = {
    "committed": "[green]serves[/]",
    "aborted": "[yellow]failed before any device switched: what ran before runs on[/]",
    "broken": "[red]failed while devices switched[/]",
    "restored": "[yellow]what ran before runs again[/]",
}


def register(commands: Commands) -> None:
    """Add `apply`."""
    parser = commands.add(
        "apply",
        _apply,
        help="Push, prepare and switch on every device of a plan; go back when one fails",
        examples=(
            "  coordinator apply plan.json\n"
            "  coordinator apply plan.json --dry-run\n"
            "  coordinator apply plan.json --run evening --wait --json\n"
            "It returns when every device of the plan serves it, and the others have ended what they had.\n"
            "With --wait it returns when the run has ended; exit code 1: a request failed, or the SLO was missed.\n"
            "exit code 4: a device failed, and what ran before runs (again)"
        ),
    )
    parser.add_argument(
        "plan",
        type=arguments.digest_or_path,
        metavar="PLAN",
        help="a plan file, or the digest of a plan made here",
    )
    parser.add_argument(
        "--workflow",
        type=Path,
        metavar="FILE",
        help="the workflow, where this coordinator never saw it",
    )
    parser.add_argument(
        "--run",
        dest="new_run",
        type=arguments.name,
        metavar="NAME",
        help="start a new run of that name (default: continue the present run)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="return only when the run has ended; fail when a request failed or the SLO was missed",
    )
    add_variants_option(parser)
    add_mesh_options(parser)


def _apply(args: argparse.Namespace, output: CommandOutput) -> int:
    return run_with_mesh(args, output, lambda client: _work(args, output, client))


async def _work(args: argparse.Namespace, output: CommandOutput, client: CoordinatorClient) -> int:
    plan, run = await _plan(args, client), args.new_run or ""
    if args.dry_run:
        (preview,) = await client.preview_apply(plan, run=run, must_end=args.wait)
        return _show_preview(preview, output)
    with bars(output) as report:
        (rollout,) = await client.apply(
            plan, run=run, measure_s=MEASURE_S, must_end=args.wait, report=report
        )
    show(rollout, output)
    if not args.wait or rollout.exit_code:
        output.document(rollout)
        return rollout.exit_code
    waited = await wait_and_show(client, rollout.workflow, output)
    show_waited(waited, output)
    output.document(rollout.flat() | {"waited": waited, "ledger": waited.ledger})
    return 0 if waited.ok else 1


async def _plan(args: argparse.Namespace, client: CoordinatorClient) -> PlanToApply:
    """The plan of a file, or the digest of one that was made here, with the workflow file where one is named."""
    from coordinator.api.messages import PlanToApply

    plan = args.plan if isinstance(args.plan, str) else read_plan(args.plan)
    if args.workflow is None:
        return PlanToApply(plan)
    return PlanToApply(plan, (await client.add_workflow_file(args.workflow)).digest)


def _show_preview(preview: Preview, output: CommandOutput) -> int:
    table = Table("device", "replicas", "to push", box=None, header_style="bold")
    for part in sorted(preview.parts, key=lambda part: part.device):
        table.add_row(
            clean(part.device), clean(", ".join(part.replicas)), megabytes(part.lacking_bytes)
        )
    output.console.print(table)
    unable = [part for part in preview.parts if part.lacking_bytes is None]
    for part in unable:
        output.progress.print(f"[red]{clean(part.device)}[/]: {clean(part.why)}")
    output.document(preview)
    return 1 if unable else 0


def show(rollout: RolloutReport, output: CommandOutput) -> None:
    """Say how a rollout ended, and why where it failed."""
    said = "[green]serves already[/]" if rollout.unchanged else _SAID[rollout.outcome.value]
    where = f"generation {rollout.generation}, run {clean(rollout.run)}"
    output.console.print(f"{clean(rollout.workflow)}, {where}: {said}")
    for device, why in rollout.failures.items():
        output.progress.print(f"[red]{clean(device)}[/]: {clean(why)}")
    if rollout.restored is not None:
        show(rollout.restored, output)
