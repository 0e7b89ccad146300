"""Addresses as text: ``host:port``, IPv6 in brackets."""

from __future__ import annotations

import ipaddress
import socket

from tiermesh.errors import InvalidDocument


def split_address(address: str) -> tuple[str, int]:
    """The host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        InvalidDocument: it is neither; the error shows how an address is written.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InvalidDocument(
            f"{address!r} is not an address", fix="Write host:port, for example 127.0.0.1:7070"
        )
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The parts of an address as ``host:port``, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_unspecified(host: str) -> bool:
    """Whether a host means every address of a machine: it can be listened on, and nobody can connect to it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def first_address(host: str) -> str:
    """The first address of a host's name, which may take a look-up; a name that does not resolve stays as it is."""
    if is_unspecified(host):
        return host
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return host
