"""A coordinator at work, seen from the command line: asked by a command, and carrying commands out.

A command that needs the mesh is a function of (arguments, output). `asked` sends its words to the coordinator of its
state folder, which parses them again and calls that function in a thread; the mesh it works on is the open one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast

from coordinator import config
from coordinator.cli.mesh import STANDING
from coordinator.cli.output import Output, console_elsewhere
from coordinator.commands.asking import ask
from coordinator.commands.messages import (
    SOCKET_NAME,
    VERSION,
    Ask,
    Terminal,
    terminal_environment,
)
from tiermesh import limits
from tiermesh.errors import Unsupported
from tiermesh.wire import LOOPBACK

if TYPE_CHECKING:
    from rich.console import Console

    from coordinator.commands.listening import Voice
    from coordinator.mesh import Mesh

T = TypeVar("T")
Stream: TypeAlias = Literal["out", "err"]
_STREAMS: Final[tuple[Stream, Stream]] = ("out", "err")


def needs_mesh(args: argparse.Namespace) -> bool:
    """Whether a command speaks to devices or changes the journal, so that a coordinator at work must do it."""
    needs = getattr(args, "needs_mesh", False)
    return bool(needs(args) if callable(needs) else needs)


# --- asking ------------------------------------------------------------------------------------------------------


def asked(args: argparse.Namespace, words: Sequence[str], output: Output) -> int | None:
    """The exit code of a command that the coordinator at work carries out; None where none is at work."""
    if not needs_mesh(args):
        return None
    folder: Path = args.state or config.state_dir()
    if not (folder / SOCKET_NAME).exists():
        return None
    width, height = output.console.size
    wanted = Ask(
        version=VERSION,
        words=list(words),
        folder=str(Path.cwd()),
        terminal=Terminal(
            out=output.console.is_terminal,
            err=output.progress.is_terminal,
            columns=width,
            lines=height,
            environment=terminal_environment(os.environ),
        ),
    )
    return asyncio.run(ask(folder, wanted, _show))


def _show(stream: str, text: str) -> None:
    file = sys.stdout if stream == "out" else sys.stderr
    file.write(text)
    file.flush()


# --- carrying out ------------------------------------------------------------------------------------------------


class StandingCoordinator:
    """Carries the commands out that come over the socket, with one open mesh.

    `variants` is the folder of the mesh's ladders.
    """

    def __init__(self, mesh: Mesh, variants: Path) -> None:
        self.mesh = mesh
        self._variants = variants
        # Threads of its own: those of the event loop are for the work that commands wait for.
        self._threads: Final = ThreadPoolExecutor(limits.COMMANDS, "command")

    async def carry_out(self, wanted: Ask, voice: Voice) -> int:
        """The exit code of a command. Cancelling it interrupts the command and waits for its end."""
        command = _Command(self.mesh, self._variants)
        context = copy_context()
        context.run(STANDING.set, command)
        typed = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(self._typed, wanted, voice)
        )
        try:
            return await asyncio.shield(typed)
        except asyncio.CancelledError:
            command.interrupt()
            return await typed

    def _typed(self, wanted: Ask, voice: Voice) -> int:
        # The command line imports this module.
        from coordinator.cli import build_parser, finish

        try:
            args = build_parser().parse_args(wanted.words)
        except SystemExit as error:
            return int(error.code or 0)
        _resolve(args, Path(wanted.folder))
        console, progress = (_console(wanted.terminal, voice, stream) for stream in _STREAMS)
        output = Output(json=args.json, console=console, progress=progress)
        if not needs_mesh(args):
            output.error(Unsupported("this command is not one for a coordinator at work"))
            return 2
        try:
            return finish(args, output)
        except Exception:  # noqa: BLE001 - as in a process of its own: its traceback, and exit code 1
            progress.file.write(traceback.format_exc())
            return 1


class _Command:
    """One command: what it does with the mesh runs in the coordinator's event loop."""

    def __init__(self, mesh: Mesh, variants: Path) -> None:
        self.mesh = mesh
        self._variants = variants
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Future[Any] | None = None
        self._interrupted = False

    def check(self, args: argparse.Namespace) -> None:
        """Refuse options that ask for another mesh than the one that is open."""
        variants = getattr(args, "variants", None)
        mesh = self.mesh
        others = {
            "--mesh": args.mesh not in (None, mesh.name),
            "--insecure-lan": args.credentials not in (LOOPBACK, mesh.credentials),
            "--fleet": args.fleet is not None,
            "--variants": variants is not None and variants.resolve() != self._variants,
        }
        for option, other in others.items():
            if other:
                raise Unsupported(
                    f"{option} cannot be given while a coordinator is at work",
                    why="the command is carried out there, with the options that it was started with",
                    fix=f"Leave {option} out, or start that coordinator again with it",
                )

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work in the event loop, from the command's thread; KeyboardInterrupt when it is interrupted."""
        done: Future[T] = Future()
        self._loop.call_soon_threadsafe(self._start, work, done)
        return done.result()

    def interrupt(self) -> None:
        """Cancel the work, now and from now on, as Ctrl-C does."""
        self._interrupted = True
        if self._task is not None:
            self._task.cancel()

    def _start(self, work: Callable[[], Awaitable[T]], done: Future[T]) -> None:
        task = asyncio.ensure_future(work())
        self._task = task

        def ended(task: asyncio.Future[T]) -> None:
            if task.cancelled():
                done.set_exception(KeyboardInterrupt())
            elif (error := task.exception()) is not None:
                done.set_exception(error)
            else:
                done.set_result(task.result())

        task.add_done_callback(ended)
        if self._interrupted:
            task.cancel()


def _console(terminal: Terminal, voice: Voice, stream: Stream) -> Console:
    return console_elsewhere(
        cast("IO[str]", _Wire(voice, stream)),
        terminal=terminal.out if stream == "out" else terminal.err,
        size=(terminal.columns, terminal.lines),
        environment=terminal.environment,
    )


class _Wire(io.TextIOBase):
    """What is written here is printed by the client."""

    def __init__(self, voice: Voice, stream: Stream) -> None:
        self._voice = voice
        self._stream: Stream = stream

    def write(self, text: str, /) -> int:
        """Pass text on."""
        self._voice.say(self._stream, text)
        return len(text)


def _resolve(args: argparse.Namespace, folder: Path) -> None:
    """Paths as the client meant them: relative to the folder that it was typed in."""
    for name, value in vars(args).items():
        if isinstance(value, Path):
            setattr(args, name, folder / value)
        elif isinstance(value, list):
            given = cast("list[object]", value)
            setattr(args, name, [folder / v if isinstance(v, Path) else v for v in given])
