"""Which devices are on one LAN: artifacts travel among them at no price, and fast.

What the fleet file says of the link between two devices decides. Where it says nothing, devices are near when the
addresses that the coordinator reaches them at lie in one network of the interfaces that carry these addresses:
other interfaces (a container's bridge has the same network everywhere) say nothing of who can be reached.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from coordinator.fleet.file import FleetFile
from coordinator.fleet.state import Device
from tiermesh.documents.problem import ProblemLink

LAN_RTT_MS: Final = 5.0
"""A link that is declared free and no slower than this is a LAN."""
LOOPBACK: Final = "loopback"


def is_near(device: Device, peer: Device, network: FleetFile) -> bool:
    """Whether `device` should fetch from `peer`."""
    if device.id == peer.id:
        return False
    here, there = _host(device), _host(peer)
    if _is_loopback(here) or _is_loopback(there):
        return _is_loopback(here) and _is_loopback(there)
    link = _declared(network, peer, device)
    if link is not None:
        return link.allowed and link.price_per_gib == 0.0 and link.rtt_ms <= LAN_RTT_MS
    return network_of(device) != "" and network_of(device) == network_of(peer)


def network_of(device: Device) -> str:
    """The network in which the coordinator reaches a device; empty where it cannot be told."""
    host = _host(device)
    if _is_loopback(host):
        return LOOPBACK
    for interface in device.description.fingerprint.interfaces:
        if host in interface.addresses:
            return _containing(interface.networks, host)
    return ""


def _containing(networks: list[str], host: str) -> str:
    address = ipaddress.ip_address(host)
    for text in networks:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            continue
        if address in network and network.num_addresses > 1:
            return text
    return ""


def _host(device: Device) -> str:
    return device.address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _declared(network: FleetFile, source: Device, target: Device) -> ProblemLink | None:
    """The fleet file's entry for a link: device to device wins over device to tier, and that over tier to tier."""
    here, there = source.description.tier, target.description.tier
    known = {(link.source, link.target): link for link in reversed(network.links)}
    pairs = ((source.name, target.name), (source.name, there), (here, target.name), (here, there))
    return next((known[pair] for pair in pairs if pair in known), None)
