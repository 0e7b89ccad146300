"""`coordinator profile`: have the devices measure the variants that they have not measured yet."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.progress import bars, duration
from coordinator.cli.text import clean, megabytes
from coordinator.fleet.profile_text import DISTURBED
from tiermesh import limits
from tiermesh.errors import InvalidDocument, TiermeshError

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Device
    from coordinator.mesh import Mesh
    from coordinator.profiling.profiler import ProfileOptions
    from tiermesh.documents.profile import Profile
    from tiermesh.documents.variant import Variant


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


def _profile(args: argparse.Namespace, output: Output) -> int:
    return run_with_mesh(args, output, lambda mesh: _measure(args, output, mesh))


async def _measure(args: argparse.Namespace, output: Output, mesh: Mesh) -> int:
    devices = [_named(mesh, name) for name in args.on] if args.on else mesh.fleet.ready
    if not devices:
        raise TiermeshError("no device is ready to measure", fix="Run: coordinator devices")
    workflow = await mesh.read_workflow(args.workflow) if args.workflow is not None else None
    variants = await mesh.variants(workflow)
    known, begun = mesh.fleet.profiles, time.monotonic()
    try:
        with bars(output) as report:
            await mesh.profile(
                workflow or variants,
                devices=devices,
                options=_options(args),
                again=args.again,
                report=report,
            )
    except asyncio.CancelledError:
        measured = _new(known, mesh.fleet)
        output.progress.print(
            f"{measured} measurements are kept; the same command goes on with the others"
        )
        raise
    document = _document(mesh.fleet, devices, variants)
    document["measured"] = _new(known, mesh.fleet)
    document["seconds"] = time.monotonic() - begun
    _say(document, output)
    output.document(document)
    return 1 if document["failed"] else 0


def _new(before: Mapping[str, Mapping[str, Profile]], fleet: Fleet) -> int:
    """How many profiles have come, or come anew."""
    return sum(
        profile is not before.get(device_class, {}).get(digest)
        for device_class, of_class in fleet.profiles.items()
        for digest, profile in of_class.items()
    )


def _say(document: dict[str, Any], output: Output) -> None:
    output.console.print(_table(document["profiles"]))
    output.console.print(f"{document['measured']} measurements in {duration(document['seconds'])}")
    for failed in document["failed"]:
        output.progress.print(f"[red]{clean(failed['device'])}[/]: {clean(failed['why'])}")
    for device, shares in _disturbed(document["profiles"]).items():
        output.progress.print(
            f"[yellow]warning:[/] {clean(device)}: measurement disturbed: {max(shares):.0%} of CPU time taken by"
            f" other processes ({len(shares)} variants); on an idle machine, run:"
            f" coordinator profile --again --on {clean(device)}",
            soft_wrap=True,
        )


def _disturbed(profiles: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each device, the shares of CPU time that others took, where that was much."""
    found: dict[str, list[float]] = {}
    for p in profiles:
        if p["disturbed"] is not None and p["disturbed"] > DISTURBED:
            found.setdefault(p["device"], []).append(p["disturbed"])
    return found


def _options(args: argparse.Namespace) -> ProfileOptions:
    from coordinator.profiling.profiler import ProfileOptions

    return ProfileOptions(
        batch_sizes=args.batch_sizes, threads=args.threads, time_limit_s=args.time_limit
    )


def _named(mesh: Mesh, name: str) -> Device:
    device = mesh.fleet.named(name)
    if device is None or device not in mesh.fleet.ready:
        ready = ", ".join(d.name for d in mesh.fleet.ready) or "none"
        raise InvalidDocument(
            f"no device `{name}` is ready",
            why=device.why if device is not None else "it was never seen",
            fix=f"Ready: {ready}",
        )
    return device


def _document(fleet: Fleet, devices: list[Device], variants: list[Variant]) -> dict[str, Any]:
    found = [(d, v, fleet.profile(d, v.digest)) for d in devices for v in variants]
    failures = fleet.profile_failures
    return {
        "profiles": [_plain(d, v, p) for d, v, p in found if p is not None],
        "failed": [
            {
                "device": d.name,
                "model": v.model,
                "variant": v.name,
                "why": failures.get(d.id, {}).get(v.digest, "not measured"),
            }
            for d, v, p in found
            if p is None
        ],
    }


def _plain(device: Device, variant: Variant, profile: Profile) -> dict[str, Any]:
    points = [p for p in profile.points if p.threads == device.description.fingerprint.threads]
    best = max(points, key=lambda p: p.items_per_second, default=None)
    one = next((p for p in points if p.batch_size == 1), None)
    return {
        "device": device.name,
        "model": variant.model,
        "variant": variant.name,
        "cannot_run": profile.cannot_run,
        "measured_on": profile.device,
        "measured_at": profile.measured_at,
        "one_p50_ms": 1_000 * one.seconds.p50 if one else None,
        "one_p95_ms": 1_000 * one.seconds.p95 if one else None,
        "items_per_second": best.items_per_second if best else None,
        "best_batch_size": best.batch_size if best else None,
        "interval": max((p.interval for p in points), default=None),
        "disturbed": profile.disturbed,
        "other_load_cores": profile.other_load_cores,
        "cpu_quota_cores": profile.cpu_quota_cores,
        "took_seconds": profile.took_seconds,
        "peak_memory_bytes": profile.peak_memory_bytes,
        "emulated_slowdown": profile.emulated.slowdown if profile.emulated else None,
    }


def _notes(p: dict[str, Any]) -> Iterator[str]:
    if p["emulated_slowdown"]:
        yield f"emulated x{p['emulated_slowdown']:g}"
    if p["cpu_quota_cores"] is not None:
        yield f"quota of {p['cpu_quota_cores']:g} cores"
    if p["disturbed"] is not None and p["disturbed"] > DISTURBED:
        yield f"disturbed: {p['disturbed']:.0%}"
    if p["cannot_run"]:
        yield f"cannot run: {clean(p['cannot_run'])}"


def _table(profiles: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("device", "variant", "p50", "p95", "±", "items/s", "batch", "memory"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for p in profiles:
        times = [f"{p[k]:.1f} ms" if p[k] is not None else "" for k in ("one_p50_ms", "one_p95_ms")]
        note = "; ".join(_notes(p))
        table.add_row(
            clean(p["device"]),
            clean(f"{p['model']}/{p['variant']}"),
            *times,
            f"{p['interval']:.0%}" if p["interval"] is not None else "",
            f"{p['items_per_second']:.2f}" if p["items_per_second"] else "",
            str(p["best_batch_size"] or ""),
            megabytes(p["peak_memory_bytes"]),
            note,
        )
    return table
