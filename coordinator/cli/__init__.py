"""The `coordinator` command. Each module of this package adds its commands to the parser.

Exit codes: 0 done, 1 failed, 2 misused, 3 infeasible, 4 partly applied and rolled back. To `wait` and `apply --wait`,
failed is also a run in which a request failed or the SLO was missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from coordinator.cli.output import CommandOutput
from coordinator.cli.tui import with_default
from tiermesh import __version__, logs
from tiermesh.errors import TiermeshError

COMMAND_MODULES: Final = (
    "coordinator.cli.tui",
    "coordinator.cli.demo",
    "coordinator.cli.devices",
    "coordinator.cli.profile",
    "coordinator.cli.profiles",
    "coordinator.cli.planning",
    "coordinator.cli.plans",
    "coordinator.cli.rollout",
    "coordinator.cli.rollback",
    "coordinator.cli.steer",
    "coordinator.cli.drain",
    "coordinator.cli.run",
    "coordinator.cli.status",
    "coordinator.cli.waiting",
    "coordinator.cli.artifacts",
    "coordinator.cli.events",
    "coordinator.cli.settings",
    "coordinator.cli.known_workflows",
    "coordinator.cli.variants",
    "coordinator.cli.batching",
)


EXAMPLES: Final = """\
examples:
  coordinator demo                             a whole mesh on this machine
  coordinator                                  watch and steer the mesh in this terminal
  coordinator plan workflow.yaml -o plan.json  and then:  coordinator apply plan.json --wait
  coordinator run workflow.yaml                keep it served, whatever fails
coordinator COMMAND --help has more."""


class CommandModule(Protocol):
    """A module with commands: `register` adds a subparser each and sets `run=` to its function."""

    def register(self, commands: Commands) -> None:
        """Add the module's commands."""
        ...


class Commands:
    """Adds commands to the parser, each with `--json` and the examples in its help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace, CommandOutput], int],
        *,
        help: str,  # noqa: A002 - argparse's own word
        examples: str,
        json_help: str = "print one JSON document on standard output",
    ) -> argparse.ArgumentParser:
        """Add a command; `run(args, output)` returns the exit code."""
        parser = self._subparsers.add_parser(
            name,
            help=help,
            description=help,
            epilog="examples:\n" + examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--json", action="store_true", help=json_help)
        logs.add_arguments(parser)
        parser.set_defaults(run=run)
        return parser


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="coordinator",
        description="Plan, roll out and watch machine-learning workflows on a mesh of devices.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tiermesh {__version__}")
    commands = Commands(parser)
    for name in COMMAND_MODULES:
        cast(CommandModule, importlib.import_module(name)).register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = completed(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    logs.configure(args.log_level, args.log_format, default="warning")
    return finish(args, CommandOutput(json=args.json))


def completed(argv: Sequence[str]) -> list[str]:
    """The words of a command line with what may be left out: the interface's command, and `list` of `profiles`."""
    words = with_default(argv)
    actions = ("list", "export", "import", "-h", "--help")
    if words and words[0] == "profiles" and (len(words) == 1 or words[1] not in actions):
        return ["profiles", "list", *words[1:]]
    return list(words)


def finish(args: argparse.Namespace, output: CommandOutput) -> int:
    """Carry a parsed command out; returns the exit code."""
    try:
        return args.run(args, output)
    except TiermeshError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        output.progress.print("interrupted")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
