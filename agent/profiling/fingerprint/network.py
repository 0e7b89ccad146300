"""Network interfaces that are up, with their speeds where the driver tells them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.profiling.fingerprint import reading
from tiermesh.documents.fingerprint import Interface

_LOOPBACK_TYPE: Final = 772
"""ARPHRD_LOOPBACK of linux/if_arp.h."""
_UP: Final = ("up", "unknown")
"""Tunnels and loopback have no carrier and are `unknown` while they work."""


def addresses() -> dict[str, list[str]]:
    """The IP addresses of every interface by its name."""
    known = addresses_with_networks()
    return {name: [one.partition("/")[0] for one in found] for name, found in known.items()}


def addresses_with_networks() -> dict[str, list[str]]:
    """As `addresses`, each with the length of its network: ``10.0.0.5/24``."""
    import ifaddr

    return {
        adapter.name: [
            f"{ip.ip if isinstance(ip.ip, str) else ip.ip[0]}/{ip.network_prefix}"
            for ip in adapter.ips
        ]
        for adapter in ifaddr.get_adapters()
    }


def probe(sys: Path, known: Mapping[str, Sequence[str]]) -> list[Interface]:
    """The interfaces that are up and have one of the `known` addresses."""
    return [
        _interface(folder, list(known[folder.name]))
        for folder in reading.entries(sys / "class/net")
        if known.get(folder.name) and reading.text(folder / "operstate") in _UP
    ]


def _interface(folder: Path, addresses: list[str]) -> Interface:
    speed = reading.number(folder / "speed")
    known = [ipaddress.ip_interface(address) for address in addresses]
    return Interface(
        name=folder.name,
        addresses=[str(one.ip) for one in known],
        networks=sorted({str(one.network) for one in known}),
        speed_mbps=speed if speed is not None and speed > 0 else None,
        loopback=reading.number(folder / "type") == _LOOPBACK_TYPE,
        wireless=(folder / "wireless").exists() or (folder / "phy80211").exists(),
    )
