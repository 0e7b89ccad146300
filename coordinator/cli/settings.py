"""`coordinator settings`: show and change the settings of the running coordinator."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import add_state_option, run_reading
from coordinator.cli.output import CommandOutput

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.cli import Commands
    from tiermesh.v1 import coordinator_pb2 as pb


def register(commands: Commands) -> None:
    """Add `settings`."""
    parser = commands.add(
        "settings",
        _settings,
        help="Show or change the settings of the running coordinator",
        examples="  coordinator settings\n  coordinator settings --auto-replan off",
    )
    parser.add_argument(
        "--auto-replan",
        choices=["on", "off"],
        help="whether plans are rolled out unasked when there is a reason to replan",
    )
    add_state_option(parser)


def _settings(args: argparse.Namespace, output: CommandOutput) -> int:
    async def work(client: CoordinatorClient) -> pb.Settings:
        if args.auto_replan is not None:
            return await client.set_auto_replan(on=args.auto_replan == "on")
        return await client.settings()

    found = run_reading(args, work)
    told = {"auto_replan": found.auto_replan if found.HasField("auto_replan") else None}
    words = {True: "on", False: "off", None: "no coordinator is running"}
    output.console.print(f"automatic replanning: {words[told['auto_replan']]}")
    output.document(told)
    return 0
