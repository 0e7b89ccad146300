"""`coordinator drain`: take the work off a device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from coordinator.cli.devices import known_device
from coordinator.cli.mesh import add_mesh_options, add_variants_option, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.plans import show_difference
from coordinator.cli.progress import bars
from coordinator.cli.rollout import document, show
from coordinator.cli.text import clean
from coordinator.cli.workflows import add_workflow_options
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet.state import Device
    from coordinator.keeping.draining import Draining
    from coordinator.mesh import Mesh


def register(commands: Commands) -> None:
    """Add `drain`."""
    parser = commands.add(
        "drain",
        _drain,
        help="Take the work off a device: roll out plans without it, and leave it out of new ones",
        examples=(
            "  coordinator drain cam-2\n"
            "  coordinator drain cam-2 --dry-run        # what would move where\n"
            "  coordinator drain cam-2 --undo           # plan for it again\n"
            "exit code 3: a workflow cannot be served without it, and nothing was changed;\n"
            "exit code 4: a device failed, what ran before runs (again), and the device is not drained"
        ),
    )
    # `--device` is an address, as for the other commands.
    parser.add_argument("drained", metavar="DEVICE", help="its name or id")
    parser.add_argument("--undo", action="store_true", help="plan for it again from now on")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    add_workflow_options(parser)
    add_variants_option(parser)
    add_mesh_options(parser)


def _drain(args: argparse.Namespace, output: Output) -> int:
    return run_with_mesh(args, output, lambda mesh: _work(args, output, mesh))


async def _work(args: argparse.Namespace, output: Output, mesh: Mesh) -> int:
    from coordinator.keeping.draining import Draining

    device = known_device(mesh.fleet, args.drained)
    if args.undo:
        return await _undo(device, output, mesh)
    if device.state == "left":
        raise InvalidDocument(f"{device.name} has been taken out", fix="See: coordinator devices")
    with output.progress.status("planning without it"):
        draining = await Draining.of(mesh, device, source_bytes=dict(args.source_bytes))
    return await _carry_out(draining, args, output)


async def _undo(device: Device, output: Output, mesh: Mesh) -> int:
    from coordinator.keeping.draining import undo

    if device.state != "draining":
        raise InvalidDocument(
            f"{device.name} is not draining",
            why=f"it is {device.state}",
            fix="See: coordinator devices",
        )
    await undo(mesh, device)
    output.console.print(f"{clean(device.name)} is planned for again, from the next plan on")
    output.document({"device": device.name, "undone": True})
    return 0


async def _carry_out(draining: Draining, args: argparse.Namespace, output: Output) -> int:
    from coordinator.planning.diff import difference

    name = clean(draining.device.name)
    differences = {m.workflow.workflow: difference(m.before, m.after) for m in draining.moves}
    for workflow, found in differences.items():
        output.console.print(f"[bold]{clean(workflow)}[/]")
        show_difference(found, output)
    told: dict[str, Any] = {
        "device": draining.device.name,
        "dry_run": args.dry_run,
        "changes": differences,
    }
    if args.dry_run:
        if not differences:
            output.console.print(f"nothing runs on {name}; it would be left out of new plans")
        output.document(told)
        return 0
    with bars(output) as report:
        applied = await draining.carry_out(report=report)
    for one in applied:
        show(one, output)
    code = applied[-1].exit_code if applied else 0
    output.console.print(
        f"{name} serves nothing, and is left out of new plans until: coordinator drain {name} --undo"
        if code == 0
        else f"[yellow]{name} is not drained: it is planned for again[/]",
        soft_wrap=True,
    )
    output.document({**told, "drained": code == 0, "rollouts": [document(one) for one in applied]})
    return code
