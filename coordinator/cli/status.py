"""`coordinator status`: what runs where, measured against predicted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli import arguments
from coordinator.cli.attainment import attainment_lines
from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import CommandOutput
from coordinator.cli.replicas import ledger_line, replica_table, sinks_line
from coordinator.cli.text import clean, device_label

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet.state import ReplanRecord
    from coordinator.telemetry.status import WorkflowStatus


def register(commands: Commands) -> None:
    """Add `status`."""
    parser = commands.add(
        "status",
        _status,
        help="Show what runs where, and measured against predicted figures",
        examples="  coordinator status\n  coordinator status read-signs --interval 5 --json",
    )
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="only this workflow's name")
    parser.add_argument(
        "--interval",
        type=arguments.seconds,
        default=1.0,
        metavar="S",
        help="seconds to measure over",
    )
    arguments.add_credentials(parser, "reach beyond this machine")
    add_state_option(parser)


def _status(args: argparse.Namespace, output: CommandOutput) -> int:
    found = run_reading(
        args, lambda client: client.status(args.workflow or "", interval_s=args.interval)
    )
    for status in found:
        _show(status, output)
    if not found:
        output.console.print("nothing runs")
    output.document({"workflows": found})
    return 1 if any(_serves_badly(status) for status in found) else 0


def _serves_badly(status: WorkflowStatus) -> bool:
    return any(device.generation != status.generation for device in status.devices)


def _show(status: WorkflowStatus, output: CommandOutput) -> None:
    say, predicted = output.console.print, status.predicted
    say(
        f"[bold]{clean(status.workflow)}[/], generation {status.generation}, run {clean(status.run)}"
    )
    rate = "?" if status.throughput_rps is None else f"{status.throughput_rps:.2f}"
    say(f"  throughput {rate}/s (predicted {predicted.throughput_rps:.2f}/s)")
    shown = attainment_lines(status.attainment, predicted, status.latency_ms, status.expected_ms)
    for line in shown:
        say(f"  {line}", soft_wrap=True)
    for line in (ledger_line(status.ledger), sinks_line(status.ledger)):
        if line:
            say(f"  {line}", soft_wrap=True)
    if status.replan is not None:
        say(f"  planned again: {_replanned(status.replan)}")
    say(replica_table(status))
    for device in status.devices:
        if device.generation != status.generation:
            why = device.why or f"it serves generation {device.generation}"
            name = device_label(device.name, device.emulated_slowdown)
            say(f"[red]{name} does not serve it:[/] {clean(why)}")


def _replanned(replan: ReplanRecord) -> str:
    """Why it was planned again, and what came of it."""
    ended = f"{replan.outcome}, {replan.text}" if replan.outcome is not None else "under way"
    return clean(f"{replan.reason} ({replan.why}): {ended}")
