"""The command's end of the socket: have the coordinator at work carry it out, and print what it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coordinator.commands.messages import (
    Ask,
    Cancel,
    End,
    Refuse,
    Say,
    SocketAddress,
    encode,
    read_from_coordinator,
)
from tiermesh.errors import TiermeshError, error_of

_NOBODY: Final = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)
"""No socket, or one that a coordinator left which was killed."""


async def ask(folder: Path, wanted: Ask, show: Callable[[str, str], None]) -> int | None:
    """The exit code of a command that the coordinator of a state folder carries out; None where none is at work.

    `show` gets what is printed: the stream, `out` or `err`, and the text. When this is cancelled, so is the
    command, and its end is awaited.

    Raises:
        TiermeshError: the coordinator refuses the command, or ends before it is done.
    """
    try:
        with SocketAddress(folder) as address:
            reader, writer = await asyncio.open_unix_connection(address)
    except _NOBODY:
        return None
    except OSError as error:
        raise TiermeshError(
            f"cannot reach the coordinator at work in {folder}",
            why=error.strerror or str(error),
            fix="Run the command as the user who runs that coordinator",
        ) from None
    try:
        writer.write(encode(wanted))
        try:
            return await _listen(reader, show)
        except asyncio.CancelledError:
            writer.write(encode(Cancel()))
            return await _listen(reader, show)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _listen(reader: asyncio.StreamReader, show: Callable[[str, str], None]) -> int:
    while True:
        match await read_from_coordinator(reader):
            case Say(stream, text):
                show(stream, text)
            case Refuse(error):
                raise error_of(error)
            case End(code):
                return code
            case None:
                raise TiermeshError(
                    "the coordinator ended before this command was done",
                    why="it was stopped or killed; what serves goes on serving",
                    fix="Start it again: it finishes or undoes an open rollout; see: coordinator events",
                )
