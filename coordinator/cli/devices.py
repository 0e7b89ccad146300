"""`coordinator devices`: who is there, and why others are not."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.table import Table

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.mesh import add_mesh_options, run_with_mesh
from coordinator.cli.output import Output
from coordinator.cli.text import clean, device_label
from coordinator.fleet.profile_text import DISTURBED, disturbed_share
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Device
    from coordinator.mesh import Mesh
    from tiermesh.v1 import telemetry_pb2

Samples: TypeAlias = "Mapping[str, telemetry_pb2.Sample]"
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
    parser.set_defaults(needs_mesh=_asks_devices)
    parser.add_argument(
        "--expect", type=arguments.count, metavar="N", help="wait for N devices; fail without"
    )
    parser.add_argument("--offline", action="store_true", help="only what the journal knows")
    parser.add_argument("--forget", action="append", default=[], metavar="NAME", help="take it out")


def _asks_devices(args: argparse.Namespace) -> bool:
    return not args.offline


def _devices(args: argparse.Namespace, output: Output) -> int:
    samples: Samples = {}
    if args.offline:
        fleet = _known(args.state or config.state_dir())
    else:
        fleet, samples = run_with_mesh(args, output, lambda m: _found(args, m), expect=args.expect)
    shown = [d for d in fleet.devices.values() if d.state != "left"]
    output.console.print(_table(shown) if shown else NOBODY)
    for device in shown:
        if device.why:
            output.console.print(f"{clean(device.name)} is {device.state}: {clean(device.why)}")
        taken = disturbed_share(fleet, device)
        if taken is not None and taken > DISTURBED:
            output.console.print(
                f"{clean(device.name)}: measurement disturbed: {taken:.0%} of CPU time taken by other processes",
                soft_wrap=True,
            )
    output.document(document(fleet, samples))
    lacking = args.expect is not None and len(fleet.ready) < args.expect
    if lacking:
        output.progress.print(f"{len(fleet.ready)} of the {args.expect} devices expected are ready")
    silent = [a for a in args.device if fleet.sightings.get(a) and fleet.sightings[a].failures]
    return 1 if (lacking or silent) and not args.offline else 0


def _known(state: Path) -> Fleet:
    from coordinator.journal.store import Journal

    journal = Journal.read_only(state)
    try:
        return journal.load()
    finally:
        journal.close()


async def _found(args: argparse.Namespace, mesh: Mesh) -> tuple[Fleet, Samples]:
    for name in args.forget:
        await mesh.forget(known_device(mesh.fleet, name))
    return mesh.fleet, await mesh.look() if args.json else {}


def known_device(fleet: Fleet, name: str) -> Device:
    """The device of that name or id, whatever its state.

    Raises:
        InvalidDocument: there is none.
    """
    device = fleet.named(name)
    if device is None:
        known = ", ".join(sorted(d.name for d in fleet.devices.values())) or "none"
        raise InvalidDocument(f"there is no device `{name}`", fix=f"Known: {known}")
    return device


def document(fleet: Fleet, samples: Samples) -> dict[str, Any]:
    """The answer for programs. `samples` are those of the devices that gave one, by id."""
    devices = sorted(fleet.devices.values(), key=lambda device: device.name)
    return {
        "devices": [
            {**_plain(d, samples.get(d.id)), "disturbed": disturbed_share(fleet, d)}
            for d in devices
        ],
        "unreachable": [
            {"address": key, "via": way.via, "addresses": way.addresses, "failures": way.failures}
            for key, way in fleet.sightings.items()
            if way.failures
        ],
    }


def _plain(device: Device, sample: telemetry_pb2.Sample | None) -> dict[str, Any]:
    from coordinator.telemetry.status import battery_of

    said, print_ = device.description, device.description.fingerprint
    return {
        "name": device.name,
        "id": device.id,
        "state": device.state.value,
        "why": device.why,
        "address": device.address,
        "data_address": said.data_address,
        "tier": said.tier,
        "price_per_hour": said.price_per_hour,
        "usable_share": said.usable_share,
        "host": print_.host,
        "device_class": device.device_class,
        "threads": print_.threads,
        "cpu_quota_cores": print_.cpu_quota_cores,
        "cpu": print_.cpu.model,
        "memory_bytes": print_.memory_bytes,
        "runtimes": {r.name: r.unavailable or r.version or "built in" for r in print_.runtimes},
        "emulated_slowdown": print_.emulated.slowdown if print_.emulated else None,
        "agent_version": said.agent_version,
        "generations": said.generations,
        "seen_at": device.seen_at,
        "power": print_.power,
        "battery": battery_of(sample) if sample is not None else None,
    }


def _table(devices: list[Device]) -> Table:
    """A row for each device; it fits into 80 columns."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("device", "state", "tier", ">USD/h", ">threads", ">memory", "address", "runs"):
        number = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if number else "left", no_wrap=True)
    for device in sorted(devices, key=lambda device: device.name):
        said, print_ = device.description, device.description.fingerprint
        style = _STYLES.get(device.state.value, "")
        state = f"[{style}]{device.state}[/]" if style else device.state.value
        # Those that come with the agent, without a version, are on every device.
        usable = [r.name for r in print_.runtimes if r.version and r.unavailable is None]
        table.add_row(
            device_label(device.name, print_.emulated.slowdown if print_.emulated else None),
            state,
            clean(said.tier),
            f"{said.price_per_hour:g}",
            str(print_.threads),
            f"{print_.memory_bytes / 1e9:.0f} GB",
            clean(device.address),
            clean(", ".join(usable) or "none"),
        )
    return table
