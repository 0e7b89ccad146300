"""`coordinator rollout cancel|hold|resume`: steer a rollout that is under way."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from coordinator.cli import Commands
from coordinator.cli.mesh import add_mesh_options, run_with_mesh
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient

_DONE: Final = {"cancel": "is cancelled", "hold": "is held", "resume": "goes on"}


def register(commands: Commands) -> None:
    """Add `rollout` and its actions."""
    parser = commands.add(
        "rollout",
        _no_action,
        help="Cancel, hold or resume a rollout that is under way",
        examples="  coordinator rollout hold read-signs\n  coordinator rollout cancel read-signs",
    )
    actions = Commands(parser)
    for action, text in (
        ("cancel", "undo it: what ran before runs on"),
        ("hold", "let no device begin another step"),
        ("resume", "let a rollout that is held go on"),
    ):
        added = actions.add(
            action, _steer, help=text, examples=f"  coordinator rollout {action} read-signs"
        )
        added.add_argument("workflow", metavar="WORKFLOW", help="its name")
        added.set_defaults(action=action)
        add_mesh_options(added)


def _no_action(args: argparse.Namespace, output: CommandOutput) -> int:
    del args, output
    raise AssertionError("the parser requires an action")


def _steer(args: argparse.Namespace, output: CommandOutput) -> int:
    async def work(client: CoordinatorClient) -> None:
        if args.action == "cancel":
            await client.cancel_rollout(args.workflow)
        else:
            await client.hold_rollout(args.workflow, hold=args.action == "hold")

    run_with_mesh(args, output, work)
    output.console.print(f"the rollout of {clean(args.workflow)} {_DONE[args.action]}")
    output.document({"workflow": args.workflow, "action": args.action})
    return 0
