"""Addresses as text: ``host:port``, IPv6 in brackets."""

from __future__ import annotations

import ipaddress

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
