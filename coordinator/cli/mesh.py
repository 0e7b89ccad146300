"""What the commands that speak to devices share: their options, and the mesh that they open."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.output import Output
from coordinator.cli.text import clean
from tiermesh import wire
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from coordinator.mesh import Mesh

T = TypeVar("T")
VARIANTS: Final = Path("variants")


class Standing(Protocol):
    """The coordinator at work that a command is carried out in: it has the mesh open."""

    @property
    def mesh(self) -> Mesh:
        """Its mesh."""
        ...

    def check(self, args: argparse.Namespace) -> None:
        """Refuse options that ask for another mesh than this one.

        Raises:
            TiermeshError: naming the option.
        """
        ...

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work in its event loop, from another thread."""
        ...


STANDING: Final[ContextVar[Standing | None]] = ContextVar("standing", default=None)
"""Set while a command is carried out in a coordinator at work."""


def add_state_option(parser: argparse.ArgumentParser) -> None:
    """`--state`, for the commands that only read the journal, too."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="the coordinator's folder (default: $TIERMESH_HOME/coordinator)",
    )


def add_mesh_options(parser: argparse.ArgumentParser) -> None:
    """The options that `run_with_mesh` reads. A coordinator at work carries such a command out."""
    add_state_option(parser)
    parser.set_defaults(needs_mesh=True)
    group = parser.add_argument_group("finding devices")
    group.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="an agent's address, beside those that announce themselves; may be repeated",
    )
    group.add_argument(
        "--fleet",
        type=Path,
        metavar="FILE",
        help="YAML with addresses, the tiers' order, and links",
    )
    group.add_argument(
        "--mesh",
        type=arguments.name,
        metavar="NAME",
        help=f"the mesh whose announcements to hear (default: {DEFAULT_MESH})",
    )
    group.add_argument("--no-browse", action="store_true", help="do not look for announcements")
    group.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=5.0,
        metavar="S",
        help="seconds to wait for a device (default: %(default)g)",
    )
    group.add_argument(
        "--insecure-lan",
        action="store_true",
        help="reach beyond this machine, unencrypted: only where everyone may control the devices",
    )


def add_variants_option(parser: argparse.ArgumentParser) -> None:
    """`--variants`, for the commands that need models."""
    parser.add_argument(
        "--variants",
        type=Path,
        metavar="DIR",
        help=f"the folder of the ladders (default: {VARIANTS})",
    )


def run_with_mesh(
    args: argparse.Namespace,
    output: Output,
    work: Callable[[Mesh], Awaitable[T]],
    *,
    expect: int | None = None,
) -> T:
    """Open the mesh that the options describe, find its devices, and do the work.

    In a coordinator at work its own mesh is used.
    """

    async def run() -> T:
        async with _opened(args, output, expect) as mesh:
            return await work(mesh)

    standing = STANDING.get()
    if standing is None:
        return asyncio.run(run())
    standing.check(args)
    return standing.run(run)


@contextlib.asynccontextmanager
async def _opened(
    args: argparse.Namespace, output: Output, expect: int | None
) -> AsyncGenerator[Mesh]:
    for address in args.device:
        wire.split_address(address)
    standing = STANDING.get()
    async with contextlib.AsyncExitStack() as stack:
        if standing is None:
            mesh = await stack.enter_async_context(mesh_of(args, output))
        else:
            mesh = standing.mesh
        # A coordinator at work browses all the time.
        browse = standing is None and not args.no_browse
        with output.progress.status("finding devices"):
            await mesh.discover(args.device, expect=expect, browse=browse, timeout_s=args.timeout)
        warn_unreached(mesh, args.device, output)
        yield mesh


@contextlib.asynccontextmanager
async def mesh_of(
    args: argparse.Namespace, output: Output, *, read_only: bool = False
) -> AsyncGenerator[Mesh]:
    """The mesh that the options describe, opened; nothing has been looked for yet.

    With `read_only`, another coordinator may be at work on it meanwhile.
    """
    from coordinator.mesh import Mesh
    from coordinator.workflows.yaml_files import read_fleet_file

    if args.insecure_lan:
        output.progress.print(f"[yellow]{wire.INSECURE_NOTICE}[/]")
    async with Mesh.open(
        args.state or config.state_dir(),
        ladders=await asyncio.to_thread(_ladders, args),
        home=config.home_beside(args.state),
        name=args.mesh or DEFAULT_MESH,
        network=await asyncio.to_thread(read_fleet_file, args.fleet) if args.fleet else None,
        insecure_lan=args.insecure_lan,
        read_only=read_only,
    ) as mesh:
        yield mesh


def _ladders(args: argparse.Namespace):  # noqa: ANN202 - imported only where it is needed
    if not hasattr(args, "variants"):
        return None
    from coordinator.variants import Ladders

    return Ladders.open(args.variants or VARIANTS, config.home_beside(args.state))


def warn_unreached(mesh: Mesh, named: list[str], output: Output) -> None:
    """Say which of the named addresses and known devices do not answer, and why."""
    for key, way in mesh.fleet.sightings.items():
        if way.failures and (way.device is not None or key in named):
            device = mesh.fleet.devices.get(way.device or "")
            who = device.name if device is not None else key
            output.progress.print(
                f"[yellow]{clean(who)} does not answer:[/] {clean('; '.join(way.failures))}"
            )
