"""`coordinator plan | import`: problems in, plans out."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli.margin import add_margin_options, latency_words, margin_lines
from coordinator.cli.mesh import add_mesh_options, add_variants_option
from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import searching
from coordinator.cli.text import clean
from coordinator.cli.workflows import (
    SUFFIXES,
    add_workflow_options,
    plan_workflow,
    refuse_for_problem,
)
from coordinator.planning.options import GAP, TIME_LIMIT_S, Options, PlanObjective, Strategy
from tiermesh.documents.problem import Problem
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.errors import InvalidDocument, TiermeshError

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from tiermesh.documents.plan import Plan, Replica

SHOWN_ROWS = 40


def register(commands: Commands) -> None:
    """Add the commands of planning."""
    _register_plan(commands)
    _register_import(commands)


# --- plan --------------------------------------------------------------------------------------------------------


def _register_plan(commands: Commands) -> None:
    parser = commands.add(
        "plan",
        _plan,
        help="Compute the best plan for a workflow on the devices there are, or for a problem file",
        examples=(
            "  coordinator plan read-signs.yaml -o plan.json\n"
            "  coordinator plan problem.json -o plan.json\n"
            "  coordinator plan problem.json --exclusive --single-variant --json\n"
            "  coordinator plan problem.json --objective throughput --time-limit 10\n"
            "  coordinator plan read-signs.yaml --confidence 99%"
        ),
    )
    parser.add_argument(
        "problem",
        type=Path,
        metavar="WORKFLOW|PROBLEM",
        help="a workflow (.yaml), or a problem file (.json)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="write the plan here, its problem beside it"
    )
    add_options(parser)
    add_workflow_options(parser)
    add_variants_option(parser)
    add_mesh_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `options_of` reads."""
    parser.add_argument(
        "--exclusive", action="store_true", help="a device serves one stage at most"
    )
    parser.add_argument(
        "--single-variant", action="store_true", help="one variant per stage for all requests"
    )
    parser.add_argument(
        "--spares",
        action="store_true",
        help="load faster variants as spares where the accuracy floor leaves slack",
    )
    parser.add_argument("--objective", choices=[o.value for o in PlanObjective], default="cost")
    parser.add_argument("--strategy", choices=[s.value for s in Strategy], default="exact")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_S, metavar="S")
    parser.add_argument("--gap", type=float, default=GAP, help="relative gap to stop at")
    add_margin_options(parser)


def options_of(args: argparse.Namespace) -> Options:
    """The planning options of a command line."""
    return Options(
        exclusive=args.exclusive,
        single_variant=args.single_variant,
        spares=args.spares,
        objective=PlanObjective(args.objective),
        strategy=Strategy(args.strategy),
        time_limit_s=args.time_limit,
        gap=args.gap,
        confidence=args.confidence,
        margin=not args.no_margin,
        frontier=args.frontier,
    )


def _plan(args: argparse.Namespace, output: CommandOutput) -> int:
    if args.problem.suffix in SUFFIXES:
        made = plan_workflow(args, output, replace(options_of(args), frontier=True))
        return hand_over(made.plan, made.problem, output, args.output)
    refuse_for_problem(args)
    return make_plan(read_problem(args.problem), options_of(args), output, args.output)


def make_plan(
    problem: Problem, options: Options, output: CommandOutput, write_to: Path | None
) -> int:
    """Solve a problem and hand the plan over; returns the exit code."""
    from coordinator.planning import solve

    with searching(output, options) as followed:
        plan = solve(problem, followed)
    return hand_over(plan, problem, output, write_to)


def hand_over(plan: Plan, problem: Problem, output: CommandOutput, write_to: Path | None) -> int:
    """Write a plan and its problem if asked to, and show it; returns the exit code."""
    if write_to is not None:
        write_file(write_to, encode_json(plan))
        write_file(problem_beside(write_to), encode_json(problem))
    show_plan(plan, output)
    output.document(plan)
    return 0


def problem_beside(plan: Path) -> Path:
    """Where the problem of a plan file is kept: ``plan.json`` has ``plan.problem.json``."""
    return plan.with_name(plan.name.removesuffix(".json") + ".problem.json")


