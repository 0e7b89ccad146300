"""`coordinator devices`: who is there, and why others are not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.table import Table

from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, run_reading, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean, device_label
from coordinator.fleet.profile_text import DISTURBED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import DeviceDocument, Devices
    from coordinator.cli import Commands

NOBODY = "no devices; start one (agent run), name its --mesh, or give its address with --device"
_STYLES = {"ready": "green", "suspect": "yellow", "failed": "red", "left": "dim"}


def register(commands: Commands) -> None:
    """Add `devices`."""
    parser = commands.add(
        "devices",
        _devices,
        help="Find the devices and show what they are; say why others do not answer",
        examples=(
            "  coordinator devices\n"
            "  coordinator devices --expect 4 --timeout 20\n"
            "  coordinator devices --device 127.0.0.1:7070 --json\n"
            "  coordinator devices --forget cam-2"
        ),
    )
    add_mesh_options(parser)
    parser.add_argument(
        "--expect", type=arguments.count, metavar="N", help="wait for N devices; fail without"
    )
    parser.add_argument("--offline", action="store_true", help="only what the journal knows")
    parser.add_argument("--forget", action="append", default=[], metavar="NAME", help="take it out")


def _devices(args: argparse.Namespace, output: CommandOutput) -> int:
    if args.offline:
        found = run_reading(args, lambda client: client.devices())
    else:
        found = run_with_mesh(args, output, lambda c: _found(args, c), expect=args.expect)
    shown = [d for d in found.devices if d.state != "left"]
    output.console.print(_table(shown) if shown else NOBODY)
    for device in shown:
        if device.why:
            output.console.print(f"{clean(device.name)} is {device.state}: {clean(device.why)}")
        if device.disturbed is not None and device.disturbed > DISTURBED:
            output.console.print(
                f"{clean(device.name)}: measurement disturbed: {device.disturbed:.0%} of CPU time"
                " taken by other processes",
                soft_wrap=True,
            )
    output.document(found)
    return _exit_code(args, found, output)


def _exit_code(args: argparse.Namespace, found: Devices, output: CommandOutput) -> int:
    ready = sum(device.state == "ready" for device in found.devices)
    lacking = args.expect is not None and ready < args.expect
    if lacking:
        output.progress.print(f"{ready} of the {args.expect} devices expected are ready")
    silent = {one.address for one in found.unreachable} & set(args.device)
    return 1 if (lacking or silent) and not args.offline else 0


async def _found(args: argparse.Namespace, client: CoordinatorClient) -> Devices:
    for name in args.forget:
        await client.forget_device(name)
    return await client.devices(with_samples=args.json)


def _table(devices: Sequence[DeviceDocument]) -> Table:
    """A row for each device; it fits into 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("device", "state", "tier", ">USD/h", ">threads", ">memory", "address", "runs"):
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=True)
    for device in devices:
        style = _STYLES.get(device.state, "")
        state = f"[{style}]{device.state}[/]" if style else device.state
        table.add_row(
            device_label(device.name, device.emulated_slowdown),
            state,
            clean(device.tier),
            f"{device.price_per_hour:g}",
            str(device.threads),
            f"{device.memory_bytes / 1e9:.0f} GB",
            clean(device.address),
            clean(", ".join(device.usable_runtimes) or "none"),
        )
    return table
