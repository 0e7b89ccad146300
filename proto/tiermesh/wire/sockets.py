"""Plain sockets: ports that are reserved, probed or handed on, and the pair between the agent and its worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket

from tiermesh.errors import Unsupported
from tiermesh.wire.addresses import join_address, split_address
from tiermesh.wire.credentials import Credentials
from tiermesh.wire.peers import PeerIdentity
from tiermesh.wire.rpc import cannot_listen


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, for a setting that must stay equal across restarts."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class HeldPort:
    """A port that is bound and not listened on: nobody else is given it, and a process told to may listen there.

    Two sockets share a port in this way on Linux only. Elsewhere it is checked that the port is free, and not held.
    """

    def __init__(self, credentials: Credentials, address: str) -> None:
        """Take the port.

        Raises:
            AddressRefused: the credentials do not allow the address.
            TiermeshError: the port is taken, or the address is none of this machine.
        """
        host, port = split_address(address)
        credentials.check(host, address, "listen on")
        self._socket = socket.socket(_family(host))
        if os.name == "posix":
            # Windows means something else by it: two may listen.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise cannot_listen(address, error.strerror or str(error)) from None
        if platform.system() != "Linux":
            self._socket.close()

    def close(self) -> None:
        """Let others have it."""
        self._socket.close()


def listening_socket(credentials: Credentials, host: str, port: int) -> socket.socket:
    """A socket that listens, for a server outside gRPC.

    Raises:
        AddressRefused: the credentials do not allow the address.
        TiermeshError: the port is taken, or the address is none of this machine.
    """
    address = join_address(host, port)
    credentials.check(host, address, "listen on")
    try:
        return socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise cannot_listen(address, error.strerror or str(error)) from None


async def is_refused(
    credentials: Credentials, address: str, expected: PeerIdentity, *, timeout_s: float
) -> bool:
    """Whether a machine answers at an address and nothing listens there; False where that cannot be told.

    Refusing is TCP's, below any handshake: who is `expected` is not verified, and nothing is sent.

    Raises:
        AddressRefused: the credentials do not allow the address.
        InvalidDocument: it is no address.
    """
    del expected
    host, port = split_address(address)
    credentials.check(host, address, "connect to")
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except OSError:  # also TimeoutError: the network may be to blame
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return False


def process_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: one to keep, one for a child process, which `inherited` takes up there.

    Raises:
        Unsupported: this system cannot hand a socket to a child process by its number.
    """
    if os.name != "posix":
        raise Unsupported(
            "stages cannot be served on this system",
            why="the worker process is handed a socket by its descriptor, which takes a POSIX system",
            fix="Serve on a device with Linux or macOS; this one can still be profiled and watched",
        )
    return socket.socketpair()


def inherited(descriptor: int) -> socket.socket:
    """The socket that the parent process left open under a descriptor."""
    return socket.socket(fileno=descriptor)


async def streams(
    connected: socket.socket, *, line_bytes: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Reader and writer over one end of a `process_pair`; lines are at most `line_bytes` long."""
    return await asyncio.open_connection(sock=connected, limit=line_bytes)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