def read_problem(path: Path) -> Problem:
    """Read a problem file."""
    return decode_json(read_file(path), Problem, f"the problem {path.name}")


def read_file(path: Path) -> bytes:
    """The bytes of a file, or an error that says what is wrong with it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidDocument(
            f"cannot read {path}", why=error.strerror or str(error), path=str(path)
        ) from None


def write_file(path: Path, data: bytes) -> None:
    """Write a file, or say why it cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TiermeshError(f"cannot write {path}", why=error.strerror or str(error)) from None


def show_plan(plan: Plan, output: CommandOutput) -> None:
    """Print a plan for people."""
    proof, say = plan.solver, output.console.print
    gap = "unknown" if proof.gap is None else f"{proof.gap:.2%}"
    say(
        f"[bold]{plan.workflow}[/]: {plan.cost.total_per_hour:.5f} USD/h "
        f"({' + '.join(_parts(plan))})"
    )
    say(f"{proof.termination}, gap {gap}, found in {proof.seconds:.2f} s by {proof.name}")
    promised = plan.predicted
    accuracy = "" if promised.accuracy is None else f", accuracy {promised.accuracy:.4g}"
    latency = latency_words(promised)
    say(f"predicted {promised.throughput_rps:.4g} requests/s{accuracy}; {latency}")
    for line in margin_lines(plan):
        say(line)
    output.console.print(_replica_table(plan))
    for warning in plan.warnings:
        say(f"[yellow]warning:[/] {clean(warning)}")


def _parts(plan: Plan) -> list[str]:
    """What the cost is made of."""
    cost = plan.cost
    parts = [f"{cost.compute_per_hour:.5f} devices", f"{cost.network_per_hour:.5f} network"]
    if any(r.function is not None for r in plan.replicas):
        parts.insert(1, f"{cost.serverless_per_hour:.5f} serverless")
    return parts


def _busy(replica: Replica) -> str:
    """The share of a device's time; of a function its size, how many run at once, and its price."""
    used = replica.function
    if used is None:
        return f"{replica.utilization:.0%}"
    per_million = used.usd_per_item * 1e6
    return (
        f"serverless, {used.memory_mb:.0f} MB: {used.mean_servers:.2f} at once, "
        f"{per_million:.3g} USD per million"
    )


def _replica_table(plan: Plan) -> Table:
    table = Table("stage", "variant", "device", "items/s", "batch", "wait", "busy", box=None)
    for replica in plan.replicas[:SHOWN_ROWS]:
        table.add_row(
            replica.stage,
            replica.variant or "",
            replica.device,
            f"{replica.items_per_second:.3f}",
            str(replica.batch_size),
            f"{replica.batch_timeout_ms:.0f} ms" if replica.batch_timeout_ms else "",
            _busy(replica),
        )
    if len(plan.replicas) > SHOWN_ROWS:
        table.add_row(f"and {len(plan.replicas) - SHOWN_ROWS} more")
    return table


# --- import ------------------------------------------------------------------------------------------------------


def _register_import(commands: Commands) -> None:
    parser = commands.add(
        "import",
        _import,
        help="Turn another system's planning inputs into a problem file",
        examples="  coordinator import jellybean VQA/examples/optimizer_inputs -o problem.json",
    )
    parser.add_argument("format", choices=["jellybean"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("-o", "--output", type=Path, help="write the problem here")


def _import(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.planning.checking import check
    from coordinator.planning.importers import jellybean

    folder: Path = args.folder
    if not folder.is_dir():
        raise InvalidDocument(f"{folder} is not a folder", path=str(folder))
    present = [name for name in jellybean.FILES if (folder / name).is_file()]
    problem = jellybean.problem_from({name: read_file(folder / name) for name in present})
    check(problem)
    if args.output is not None:
        write_file(args.output, encode_json(problem))
    output.console.print(
        f"{len(problem.stages)} stages, {len(problem.devices)} devices in {len(problem.tiers)} tiers, "
        f"{len(problem.profiles)} profiles"
    )
    output.document(problem)
    return 0
