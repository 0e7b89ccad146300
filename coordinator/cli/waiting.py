"""`coordinator wait`: until a run has ended, or for a time; the exit code says whether all went well."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli import arguments
from coordinator.cli.attainment import verdict_line
from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import CommandOutput
from coordinator.cli.replicas import ledger_line
from coordinator.cli.text import clean

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import WaitedRun
    from coordinator.cli import Commands
    from tiermesh.v1 import coordinator_pb2 as pb


def register(commands: Commands) -> None:
    """Add `wait`."""
    parser = commands.add(
        "wait",
        _wait,
        help="Wait until a run has finished, or for a time, and report whether it met its SLO",
        examples=(
            "  coordinator wait                                  until the run that is served has ended\n"
            "  coordinator wait read-signs --timeout 10min\n"
            "  coordinator wait read-signs --for 90s --json      judge what ends in the next 90 seconds\n"
            "exit code 0: it ended in time, no request failed, and the SLO was met;\n"
            "exit code 1: one of these is not so, and the text says which"
        ),
    )
    parser.add_argument(
        "workflow", nargs="?", metavar="WORKFLOW", help="its name (default: the one that runs)"
    )
    parser.add_argument(
        "--for",
        dest="for_s",
        type=arguments.duration,
        metavar="TIME",
        help="wait for this long, such as 90s or 10min, and judge the requests that finish meanwhile",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.duration,
        metavar="TIME",
        help="time out after this long (default: never)",
    )
    arguments.add_credentials(parser, "reach beyond this machine")
    add_state_option(parser)


def _wait(args: argparse.Namespace, output: CommandOutput) -> int:
    async def work(client: CoordinatorClient) -> WaitedRun:
        name, timeout_s = args.workflow or "", args.timeout
        return await wait_and_show(client, name, output, for_s=args.for_s, timeout_s=timeout_s)

    found = run_reading(args, work)
    show(found, output)
    output.document(found)
    return 0 if found.ok else 1


async def wait_and_show(
    client: CoordinatorClient,
    workflow: str,
    output: CommandOutput,
    *,
    for_s: float | None = None,
    timeout_s: float | None = None,
) -> WaitedRun:
    """Wait, with progress where standard error is a terminal."""
    with output.progress.status("waiting for results") as shown:
        return await client.wait(
            workflow,
            for_s=for_s,
            timeout_s=timeout_s,
            show=lambda progress: shown.update(_progress(progress, for_s)),
        )


def _progress(now: pb.WaitProgress, for_s: float | None) -> str:
    text = f"{now.accepted:,} accepted, {now.confirmed:,} ended, {now.errors:,} errors"
    within = [f"{now.within:.1%} within the SLO"] if now.HasField("within") else []
    passed_s = now.passed_s
    time_left = [f"{max(for_s - passed_s, 0):.0f} s left" if for_s else f"{passed_s:.0f} s"]
    return clean(", ".join([text, *within, *time_left]))


def show(found: WaitedRun, output: CommandOutput) -> None:
    """The ledger, the verdict, and what was not as it should be."""
    say = output.console.print
    name = f"[bold]{clean(found.workflow)}[/], run {clean(found.run)}"
    say(f"{name}: {ledger_line(found.ledger)}", soft_wrap=True)
    say(verdict_line(found.verdict), soft_wrap=True)
    if found.wrong:
        output.progress.print(f"[red]failed:[/] {clean('; '.join(found.wrong))}", soft_wrap=True)
