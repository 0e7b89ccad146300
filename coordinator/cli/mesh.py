"""What the commands that speak to a coordinator share: their options, and the client that they use."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from coordinator import config
from coordinator.api.opening import MeshOptions
from coordinator.cli import arguments
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean
from tiermesh import wire
from tiermesh.errors import Unsupported
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from tiermesh.v1 import coordinator_pb2 as pb

T = TypeVar("T")
VARIANTS: Final = Path("variants")


def add_state_option(parser: argparse.ArgumentParser) -> None:
    """`--state`, for the commands that only read the journal, too."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="the coordinator's folder (default: $TIERMESH_HOME/coordinator)",
    )


def add_mesh_options(parser: argparse.ArgumentParser) -> None:
    """The options that `run_with_mesh` reads."""
    add_state_option(parser)
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
    arguments.add_credentials(
        group,
        "reach beyond this machine, unencrypted: only where everyone may control the devices",
    )


def add_variants_option(parser: argparse.ArgumentParser) -> None:
    """`--variants`, for the commands that need models."""
    parser.add_argument(
        "--variants",
        type=Path,
        metavar="DIR",
        help=f"the folder of the ladders (default: {VARIANTS})",
    )


def options_of(args: argparse.Namespace, *, read_only: bool = False) -> MeshOptions:
    """The mesh that the options of a command describe."""
    return MeshOptions(
        state=args.state or config.state_dir(),
        home=config.home_beside(args.state),
        variants=(args.variants or VARIANTS) if hasattr(args, "variants") else None,
        fleet=getattr(args, "fleet", None),
        name=getattr(args, "mesh", None) or DEFAULT_MESH,
        credentials=getattr(args, "credentials", wire.LOOPBACK),
        read_only=read_only,
    )


def run_reading(args: argparse.Namespace, work: Callable[[CoordinatorClient], Awaitable[T]]) -> T:
    """Do some work that changes nothing: by the running coordinator, else on its journal."""

    async def run() -> T:
        from coordinator.api.client import CoordinatorClient

        async with CoordinatorClient.open(options_of(args, read_only=True)) as client:
            return await work(client)

    return asyncio.run(run())


def run_changing(args: argparse.Namespace, work: Callable[[CoordinatorClient], Awaitable[T]]) -> T:
    """Do some work that changes what the coordinator knows and needs no device."""

    async def run() -> T:
        from coordinator.api.client import CoordinatorClient

        async with CoordinatorClient.open(options_of(args)) as client:
            if client.is_running:
                await asyncio.to_thread(check_options, args, client.info)
            return await work(client)

    return asyncio.run(run())


def run_with_mesh(
    args: argparse.Namespace,
    output: CommandOutput,
    work: Callable[[CoordinatorClient], Awaitable[T]],
    *,
    expect: int | None = None,
) -> T:
    """Find the devices of the mesh that the options describe, and do some work.

    A running coordinator does it; where none runs, this process is the coordinator meanwhile.
    """
    for address in args.device:
        wire.split_address(address)

    async def find_and_work(client: CoordinatorClient) -> T:
        if not client.is_running:
            warn_credentials(args, output)
        with output.progress.status("finding devices"):
            found = await client.discover(
                args.device,
                expect=expect,
                browse=not args.no_browse,
                timeout_s=args.timeout,
            )
        warn_unanswered(found.unanswered, output)
        return await work(client)

    return run_changing(args, find_and_work)


def check_options(args: argparse.Namespace, info: pb.CoordinatorInfo) -> None:
    """Refuse options that ask for another mesh than that of the running coordinator.

    Raises:
        Unsupported: naming the option.
    """
    variants: Path | None = getattr(args, "variants", None)
    others = {
        "--mesh": args.mesh not in (None, info.mesh),
        "--insecure-lan": args.credentials != wire.LOOPBACK
        and args.credentials.__struct_config__.tag != info.credentials,
        "--fleet": args.fleet is not None,
        "--variants": variants is not None and str(variants.resolve()) != info.variants,
    }
    for option, other in others.items():
        if other:
            raise Unsupported(
                f"{option} cannot be given while a coordinator is running",
                why="the command is carried out there, with the options that it was started with",
                fix=f"Leave {option} out, or start that coordinator again with it",
            )


def warn_credentials(args: argparse.Namespace, output: CommandOutput) -> None:
    """Say what a person should know who uses these credentials."""
    if args.credentials.warning:
        output.progress.print(f"[yellow]{args.credentials.warning}[/]")


def warn_unanswered(unanswered: Iterable[pb.Unanswered], output: CommandOutput) -> None:
    """Say which of the named addresses and known devices do not answer, and why."""
    for one in unanswered:
        output.progress.print(
            f"[yellow]{clean(one.name or one.address)} does not answer:[/]"
            f" {clean('; '.join(one.failures))}"
        )
