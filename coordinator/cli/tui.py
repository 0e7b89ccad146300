"""`coordinator` without a command: the terminal interface, on the live mesh, on a demo's, or in a browser."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coordinator import config
from coordinator.cli import arguments
from coordinator.cli.mesh import (
    VARIANTS,
    add_mesh_options,
    add_variants_option,
    check_options,
    options_of,
    warn_credentials,
)
from coordinator.cli.output import CommandOutput
from tiermesh import logs, wire
from tiermesh.errors import InvalidDocument, TiermeshError, Unsupported
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.tui.live import LiveSession, OpenMesh

NAME: Final = "tui"
PORT: Final = 8000
LOOK_S: Final = 0.5
"""How often it is looked whether a coordinator runs again."""


def register(commands: Commands) -> None:
    """Add `tui`, which is also what `coordinator` does without a command."""
    parser = commands.add(
        NAME,
        _tui,
        help="Show the mesh live: devices, what runs where, plans, rollouts (also without a command)",
        examples=(
            "  coordinator\n"
            "  coordinator --demo               # on a whole mesh on this machine, on real models\n"
            "  coordinator --serve              # in a browser, on this machine only\n"
            "  coordinator --mesh lab --fleet fleet.yaml\n"
            "keys: 1-6 screens, ? help, ctrl+p command palette, q quit; devices keep serving"
        ),
    )
    parser.add_argument(
        "--demo", action="store_true", help="start a demo mesh; it ends with the interface"
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        type=arguments.count,
        const=PORT,
        metavar="PORT",
        help=f"show it in a browser, on this machine only (port {PORT})",
    )
    parser.add_argument("--light", action="store_true", help="begin with the light theme")
    add_variants_option(parser)
    add_mesh_options(parser)


def with_default(words: Sequence[str]) -> list[str]:
    """The words of the command line; without a command, those of this one."""
    asks_for_help = bool(words) and words[0] in ("-h", "--help", "--version")
    if not words or (words[0].startswith("-") and not asks_for_help):
        return [NAME, *words]
    return list(words)


def _tui(args: argparse.Namespace, output: CommandOutput) -> int:
    if args.json:
        raise InvalidDocument(
            "the interface prints no document",
            fix="Use a command, such as: coordinator status --json; see: coordinator --help",
        )
    _require_textual()
    if args.serve is not None:
        return _serve(args, output)
    if not sys.stdout.isatty() and "TEXTUAL_DRIVER" not in os.environ:
        raise InvalidDocument(
            "the interface needs a terminal",
            why="standard output is none",
            fix="Use a command; see: coordinator --help",
        )
    from coordinator.tui.app import TiermeshApp

    # A line on standard error would be painted into the interface.
    logs.configure(args.log_level, args.log_format, default="info", file=_log_file(args))
    app = TiermeshApp(
        _demo_session(args) if args.demo else _session(args, output), light=args.light
    )
    app.run()
    if app.return_code:
        output.progress.print(f"[bold red]error:[/] {app.failure}", markup=True)
    return app.return_code or 0


def _log_file(args: argparse.Namespace) -> Path:
    state: Path = args.state or (config.home() / "demo" if args.demo else config.state_dir())
    return state / "logs" / "tui.log"


def _require_textual() -> None:
    from importlib.util import find_spec

    if find_spec("textual") is None:
        raise Unsupported(
            "the interface is not installed",
            why="there is no module `textual`",
            fix="pip install 'tiermesh[tui]'",
        )


# --- sessions ----------------------------------------------------------------------------------------------------


def _session(args: argparse.Namespace, output: CommandOutput) -> LiveSession:
    from coordinator.tui.live import LiveSession

    for address in args.device:
        wire.split_address(address)

    was_beside = False

    @contextlib.asynccontextmanager
    async def opening() -> AsyncGenerator[OpenMesh]:
        nonlocal was_beside
        async with contextlib.AsyncExitStack() as stack:
            # Who looked on beside a coordinator does not take its place unasked.
            opened = await _opened(args, output, stack, waits=was_beside)
            was_beside = opened.client.is_running
            yield opened

    return LiveSession(
        opening,
        title=args.mesh or DEFAULT_MESH,
        addresses=tuple(args.device),
        browse=not args.no_browse,
        timeout_s=args.timeout,
    )


async def _opened(
    args: argparse.Namespace,
    output: CommandOutput,
    stack: contextlib.AsyncExitStack,
    *,
    waits: bool,
) -> OpenMesh:
    """The mesh by its running coordinator; where none runs, this process coordinates it and takes commands meanwhile.

    With `waits`, it waits until one runs. Where another process holds the mesh and takes no commands, it is only
    looked at.
    """
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.opening import opened
    from coordinator.api.server import serving
    from coordinator.tui.live import OpenMesh

    options = options_of(args)
    if await _is_served(options.state, waits=waits):
        client = await stack.enter_async_context(CoordinatorClient.connect(options.state))
        await asyncio.to_thread(check_options, args, client.info)
        return OpenMesh(client)
    warn_credentials(args, output)
    try:
        service = await stack.enter_async_context(opened(options))
    except TiermeshError as error:
        if "pid" not in error.fields:
            raise
        observing = opened(options_of(args, read_only=True))
        service = await stack.enter_async_context(observing)
        return OpenMesh(CoordinatorClient.in_process(service), refusal=str(error))
    await stack.enter_async_context(serving(options.state, service))
    return OpenMesh(CoordinatorClient.in_process(service), service)


async def _is_served(state: Path, *, waits: bool) -> bool:
    from coordinator.api import unix_socket

    while True:
        served = await asyncio.to_thread(unix_socket.is_served, state)
        if served or not waits:
            return served
        await asyncio.sleep(LOOK_S)


def _demo_session(args: argparse.Namespace) -> LiveSession:
    from coordinator.cli.demo.agents import DEVICES
    from coordinator.cli.demo.holding import HeldDemo
    from coordinator.cli.demo.run import DISCOVER_S
    from coordinator.tui.live import LiveSession

    folder: Path = args.state or config.home() / "demo"
    held = HeldDemo(
        home=config.home_beside(args.state), folder=folder, variants=args.variants or VARIANTS
    )
    return LiveSession(
        held.opening,
        title="demo",
        expect=len(DEVICES),
        timeout_s=DISCOVER_S,
        begin=held.begin,
    )


# --- in a browser ------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace, output: CommandOutput) -> int:
    """Serve the interface; each browser window is a process of its own."""
    from importlib.util import find_spec

    if find_spec("textual_serve") is None:
        raise Unsupported(
            "it cannot be served in a browser",
            why="there is no module `textual_serve`",
            fix="pip install 'tiermesh[tui]'",
        )
    from coordinator.tui.serving import HOST, LoopbackServer

    command = shlex.join([sys.executable, "-m", "coordinator.cli", NAME, *_words(args)])
    output.progress.print(f"http://{HOST}:{args.serve} (this machine only); Ctrl-C ends it")
    LoopbackServer(command, args.serve).serve()
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    """The options that the process of a browser window gets."""
    words = ["--timeout", f"{args.timeout:g}", *args.credentials.options]
    for flag in ("demo", "light", "no_browse"):
        words += ["--" + flag.replace("_", "-")] if getattr(args, flag) else []
    for option in ("state", "fleet", "mesh", "variants"):
        value = getattr(args, option)
        words += [f"--{option}", str(value)] if value is not None else []
    return words + [word for address in args.device for word in ("--device", address)]
