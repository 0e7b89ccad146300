"""`coordinator status`: what runs where, measured against predicted."""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.attainment import attainment_lines
from coordinator.cli.mesh import add_state_option
from coordinator.cli.output import Output
from coordinator.cli.replicas import ledger_line, replica_table, sinks_line
from coordinator.cli.text import clean, device_label
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet.state import Device, Replan
    from coordinator.mesh import Mesh
    from coordinator.telemetry.status import WorkflowStatus
    from tiermesh.v1 import telemetry_pb2

SAMPLES = 2
SILENT_S = 3.0


def register(commands: Commands) -> None:
    """Add `status`."""
    parser = commands.add(
        "status",
        _status,
        help="Show what runs where, and what is measured against what was predicted",
        examples="  coordinator status\n  coordinator status read-signs --interval 5 --json",
    )
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="only this workflow's name")
    parser.add_argument(
        "--interval",
        type=arguments.seconds,
        default=1.0,
        metavar="S",
        help="measure over so many seconds",
    )
    arguments.add_credentials(parser, "reach beyond this machine")
    add_state_option(parser)


def _status(args: argparse.Namespace, output: Output) -> int:
    found = asyncio.run(_measured(args))
    for status in found:
        _show(status, output)
    if not found:
        output.console.print("nothing runs")
    output.document({"workflows": [msgspec.to_builtins(status) for status in found]})
    return 1 if any(_serves_badly(status) for status in found) else 0


def _serves_badly(status: WorkflowStatus) -> bool:
    return any(device.generation != status.generation for device in status.devices)


async def _measured(args: argparse.Namespace) -> list[WorkflowStatus]:
    from coordinator.mesh import Mesh
    from coordinator.telemetry.status import status_of

    state = args.state or config.state_dir()
    async with Mesh.open(state, read_only=True, credentials=args.credentials) as mesh:
        names = sorted(mesh.fleet.running)
        if args.workflow is not None:
            if args.workflow not in names:
                known = ", ".join(names) or "nothing"
                raise InvalidDocument(f"`{args.workflow}` does not run", fix=f"Running: {known}")
            names = [args.workflow]
        await mesh.discover(browse=False)
        used = {d for name in names for d in mesh.fleet.running[name].devices}
        devices = [mesh.fleet.devices[d] for d in sorted(used)]
        samples, silent = await _sampled(mesh, devices, args.interval)
        return [status_of(name, mesh.fleet, samples, silent, mesh.now()) for name in names]


async def _sampled(
    mesh: Mesh, devices: list[Device], interval_s: float
) -> tuple[dict[str, list[telemetry_pb2.Sample]], dict[str, str]]:
    """Samples of each device that are far enough apart for rates, or why a device gave none."""
    from coordinator.telemetry.status import SHORTEST_S, counted_at

    def is_enough(of: list[telemetry_pb2.Sample]) -> bool:
        return len(of) >= SAMPLES and counted_at(of[-1]) - counted_at(of[0]) >= SHORTEST_S

    samples: dict[str, list[telemetry_pb2.Sample]] = defaultdict(list)
    silent: dict[str, str] = {}
    watching = mesh.watch(devices=devices, interval_s=interval_s)
    try:
        async with asyncio.timeout(SAMPLES * interval_s + SILENT_S):
            async for observed in watching:
                if observed.sample is not None:
                    samples[observed.device.id].append(observed.sample)
                    silent.pop(observed.device.id, None)
                else:
                    silent[observed.device.id] = observed.why
                enough = {d for d, of in samples.items() if is_enough(of)} | silent.keys()
                if len(enough) == len(devices):
                    break
    except TimeoutError:
        missing = {d.id for d in devices} - samples.keys() - silent.keys()
        silent |= dict.fromkeys(missing, "no sample")
    return samples, silent


def _show(status: WorkflowStatus, output: Output) -> None:
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


def _replanned(replan: Replan) -> str:
    """Why it was planned again, and what came of it."""
    ended = f"{replan.outcome}, {replan.text}" if replan.outcome is not None else "under way"
    return clean(f"{replan.reason} ({replan.why}): {ended}")
