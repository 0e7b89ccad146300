"""`coordinator run`: a coordinator that stays: it watches the devices, keeps workflows served, and takes commands."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator.api.opening import opened
from coordinator.cli.events import line
from coordinator.cli.mesh import (
    add_mesh_options,
    add_variants_option,
    options_of,
    warn_credentials,
    warn_unanswered,
)
from coordinator.cli.output import CommandOutput
from coordinator.cli.rollout import show
from coordinator.cli.text import clean
from coordinator.keeping import Keeping
from tiermesh.errors import TiermeshError
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.api.service import CoordinatorService
    from coordinator.cli import Commands
    from coordinator.mesh import Mesh
    from tiermesh.documents.workflow import Workflow

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def register(commands: Commands) -> None:
    """Add `run`."""
    parser = commands.add(
        "run",
        _run,
        help="Run the coordinator as a service: watch devices, keep workflows served, replan when needed",
        examples=(
            "  coordinator run\n"
            "  coordinator run read-signs.yaml\n"
            "  coordinator run read-signs.yaml --no-auto-replan\n"
            "  coordinator run --json                     # one JSON document a line for what happens\n"
            "Commands with the same --state are carried out by it meanwhile. Ctrl-C ends it; serving goes on.\n"
            "Started again after a crash, it finishes or undoes the rollout that was under way."
        ),
        json_help="print what happens as JSON, one document a line, on standard output",
    )
    parser.add_argument(
        "workflows",
        nargs="*",
        type=Path,
        metavar="WORKFLOW",
        help="workflow files to keep served, in addition to those that run already",
    )
    parser.add_argument(
        "--no-auto-replan",
        action="store_true",
        help="only report reasons to replan; never roll out a plan by itself",
    )
    add_variants_option(parser)
    add_mesh_options(parser)


def _run(args: argparse.Namespace, output: CommandOutput) -> int:
    return asyncio.run(_stay(args, output))


async def _stay(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.api.server import serving

    warn_credentials(args, output)
    options = options_of(args)
    async with opened(options) as service:
        mesh = service.mesh
        newest = await mesh.history(limit=1)
        telling = _Telling(mesh, output, newest[-1].number if newest else 0)
        async with telling.while_open(), serving(options.state, service):
            async with _until_told_to_end():
                output.progress.print(
                    f"the coordinator of the mesh {clean(mesh.name)} is at work (pid {os.getpid()});"
                    " Ctrl-C ends it, and serving goes on",
                    soft_wrap=True,
                )
                await _work(args, output, service)
            await mesh.note("coordinator stopped by a signal")
    output.progress.print("coordinator stopped; devices keep serving")
    return 0


@contextlib.asynccontextmanager
async def _until_told_to_end() -> AsyncGenerator[None]:
    """SIGINT and SIGTERM cancel what is done in this context, and end it in peace."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine always runs in one
    told: list[signal.Signals] = []

    def end(which: signal.Signals) -> None:
        told.append(which)
        task.cancel()

    for which in _ENDING:
        loop.add_signal_handler(which, end, which)
    try:
        yield
    except asyncio.CancelledError:
        if not told:
            raise
        for _ in told:
            task.uncancel()
    finally:
        for which in _ENDING:
            loop.remove_signal_handler(which)


async def _work(
    args: argparse.Namespace, output: CommandOutput, service: CoordinatorService
) -> None:
    from coordinator.api.documents import RolloutReport

    mesh = service.mesh
    await mesh.note("coordinator started")
    given = [await mesh.read_workflow(path) for path in args.workflows]
    looking = pb.DiscoverRequest(
        addresses=args.device, browse=not args.no_browse, timeout_s=args.timeout
    )
    warn_unanswered((await service.discover(looking)).unanswered, output)
    for applied in await mesh.settle():
        show(RolloutReport.of(applied), output)
    keeping = Keeping(mesh, _kept(mesh, given), auto_replan=not args.no_auto_replan)
    service.keeping = keeping
    try:
        async with asyncio.TaskGroup() as together:
            together.create_task(mesh.look_out(browse=not args.no_browse, timeout_s=args.timeout))
            together.create_task(keeping.run())
    except* TiermeshError as failed:
        raise failed.exceptions[0] from None


def _kept(mesh: Mesh, given: list[Workflow]) -> list[Workflow]:
    """The workflows that were named, and those that run already."""
    from coordinator.workflows.yaml_files import parse_workflow

    kept = {workflow.workflow: workflow for workflow in given}
    for name, running in mesh.fleet.running.items():
        source = mesh.fleet.workflows[running.workflow_digest]
        kept.setdefault(name, parse_workflow(source.text))
    return list(kept.values())


class _Telling:
    """Prints what is recorded, from an event of the journal on."""

    def __init__(self, mesh: Mesh, output: CommandOutput, after: int) -> None:
        self._mesh = mesh
        self._output = output
        self._after = after

    @contextlib.asynccontextmanager
    async def while_open(self) -> AsyncGenerator[None]:
        """Print it as it comes, and at the end what is left."""
        task = asyncio.ensure_future(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            await self._tell()

    async def _go_on(self) -> None:
        while True:
            change = self._mesh.change
            await self._tell()
            await change.wait()

    async def _tell(self) -> None:
        from coordinator.api.handlers.devices import event_document

        fleet = self._mesh.fleet
        for entry in await self._mesh.history(after=self._after):
            self._after = entry.number
            event = event_document(entry, fleet)
            self._output.document_line(event)
            self._output.console.print(line(event), soft_wrap=True)
