"""The sockets of zeroconf (mDNS), which announce and browse."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tiermesh.wire.addresses import is_loopback, is_unspecified
from tiermesh.wire.credentials import Credentials

if TYPE_CHECKING:
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"


class Places(NamedTuple):
    """What is announced: the `addresses` of this device; and on which `interfaces`, by their addresses."""

    addresses: list[str]
    interfaces: list[str]


def announced(credentials: Credentials, host: str, own: Sequence[str]) -> Places:
    """Where to announce a process that listens on `host`; `own` are all addresses of this machine.

    An address that stands for all is announced as those that others can reach: ``0.0.0.0`` takes IPv4 only, ``::``
    both. An address of a link alone (``fe80::``) leads nowhere without the name of an interface, which differs from
    host to host. There may be none.
    """
    reaches = credentials.reaches_network
    if is_unspecified(host) and reaches:
        found = [one for one in own if _is_told(one)]
        taken = found if ":" in host else [one for one in found if ":" not in one]
        return Places(taken, found)
    here = _LOOPBACK if is_unspecified(host) or host == "localhost" else host
    return Places([here], [_LOOPBACK if is_loopback(here) or not reaches else here])


def _is_told(address: str) -> bool:
    return not is_loopback(address) and not ipaddress.ip_address(address).is_link_local


def multicast(credentials: Credentials, interfaces: Sequence[str] = ()) -> AsyncZeroconf:
    """Multicast on the interfaces with these addresses; without any, on all that the credentials allow.

    Raises:
        AddressRefused: the credentials do not allow one of them.
        OSError: there is no multicast.
    """
    from zeroconf.asyncio import AsyncZeroconf

    for address in interfaces:
        credentials.check(address, address, "announce on")
    if credentials.reaches_network and not interfaces:
        return _everywhere()
    chosen = list(interfaces) or [_LOOPBACK]
    return AsyncZeroconf(interfaces=chosen, ip_version=_version(chosen))


def _everywhere() -> AsyncZeroconf:
    """On all interfaces: by IPv6, too, where this machine has it."""
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    try:
        return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
    except OSError as error:
        log.info("mDNS by IPv4 only: %s", error)
        return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)


def _version(interfaces: Sequence[str]) -> IPVersion:
    from zeroconf import IPVersion

    kinds = {":" in address for address in interfaces}
    if len(kinds) > 1:
        return IPVersion.All
    return IPVersion.V6Only if True in kinds else IPVersion.V4Only
