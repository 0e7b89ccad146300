"""`coordinator demo`: a whole mesh on this machine, on real models, from nothing to results."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.demo.agents import BUSIEST
from coordinator.cli.output import CommandOutput

if TYPE_CHECKING:
    from coordinator.cli import Commands


def register(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "demo",
        _demo,
        help="Run a whole mesh on this machine, on real models",
        examples=(
            "  coordinator demo\n"
            "  coordinator demo --images 300 --kill-worker any     # survives a kill -9 in mid-run\n"
            "  coordinator demo --hold                             # keep the mesh to play with\n"
            "  coordinator demo --json > demo.json"
        ),
    )
    add = parser.add_argument
    add("--images", type=int, default=120, metavar="N", help="photos to read (default: 120)")
    add("--seed", type=int, default=7, help="of the rendered photos (default: 7)")
    add("--variants", type=Path, default=Path("variants"), metavar="DIR", help="the ladders")
    add(
        "--state",
        type=Path,
        metavar="DIR",
        help="state folder; profiles in it are reused by the next demo (default: $TIERMESH_HOME/demo)",
    )
    add(
        "--kill-worker",
        metavar="DEVICE",
        help=f"kill -9 the worker of this device in mid-run; {BUSIEST}: of the busiest",
    )
    add("--hold", action="store_true", help="keep the mesh running at the end, until Ctrl-C")
    add("--picture", type=Path, metavar="FILE.svg", help="save what was shown as a picture")


def _demo(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator import config
    from coordinator.cli.demo.run import Demo, DemoOptions

    options = DemoOptions(
        home=config.home_beside(args.state),
        folder=args.state or config.home() / "demo",
        variants=args.variants,
        images=args.images,
        seed=args.seed,
        kill_worker=args.kill_worker,
        hold=args.hold,
        picture=args.picture,
    )
    return asyncio.run(Demo(options, output).run())
