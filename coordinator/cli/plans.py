"""`coordinator explain | diff | simulate`: questions about a plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.arrivals import add_arrivals_option, with_arrivals
from coordinator.cli.margin import interval_words, percent
from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import CommandOutput
from coordinator.cli.planning import problem_beside, read_file, read_problem
from coordinator.cli.text import clean
from tiermesh.documents.plan import Plan
from tiermesh.documents.reading import decode_json
from tiermesh.errors import DigestMismatch, InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.planning.diff import Difference
    from coordinator.planning.explain import Explanation
    from coordinator.planning.simulate import SimulatedOutcome
    from tiermesh.documents.problem import Problem


def register(commands: Commands) -> None:
    """Add the commands."""
    _register_explain(commands)
    _register_diff(commands)
    _register_simulate(commands)


def read_plan(path: Path) -> Plan:
    """Read a plan file."""
    return decode_json(read_file(path), Plan, f"the plan {path.name}")


def read_with_problem(args: argparse.Namespace) -> tuple[Plan, Problem]:
    """A plan and the problem that it was made for.

    Raises:
        DigestMismatch: the problem is another one.
    """
    plan = read_plan(args.plan)
    beside = args.problem or problem_beside(args.plan)
    if args.problem is None and not beside.is_file():
        raise InvalidDocument(
            f"the problem of {args.plan} is missing",
            why=f"there is no {beside.name}",
            fix="Name it with --problem FILE",
        )
    problem = read_problem(beside)
    if problem.digest != plan.made_for.problem:
        raise DigestMismatch(
            f"{args.plan} was not made for {beside.name}",
            why="the digests differ",
            fix="Replan, or pass the problem of the plan with --problem FILE",
        )
    return plan, problem


def _add_problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="a plan file")
    _add_problem_option(parser)


def _add_problem_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--problem",
        type=Path,
        metavar="FILE",
        help="its problem (default: the one beside the plan)",
    )


# --- explain -----------------------------------------------------------------------------------------------------


def _register_explain(commands: Commands) -> None:
    parser = commands.add(
        "explain",
        _explain,
        help="Say why a plan is as it is, or why what runs misses its SLO",
        examples=(
            "  coordinator explain plan.json\n"
            "  coordinator explain --now\n"
            "  coordinator explain --now read-signs --interval 30 --json"
        ),
    )
    parser.add_argument(
        "plan",
        type=Path,
        nargs="?",
        metavar="PLAN|WORKFLOW",
        help="a plan file; with --now the name of a workflow (default: all that run)",
    )
    _add_problem_option(parser)
    parser.add_argument(
        "--now",
        action="store_true",
        help="measure what runs: which devices, links or loads are otherwise than planned",
    )
    parser.add_argument(
        "--interval",
        type=arguments.seconds,
        default=10.0,
        metavar="S",
        help="with --now: seconds to measure over (default: 10)",
    )
    arguments.add_credentials(parser, "reach beyond this machine")
    add_state_option(parser)


def _explain(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.cli.causes import explain_now
    from coordinator.planning.explain import explain

    if args.now:
        return explain_now(args, output)
    if args.plan is None:
        raise InvalidDocument("no plan is named", fix="Name a plan file, or measure with --now")
    plan, problem = read_with_problem(args)
    explanation = explain(problem, plan)
    _show_explanation(explanation, output)
    output.document(explanation)
    return 0


def _show_explanation(explanation: Explanation, output: CommandOutput) -> None:
    output.console.print(f"{explanation.objective} {explanation.value:.5g}")
    table = Table("replica", "why", box=None, header_style="bold")
    for why in explanation.replicas:
        table.add_row(clean(why.replica), clean(why.reason))
    output.console.print(table)
    if explanation.left_out:
        output.console.print(f"(compared without {', '.join(explanation.left_out)})")
    binding = Table("what binds", "relaxed by", "saves", box=None, header_style="bold")
    for row in explanation.binding:
        binding.add_row(clean(row.constraint), clean(row.relaxed_by), f"{row.saves:.5g}")
    if explanation.binding:
        output.console.print(binding)
    else:
        output.console.print("no constraint is binding")


# --- diff --------------------------------------------------------------------------------------------------------


def _register_diff(commands: Commands) -> None:
    parser = commands.add(
        "diff",
        _diff,
        help="Say what a plan would change: what moves, starts and stops",
        examples="  coordinator diff plan.json\n  coordinator diff plan.json other.json",
    )
    parser.add_argument("plan", type=Path, metavar="PLAN", help="the plan that would be applied")
    parser.add_argument(
        "before", type=Path, nargs="?", metavar="OTHER", help="the plan before (default: what runs)"
    )
    add_state_option(parser)
    parser.add_argument(
        "--price-per-start",
        type=arguments.amount,
        default=0.0,
        metavar="USD",
        help="per hour, of each start",
    )


def _diff(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.planning.diff import difference

    after, price = read_plan(args.plan), args.price_per_start
    if args.before:
        found = difference(read_plan(args.before), after, churn_per_start=price)
    else:
        found = run_reading(args, lambda c: c.diff_plans(after, price_per_start=price))
    show_difference(found, output)
    output.document(found)
    return 0


def show_difference(found: Difference, output: CommandOutput) -> None:
    """Print what changes from one plan to another."""
    say = output.console.print
    if found.empty:
        say("nothing would change")
        return
    for name in found.started:
        say(f"[green]+ {clean(name)}[/]")
    for name in found.stopped:
        say(f"[red]- {clean(name)}[/]")
    for stage, variant, source, target in found.moved:
        say(f"[yellow]> {stage} {variant or ''}[/] from {source} to {target}")
    for replica in found.retuned:
        (rate, rate_now), (batch, batch_now) = replica.items_per_second, replica.batch_size
        say(
            f"~ {clean(replica.id)}: {rate:.3g} to {rate_now:.3g} items/s, batch {batch} to {batch_now}"
        )
    say(
        f"{found.rerouted_share:.0%} of the requests change route; "
        f"{found.loads_mb:.0f} MB to load; {found.cost_per_hour:+.4f} USD/h"
    )


# --- simulate ----------------------------------------------------------------------------------------------------


def _register_simulate(commands: Commands) -> None:
    parser = commands.add(
        "simulate",
        _simulate,
        help="Simulate a plan from its profiles: throughput, latency percentiles, lost requests",
        examples=(
            "  coordinator simulate plan.json --load 1.2\n"
            "  coordinator simulate plan.json --arrivals arrivals.txt\n"
            "  coordinator simulate plan.json --arrivals maps.json#Twitter/1\n"
            "  coordinator simulate plan.json --slower 25%\n"
            "  coordinator simulate plan.json --fail hub-1 --json"
        ),
    )
    _add_problem(parser)
    parser.add_argument(
        "--load",
        type=arguments.above_zero,
        default=1.0,
        metavar="X",
        help="times the planned rate (default: 1)",
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help=f"how many to play (default: {REQUESTS}, and more the burstier they come)",
    )
    add_arrivals_option(parser)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fail", metavar="DEVICE", help="fail this device half way through")
    parser.add_argument(
        "--slower",
        type=percent,
        default=0.0,
        metavar="P",
        help="on devices that are slower by this, such as 25%%",
    )


def _simulate(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.planning.requests import Requests
    from coordinator.planning.simulate import SimulatedLoad, simulate

    plan, problem = read_with_problem(args)
    requests = args.requests
    if requests is None:
        requests = REQUESTS * Requests.of(problem).unevenness
    if args.load <= 0 or not 1 <= requests <= MOST_REQUESTS:
        raise InvalidDocument(
            "there is nothing to simulate",
            why=f"--load must be above 0 and --requests 1 to {MOST_REQUESTS}",
        )
    load = SimulatedLoad(
        requests=requests,
        scale=args.load,
        seed=args.seed,
        fail=args.fail,
    )
    load = with_arrivals(load, args.arrivals, args.load * plan.predicted.throughput_rps)
    outcome = simulate(_slowed(problem, args.slower), plan, load)
    _show_outcome(outcome, plan, output)
    output.document(outcome)
    return 0


def _slowed(problem: Problem, slower: float) -> Problem:
    from coordinator.planning.margin import scaled

    return scaled(problem, lambda _profile, _size: 1 + slower) if slower else problem


REQUESTS = 4000
MOST_REQUESTS = 1_000_000


def _show_outcome(outcome: SimulatedOutcome, plan: Plan, output: CommandOutput) -> None:
    say = output.console.print
    say(f"offered {outcome.offered_rps:.4g}/s, served {outcome.throughput_rps:.4g}/s")
    columns = ("", "simulated", "promised", "90 % interval")
    shown = columns if plan.predicted.latency_interval_ms else columns[:-1]
    table = Table(*shown, box=None, header_style="bold")
    for name, ms in outcome.latency_ms.items():
        promised = plan.predicted.latency_ms.get(name)  # pyright: ignore[reportArgumentType]
        told = f"{promised:.0f} ms" if promised is not None else ""
        row = (name, f"{ms:.0f} ms", told, interval_words(plan.predicted, name))
        table.add_row(*row[: len(shown)])
    say(table)
    say(
        f"{outcome.completed} done, {outcome.lost} lost, {outcome.moved_to_backup} moved to backups"
    )
    fullest = sorted(outcome.busy.items(), key=lambda item: -item[1])[:12]
    if fullest:
        say("busy: " + ", ".join(f"{device} {share:.0%}" for device, share in fullest))
    if outcome.servers:
        running = ", ".join(f"{name} {n:.2f} at once" for name, n in outcome.servers.items())
        promised = plan.cost.serverless_per_hour
        say(
            f"serverless: {running}; {outcome.serverless_per_hour:.5f} USD/h (promised {promised:.5f})"
        )
