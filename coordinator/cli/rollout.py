"""`coordinator apply`: bring a plan to the devices, all of it or nothing."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.plans import read_plan
from coordinator.cli.progress import bars
from coordinator.cli.text import clean, megabytes
from coordinator.cli.waiting import check_ends, wait_and_show
from coordinator.cli.waiting import document as waited_document
from coordinator.cli.waiting import show as show_waited
from tiermesh.documents.plan import Plan
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.mesh import Mesh
    from coordinator.rollout.applying import Applied, Applying, Part
    from tiermesh.documents.workflow import Workflow

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
        help="begin a run of that name (default: what runs goes on)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="return only when the run has ended; fail when a request failed or the SLO was missed",
    )
    add_variants_option(parser)
    add_mesh_options(parser)


def _apply(args: argparse.Namespace, output: Output) -> int:
    return run_with_mesh(args, output, lambda mesh: _work(args, output, mesh))


async def _work(args: argparse.Namespace, output: Output, mesh: Mesh) -> int:
    plan = await asyncio.to_thread(_plan, args.plan, mesh)
    workflow: Workflow | None = None
    if args.workflow is not None:
        workflow = await mesh.read_workflow(args.workflow)
    if args.wait:
        check_ends(
            workflow or mesh.workflow_of(plan),
            "--wait",
            "Leave --wait out; without it, too, apply returns only when every device serves the plan",
        )
    if args.dry_run:
        return await _preview(await mesh.applying(plan, workflow=workflow), args, output)
    with bars(output) as report:
        applied = await mesh.apply(
            plan, workflow=workflow, run=args.new_run, measure_s=MEASURE_S, report=report
        )
    show(applied, output)
    told = document(applied)
    code = applied.exit_code
    if args.wait and code == 0:
        waited = await wait_and_show(mesh, applied.workflow, output)
        show_waited(waited, output)
        told |= {"waited": waited_document(waited), "ledger": msgspec.to_builtins(waited.ledger)}
        code = 0 if waited.ok else 1
    output.document(told)
    return code


def _plan(given: str | Path, mesh: Mesh) -> Plan:
    if isinstance(given, str):
        record = mesh.fleet.plans.get(given)
        if record is None:
            raise InvalidDocument(f"no plan {given} was made here", fix="Give the plan's file")
        return record.plan
    return read_plan(given)


async def _preview(applying: Applying, args: argparse.Namespace, output: Output) -> int:
    parts = await applying.preview(args.new_run)
    table = Table("device", "replicas", "to push", box=None, header_style="bold")
    for part in sorted(parts, key=lambda part: part.device):
        replicas = ", ".join(r.id for r in part.assignment.replicas)
        table.add_row(clean(part.device), clean(replicas), megabytes(part.lacking_bytes))
    output.console.print(table)
    unable = [part for part in parts if part.lacking_bytes is None]
    for part in unable:
        output.progress.print(f"[red]{clean(part.device)}[/]: {clean(part.why)}")
    output.document({"dry_run": True, "parts": [_part(part) for part in parts]})
    return 1 if unable else 0


def _part(part: Part) -> dict[str, Any]:
    return {
        "device": part.device,
        "generation": part.assignment.generation,
        "run": part.assignment.run,
        "replicas": [replica.id for replica in part.assignment.replicas],
        "artifacts": sorted(part.assignment.artifacts),
        "lacking_bytes": part.lacking_bytes,
        "why": part.why,
    }


def document(applied: Applied) -> dict[str, Any]:
    """A rollout for programs."""
    return {
        "workflow": applied.workflow,
        "plan": applied.plan,
        "generation": applied.generation,
        "run": applied.run,
        "outcome": applied.outcome.value,
        "unchanged": applied.unchanged,
        "devices": {name: phase.value for name, phase in applied.phases.items()},
        "failures": dict(applied.failures),
        "sent_bytes": dict(applied.sent_bytes),
        "fetched_bytes": {name: dict(by) for name, by in applied.fetched_bytes.items()},
        "restored": document(applied.restored) if applied.restored is not None else None,
    }


def show(applied: Applied, output: Output) -> None:
    """Say how a rollout ended, and why where it failed."""
    said = "[green]serves already[/]" if applied.unchanged else _SAID[applied.outcome.value]
    where = f"generation {applied.generation}, run {clean(applied.run)}"
    output.console.print(f"{clean(applied.workflow)}, {where}: {said}")
    for device, why in applied.failures.items():
        output.progress.print(f"[red]{clean(device)}[/]: {clean(why)}")
    if applied.restored is not None:
        show(applied.restored, output)
