"""`coordinator profile`: have the devices measure the variants that they have not measured yet."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import bars, duration
from coordinator.cli.text import clean, megabytes
from coordinator.fleet.profile_text import DISTURBED
from tiermesh import limits

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import Measurement, MeasurementReport
    from coordinator.cli import Commands
    from coordinator.progress import Progress


def register(commands: Commands) -> None:
    """Add `profile`."""
    parser = commands.add(
        "profile",
        _profile,
        help="Measure variants on the devices, where that has not been done",
        examples=(
            "  coordinator profile read-signs.yaml\n"
            "  coordinator profile --on hub-1 --on server --again\n"
            "  coordinator profile read-signs.yaml --batch-sizes 1,4 --time-limit 10 --json"
        ),
    )
    parser.add_argument(
        "workflow",
        nargs="?",
        type=Path,
        metavar="WORKFLOW",
        help="only the models of this workflow",
    )
    parser.add_argument("--on", action="append", metavar="DEVICE", help="only on this device")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--batch-sizes", type=_numbers, default=(1, 2, 4, 8), metavar="N,N")
    parser.add_argument("--threads", type=_numbers, default=(), metavar="N,N")
    parser.add_argument(
        "--time-limit",
        type=arguments.seconds,
        default=20.0,
        metavar="S",
        help="for one variant on one device (default: %(default)g)",
    )
    add_variants_option(parser)
    add_mesh_options(parser)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < n <= limits.BATCH_SIZE for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,2,4")
    return numbers


def _profile(args: argparse.Namespace, output: CommandOutput) -> int:
    found = run_with_mesh(args, output, lambda client: _measure(args, output, client))
    _say(found, output)
    output.document(found)
    return 1 if found.failed else 0


async def _measure(
    args: argparse.Namespace, output: CommandOutput, client: CoordinatorClient
) -> MeasurementReport:
    path: Path | None = args.workflow
    workflow = (await client.add_workflow_file(path)).digest if path is not None else ""
    ended = 0
    try:
        with bars(output) as show:

            def report(step: Progress) -> None:
                nonlocal ended
                ended = max(ended, step.tally.done if step.tally is not None else 0)
                show(step)

            return await client.measure(
                workflow,
                devices=args.on or (),
                again=args.again,
                batch_sizes=args.batch_sizes,
                threads=args.threads,
                time_limit_s=args.time_limit,
                report=report,
            )
    except asyncio.CancelledError:
        output.progress.print(f"{ended} profiles are saved; run the same command again to continue")
        raise


def _say(found: MeasurementReport, output: CommandOutput) -> None:
    output.console.print(_table(found.profiles))
    output.console.print(f"{found.measured} measurements in {duration(found.seconds)}")
    for failed in found.failed:
        output.progress.print(f"[red]{clean(failed.device)}[/]: {clean(failed.why)}")
    for device, shares in _disturbed(found.profiles).items():
        output.progress.print(
            f"[yellow]warning:[/] {clean(device)}: measurement disturbed: {max(shares):.0%} of CPU time taken by"
            f" other processes ({len(shares)} variants); on an idle machine, run:"
            f" coordinator profile --again --on {clean(device)}",
            soft_wrap=True,
        )


def _disturbed(profiles: Sequence[Measurement]) -> dict[str, list[float]]:
    """Of each device, the shares of CPU time that others took, where that was much."""
    found: dict[str, list[float]] = {}
    for p in profiles:
        if p.disturbed is not None and p.disturbed > DISTURBED:
            found.setdefault(p.device, []).append(p.disturbed)
    return found


def _notes(p: Measurement) -> Iterator[str]:
    if p.emulated_slowdown:
        yield f"emulated x{p.emulated_slowdown:g}"
    if p.cpu_quota_cores is not None:
        yield f"quota of {p.cpu_quota_cores:g} cores"
    if p.disturbed is not None and p.disturbed > DISTURBED:
        yield f"disturbed: {p.disturbed:.0%}"
    if p.cannot_run:
        yield f"cannot run: {clean(p.cannot_run)}"


def _table(profiles: Sequence[Measurement]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("device", "variant", "p50", "p95", "±", "items/s", "batch", "memory"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for p in profiles:
        times = [f"{ms:.1f} ms" if ms is not None else "" for ms in (p.one_p50_ms, p.one_p95_ms)]
        table.add_row(
            clean(p.device),
            clean(f"{p.model}/{p.variant}"),
            *times,
            f"{p.interval:.0%}" if p.interval is not None else "",
            f"{p.items_per_second:.2f}" if p.items_per_second else "",
            str(p.best_batch_size or ""),
            megabytes(p.peak_memory_bytes),
            "; ".join(_notes(p)),
        )
    return table
