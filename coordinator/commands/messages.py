"""What goes over the command socket: messages in JSON, each after its length in four bytes."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from tiermesh import __version__, limits
from tiermesh.errors import LimitExceeded, TiermeshError

SOCKET_NAME: Final = "commands.sock"
VERSION: Final = f"{__version__}/1"
"""Both ends read the same words with the same parser, so both must be of one version."""
PATH_BYTES: Final = 100
"""What every system takes as the path of a socket."""

_LENGTH: Final = struct.Struct(">I")


class Terminal(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command's words appear. `environment` has what decides about colours."""

    out: bool = False
    err: bool = False
    columns: int = 80
    lines: int = 25
    environment: dict[str, str] = {}


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """A command line, and the folder that its relative paths start from."""

    version: str
    words: list[str] = []
    folder: str = ""
    terminal: Terminal = Terminal()


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Give the command up, as Ctrl-C does."""


class Say(msgspec.Struct, frozen=True, tag="say"):
    """What the command prints."""

    stream: Literal["out", "err"]
    text: str


class Refuse(msgspec.Struct, frozen=True, tag="refuse"):
    """The command was not begun; `error` is a TiermeshError as `to_dict` gives it."""

    error: dict[str, Any]


class End(msgspec.Struct, frozen=True, tag="end"):
    """The command has ended."""

    code: int


FromClient: TypeAlias = Ask | Cancel
FromCoordinator: TypeAlias = Say | Refuse | End

_FROM_CLIENT: Final = msgspec.json.Decoder(FromClient)
_FROM_COORDINATOR: Final = msgspec.json.Decoder(FromCoordinator)


def encode(message: FromClient | FromCoordinator) -> bytes:
    """A message with its length before it.

    Raises:
        LimitExceeded: it is too long.
    """
    body = msgspec.json.encode(message, enc_hook=str)
    if len(body) > limits.COMMAND_MESSAGE_BYTES:
        raise _too_long(len(body))
    return _LENGTH.pack(len(body)) + body


async def read_from_client(reader: asyncio.StreamReader) -> FromClient | None:
    """The client's next message; None at its end, and for what is no message."""
    try:
        return _FROM_CLIENT.decode(await _read(reader) or b"")
    except (msgspec.MsgspecError, LimitExceeded):
        return None


async def read_from_coordinator(reader: asyncio.StreamReader) -> FromCoordinator | None:
    """The coordinator's next message; None at its end.

    Raises:
        TiermeshError: it is no message.
    """
    body = await _read(reader)
    if body is None:
        return None
    try:
        return _FROM_COORDINATOR.decode(body)
    except msgspec.MsgspecError as error:
        raise TiermeshError(
            "the coordinator at work said something that this command does not understand",
            why=str(error),
            fix="Run both with the same version",
        ) from None


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > limits.COMMAND_MESSAGE_BYTES:
            raise _too_long(length)
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _too_long(length: int) -> LimitExceeded:
    return LimitExceeded(
        f"a message of {length} bytes on the command socket",
        why=f"the limit is {limits.COMMAND_MESSAGE_BYTES}",
    )


class SocketAddress:
    """The address of a folder's command socket, for as long as the context is open.

    A path that is too long for an address is reached through the folder's descriptor, where /proc has those.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> str:
        path = str(self._folder / SOCKET_NAME)
        if len(os.fsencode(path)) <= PATH_BYTES:
            return path
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._descriptor}/{SOCKET_NAME}"

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def terminal_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment decides how text is shown."""
    return {name: environment[name] for name in _SHOWN_BY if name in environment}


_SHOWN_BY: Final = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
