"""`coordinator plan WORKFLOW`: from a workflow file and the devices that are there to a plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.mesh import run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.progress import searching
from coordinator.cli.text import clean
from coordinator.fleet.priors import Priors
from tiermesh.errors import Unsupported
from tiermesh.units import Size

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from coordinator.planning import Options
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.problem import Problem
    from tiermesh.documents.workflow import Workflow

SUFFIXES = (".yaml", ".yml")


def add_workflow_options(parser: argparse.ArgumentParser) -> None:
    """The options of planning that only a workflow has."""
    parser.add_argument(
        "--source-bytes",
        action="append",
        type=_source_bytes,
        default=[],
        metavar="STAGE=SIZE",
        help="what a source sends per request, such as photos=120kB (default: 0)",
    )


def _source_bytes(text: str) -> tuple[str, float]:
    stage, _, size = text.partition("=")
    try:
        return stage, float(Size.parse(size))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def plan_workflow(
    args: argparse.Namespace, output: Output, options: Options
) -> tuple[Plan, Problem]:
    """Plan the workflow of `args.problem` on the devices that answer, and keep the plan in the journal."""

    async def work(mesh: Mesh) -> tuple[Plan, Problem]:
        workflow = await mesh.read_workflow(args.problem)
        await _warn_unmeasured(mesh, workflow, args.problem, output)
        sizes = dict(args.source_bytes)
        problem = await mesh.problem(workflow, source_bytes=sizes, functions=True)
        with searching(output, options) as followed:
            return await mesh.solve(problem, followed), problem

    return run_with_mesh(args, output, work)


async def _warn_unmeasured(mesh: Mesh, workflow: Workflow, path: Path, output: Output) -> None:
    fleet, known = mesh.fleet, Priors(mesh.fleet)
    unmeasured = [
        known.of(device, variant.digest)
        for variant in await mesh.variants(workflow)
        for device in fleet.ready
        if fleet.profile(device, variant.digest) is None
    ]
    missing = unmeasured.count(None)
    if priors := len(unmeasured) - missing:
        output.progress.print(
            f"[yellow]{priors} profiles are priors of other devices of a class, not measured here[/]; "
            f"measure them with: coordinator profile {clean(path)}"
        )
    if missing:
        output.progress.print(
            f"[yellow]{missing} profiles are missing[/] and left out of the plan; "
            f"measure them with: coordinator profile {clean(path)}"
        )


def refuse_for_problem(args: argparse.Namespace) -> None:
    """Say so when options of the fleet are given for a problem file, which has its own."""
    if args.device or args.fleet:
        raise Unsupported(
            "a problem file has its own devices",
            fix="Leave --device and --fleet out, or plan a workflow (.yaml)",
        )
