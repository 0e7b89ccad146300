"""Where one device of a plan reaches another: the address that a peer is told. Pure.

A device that listens on every interface (``0.0.0.0`` or ``::``) says no address that a peer could connect to, so one of
its interfaces is chosen, for each peer by itself: an address that both have (a container's bridge is 172.17.0.1 on
every host) leads a peer to itself.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from coordinator.fleet.state import Device
from tiermesh import wire
from tiermesh.documents.fingerprint import Interface
from tiermesh.errors import Unreachable

_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}


def peer_address(device: Device, peer: Device) -> str:
    """The ``host:port`` at which `peer` reaches the frames' port of `device`.

    Raises:
        Unreachable: there is none, since `device` listens on loopback only and `peer` is another machine, or since all
            its addresses are ones that `peer` has, too.
    """
    host, port = wire.split_address(device.description.data_address)
    if wire.is_unspecified(host):
        return wire.join_address(_chosen(device, peer, host), port)
    if wire.is_loopback(host) and device.host != peer.host and not _is_here(peer):
        raise Unreachable(
            f"{peer.name} cannot reach {device.name}",
            why=f"{device.name} listens on {host} only, and {peer.name} is another machine",
            fix=f"Start the agent of {device.name} with --host ADDRESS, one that {peer.name} can reach",
            peer=device.name,
        )
    return device.description.data_address


def _chosen(device: Device, peer: Device, listens_on: str) -> str:
    """The address of a common network first, then the one that the coordinator uses, then any other."""
    version = ipaddress.ip_address(listens_on).version
    reached = wire.split_address(device.address)[0]
    if device.id == peer.id or (_is_here(device) and _is_here(peer)):
        return _LOOPBACK[version]
    apart = device.host != peer.host
    theirs = _addresses(peer.description.fingerprint.interfaces) if apart else []
    networks = [
        n for i in peer.description.fingerprint.interfaces if not i.loopback for n in i.networks
    ]
    found = [
        address
        for address in [reached, *_addresses(device.description.fingerprint.interfaces)]
        if address not in theirs and _usable(address, version)
    ]
    shared = [address for address in found if _is_in(address, networks)]
    for address in [*shared, *found]:
        return address
    raise Unreachable(
        f"{peer.name} cannot reach {device.name}",
        why=f"{device.name} listens on {listens_on}, and has no address that {peer.name} has not, too",
        fix=f"Start the agent of {device.name} with --host ADDRESS, one that {peer.name} can reach",
        peer=device.name,
    )


def _is_here(device: Device) -> bool:
    """Whether a device is on the coordinator's machine."""
    return wire.is_loopback(wire.split_address(device.address)[0])


def _addresses(interfaces: list[Interface]) -> list[str]:
    return [address for one in interfaces if not one.loopback for address in one.addresses]


def _usable(host: str, version: int) -> bool:
    """Whether a socket that listens on all addresses of an IP version is reached there; ``::`` takes IPv4, too."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True  # a name, as an operator gave it
    apart = address.is_loopback or address.is_unspecified or address.is_link_local
    return not apart and version >= address.version


def _is_in(host: str, networks: list[str]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(one, strict=False) for one in networks)
