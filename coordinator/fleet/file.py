"""The fleet file: what an operator knows of the fleet and devices cannot say.

Addresses of devices that multicast does not reach, the order of the tiers, what links cost and carry::

    tiers: [edge, hub, cloud]
    devices: [192.168.1.20:7070, 192.168.1.21:7070]
    links:
      - {from: edge, to: cloud, price_per_gib: 0.09, capacity_mbps: 20, rtt_ms: 35}

Links that are not listed are free, unlimited and immediate. The ends of a link are names of devices
or tiers.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tiermesh.documents.problem import DefaultLink, ProblemLink
from tiermesh.documents.reading import Document
from tiermesh.documents.workflow import Name

TIERS: Final = ("edge", "hub", "datacenter", "cloud")
"""The order of the tiers where a fleet file does not say."""


class FleetFile(Document, frozen=True, kw_only=True):
    """The fleet file's content. `tiers` are ordered, lowest first; `devices` are ``host:port``."""

    tiers: list[Name] = msgspec.field(default_factory=lambda: list(TIERS))
    devices: list[str] = msgspec.field(default_factory=list[str])
    links: list[ProblemLink] = msgspec.field(default_factory=list[ProblemLink])
    default_link: DefaultLink = DefaultLink()
    upward_only: bool = False
