"""`coordinator wait`: until a run has ended, or for a time; the exit code says whether all went well."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.attainment import verdict_line
from coordinator.cli.mesh import add_state_option
from coordinator.cli.output import Output
from coordinator.cli.replicas import ledger_line
from coordinator.cli.text import clean
from tiermesh.documents.endpoints import PacedSource
from tiermesh.documents.workflow import Source, Workflow
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet import Fleet
    from coordinator.keeping.waiting import Waited, Waiting
    from coordinator.mesh import Mesh


def register(commands: Commands) -> None:
    """Add `wait`."""
    parser = commands.add(
        "wait",
        _wait,
        help="Wait until a workflow's run has ended, or for a time, and say whether it kept its SLO",
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
        help="wait for so long, such as 90s or 10min, and judge what ends meanwhile",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.duration,
        metavar="TIME",
        help="give up after so long (default: never)",
    )
    arguments.add_credentials(parser, "reach beyond this machine")
    add_state_option(parser)


def _wait(args: argparse.Namespace, output: Output) -> int:
    found = asyncio.run(_work(args, output))
    show(found, output)
    output.document(document(found))
    return 0 if found.ok else 1


async def _work(args: argparse.Namespace, output: Output) -> Waited:
    from coordinator.mesh import Mesh

    state = args.state or config.state_dir()
    async with Mesh.open(state, read_only=True, credentials=args.credentials) as mesh:
        name = _named(mesh.fleet, args.workflow)
        if args.for_s is None and args.timeout is None:
            running = mesh.fleet.running[name]
            check_ends(
                _workflow(mesh.fleet, running.workflow_digest), "wait", "Give --for or --timeout"
            )
        await mesh.discover(browse=False)
        return await wait_and_show(mesh, name, output, for_s=args.for_s, timeout_s=args.timeout)


def _named(fleet: Fleet, wanted: str | None) -> str:
    names = sorted(fleet.running)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is not None and wanted in names:
        return wanted
    known = ", ".join(names) or "nothing"
    if wanted is None and names:
        raise InvalidDocument("which workflow is to be waited for?", fix=f"Name one: {known}")
    what = f"`{wanted}` does not run" if wanted is not None else "nothing runs"
    raise InvalidDocument(what, fix=f"Running: {known}")


def _workflow(fleet: Fleet, digest: str) -> Workflow:
    from coordinator.workflows.yaml_files import parse_workflow

    return parse_workflow(fleet.workflows[digest].text)


def check_ends(workflow: Workflow, what: str, fix: str) -> None:
    """Refuse to wait for the end of a run that has none.

    Raises:
        InvalidDocument: naming the source that repeats, or takes requests from outside, for ever.
    """
    endless = [name for name in workflow.of_kind(Source) if _is_endless(workflow, name)]
    if endless:
        raise InvalidDocument(
            f"{what} would never return",
            why=f"the source `{endless[0]}` {_why_endless(workflow, endless[0])}",
            fix=fix,
        )


def _is_endless(workflow: Workflow, name: str) -> bool:
    source = workflow.stages[name]
    return isinstance(source, Source) and source.is_endless


def _why_endless(workflow: Workflow, name: str) -> str:
    if isinstance(workflow.stages[name], PacedSource):
        return "repeats its requests for ever"
    return "takes requests from outside for ever"


async def wait_and_show(
    mesh: Mesh,
    workflow: str,
    output: Output,
    *,
    for_s: float | None = None,
    timeout_s: float | None = None,
) -> Waited:
    """Wait, with progress where standard error is a terminal."""
    from coordinator.keeping.waiting import wait

    began = time.monotonic()
    with output.progress.status("waiting for results") as shown:

        def show(waiting: Waiting) -> None:
            shown.update(_progress(waiting, mesh.fleet, time.monotonic() - began, for_s))

        return await wait(mesh, workflow, for_s=for_s, timeout_s=timeout_s, show=show)


def _progress(waiting: Waiting, fleet: Fleet, passed_s: float, for_s: float | None) -> str:
    ledger = waiting.ledger
    text = f"{ledger.accepted:,} accepted, {ledger.confirmed:,} ended, {ledger.errors:,} errors"
    run = [o.windows["run"] for o in waiting.attainment(fleet).objectives if "run" in o.windows]
    within = [f"{share.share:.1%} within the SLO" for share in run[-1:] if share.share is not None]
    time_left = [f"{max(for_s - passed_s, 0):.0f} s left" if for_s else f"{passed_s:.0f} s"]
    return clean(", ".join([text, *within, *time_left]))


def show(found: Waited, output: Output) -> None:
    """The ledger, the verdict, and what was not as it should be."""
    say = output.console.print
    name = f"[bold]{clean(found.workflow)}[/], run {clean(found.run)}"
    say(f"{name}: {ledger_line(found.ledger)}", soft_wrap=True)
    say(verdict_line(found.verdict), soft_wrap=True)
    if found.wrong:
        output.progress.print(f"[red]failed:[/] {clean('; '.join(found.wrong))}", soft_wrap=True)


def document(found: Waited) -> dict[str, Any]:
    """What came of it, for programs."""
    return {"ok": found.ok, "wrong": found.wrong, **msgspec.to_builtins(found)}
