"""Network interfaces that are up, with their speeds where the driver tells them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from agent.host_facts import HostInterface, host_facts
from tiermesh.documents.fingerprint import Interface


def addresses() -> dict[str, list[str]]:
    """The IP addresses of every interface by its name."""
    found = host_facts().interfaces()
    return {one.name: [ip.partition("/")[0] for ip in one.addresses] for one in found}


def probe(sys: Path, known: Sequence[HostInterface]) -> list[Interface]:
    """The interfaces that are up and have an address, by name."""
    found = sorted(known, key=lambda one: one.name)
    return [_interface(sys / "class/net" / one.name, one) for one in found if one.is_up]


def _interface(folder: Path, known: HostInterface) -> Interface:
    addresses = [ipaddress.ip_interface(address) for address in known.addresses]
    return Interface(
        name=known.name,
        addresses=[str(one.ip) for one in addresses],
        networks=sorted({str(one.network) for one in addresses}),
        speed_mbps=known.speed_mbps,
        loopback=any(one.is_loopback for one in addresses),
        # Only Linux tells.
        wireless=(folder / "wireless").exists() or (folder / "phy80211").exists(),
    )
