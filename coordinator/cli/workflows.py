"""`coordinator plan WORKFLOW`: from a workflow file and the devices that are there to a plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import searching
from coordinator.cli.text import clean
from tiermesh.errors import Unsupported
from tiermesh.units import Size

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient, MadePlan
    from coordinator.planning import Options

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


def plan_workflow(args: argparse.Namespace, output: CommandOutput, options: Options) -> MadePlan:
    """Plan the workflow of `args.problem` on the devices that answer, and keep the plan in the journal."""

    async def work(client: CoordinatorClient) -> MadePlan:
        workflow = await client.add_workflow_file(args.problem)
        if workflow.prior_profiles:
            output.progress.print(
                f"[yellow]{workflow.prior_profiles} profiles are priors of other devices of a class, not"
                f" measured here[/]; measure them with: coordinator profile {clean(args.problem)}",
                soft_wrap=True,
            )
        if workflow.missing_profiles:
            output.progress.print(
                f"[yellow]{workflow.missing_profiles} profiles are missing[/] and left out of the"
                f" plan; measure them with: coordinator profile {clean(args.problem)}",
                soft_wrap=True,
            )
        with searching(output, options) as followed:
            return await client.make_plan(
                workflow.digest,
                options,
                source_bytes=dict(args.source_bytes),
                functions=True,
                tell=followed.watch.tell,
            )

    return run_with_mesh(args, output, work)


def refuse_for_problem(args: argparse.Namespace) -> None:
    """Say so when options of the fleet are given for a problem file, which has its own."""
    if args.device or args.fleet:
        raise Unsupported(
            "a problem file has its own devices",
            fix="Leave --device and --fleet out, or plan a workflow (.yaml)",
        )
