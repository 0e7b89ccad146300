"""The Unix socket of the API: its address, its channel, its port, and whose it is.

Who may use it is who owns the state folder: the socket has mode 0600, it is made under a mask that never lets anybody
else connect, and a client talks to a socket of its own user only. gRPC for Python tells a server nothing of the process
at the other end of a Unix socket, so that mode is what keeps other users out; nothing keeps root out.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from tiermesh import limits
from tiermesh.errors import TiermeshError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

SOCKET_NAME: Final = "coordinator.sock"
PATH_BYTES: Final = 100
"""What every system takes as the path of a socket."""

# A local socket breaks when its peer ends, so that nothing need be kept alive.
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
]


class SocketAddress:
    """The path of a folder's socket, for as long as the context is open.

    A path that is too long for an address is reached through the folder's descriptor, where /proc has those.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
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
            self._descriptor = None


def server(interceptors: Sequence[Any]) -> grpc.aio.Server:
    """A server without a port."""
    return grpc.aio.server(interceptors=interceptors, options=_OPTIONS)


async def bind(server: grpc.aio.Server, folder: Path, path: str) -> None:
    """Take the socket of a state folder, whose `path` is that of a `SocketAddress`.

    Only who holds the folder's journal may: a socket that is there already was left by a coordinator that was killed.

    Raises:
        TiermeshError: the socket cannot be made.
    """
    try:
        await asyncio.to_thread(Path(path).unlink, missing_ok=True)
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(mask)
        await asyncio.to_thread(Path(path).chmod, 0o600)
    except (OSError, RuntimeError) as error:
        raise TiermeshError(
            f"cannot listen for clients in {folder}",
            why=str(error).splitlines()[0],
            fix="Name another --state",
        ) from None


def channel(path: str) -> grpc.aio.Channel:
    """A channel to a socket; nothing is connected yet."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


def is_served(folder: Path) -> bool:
    """Whether a process listens on the socket of a state folder.

    Raises:
        Unsupported: it is another user's.
        TiermeshError: the folder cannot be used.
    """
    try:
        with SocketAddress(folder) as path, socket.socket(socket.AF_UNIX) as probe:
            owner = Path(path).stat().st_uid
            if owner != os.geteuid():
                raise Unsupported(
                    "the running coordinator is another user's",
                    why=f"its socket belongs to user {owner}",
                    fix="Run the command as that user",
                )
            probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        # No socket, or one that a coordinator left which was killed.
        return False
    except OSError as error:
        raise TiermeshError(
            f"cannot reach the coordinator that runs in {folder}",
            why=error.strerror or str(error),
            fix="Run the command as the user who runs that coordinator",
        ) from None
    return True
