"""The sockets of zeroconf (mDNS), which announce and browse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tiermesh.wire.addresses import is_loopback
from tiermesh.wire.credentials import Credentials

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

_LOOPBACK: Final = "127.0.0.1"


def multicast(credentials: Credentials, interfaces: Sequence[str] = ()) -> AsyncZeroconf:
    """Multicast on the interfaces with these IPv4 addresses; without any, on all that the credentials allow.

    Raises:
        AddressRefused: the credentials do not allow one of them.
        OSError: there is no multicast.
    """
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    for address in interfaces:
        credentials.check(address, address, "announce on")
    everywhere = InterfaceChoice.All if credentials.reaches_network else [_LOOPBACK]
    return AsyncZeroconf(interfaces=list(interfaces) or everywhere, ip_version=IPVersion.V4Only)


def announced(credentials: Credentials, host: str, own: Sequence[str]) -> list[str]:
    """The IPv4 addresses to announce for a process that listens on `host`; `own` are all of this machine.

    An address that stands for all is announced as those of this machine that others can reach.
    """
    if not credentials.reaches_network:
        return [_LOOPBACK]
    if host not in _ANY:
        return [host]
    return [one for one in own if ":" not in one and not is_loopback(one)] or [_LOOPBACK]


_ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
