"""The fleet file: what an operator knows of the fleet and devices cannot say.

Addresses of devices that multicast does not reach, the order of the tiers, what links cost and carry::

    tiers: [edge, hub, cloud]
    devices: [192.168.1.20:7070, 192.168.1.21:7070]
    links:
      - {from: edge, to: cloud, price_per_gib: 0.09, capacity_mbps: 20, rtt_ms: 35}

Links that are not listed are free, unlimited and immediate. The ends of a link are names of devices
or tiers.

A provider's functions, with their prices and how fast they were measured to be (seconds of a batch, by memory size)::

    serverless:
      - name: lambda
        tier: cloud
        usd_per_gb_second: 1.66667e-05
        usd_per_call: 2.0e-07
        cold_start: {seconds: 1.2, share: 0.01, source: "our logs of last month"}
        profiles:
          - {model: ocr-recognise, variant: v6s, memory_mb: 2048, batches: [{batch_size: 1, mean: 0.08}]}

Plans say what such functions would save. No agent runs on them, so a plan that uses them cannot be applied, and what
the coordinator plans by itself never does.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tiermesh.documents.problem import BatchTime, ColdStart, DefaultLink, NonNegative, ProblemLink
from tiermesh.documents.reading import Document
from tiermesh.documents.workflow import Name

TIERS: Final = ("edge", "hub", "datacenter", "cloud")
"""The order of the tiers where a fleet file does not say."""


class FunctionProfile(Document, frozen=True, kw_only=True):
    """How fast a variant of a model is as a function of a memory size."""

    model: Name
    variant: Name
    memory_mb: Annotated[float, msgspec.Meta(gt=0)]
    batches: Annotated[list[BatchTime], msgspec.Meta(min_length=1)]


class Functions(Document, frozen=True, kw_only=True):
    """A provider's functions: where they are, what they cost, and how fast they are."""

    name: Name
    tier: Name
    usd_per_gb_second: NonNegative
    usd_per_call: NonNegative = 0.0
    cold_start: ColdStart | None = None
    profiles: Annotated[list[FunctionProfile], msgspec.Meta(min_length=1)]


class FleetFile(Document, frozen=True, kw_only=True):
    """The fleet file's content. `tiers` are ordered, lowest first; `devices` are ``host:port``."""

    tiers: list[Name] = msgspec.field(default_factory=lambda: list(TIERS))
    devices: list[str] = msgspec.field(default_factory=list[str])
    links: list[ProblemLink] = msgspec.field(default_factory=list[ProblemLink])
    default_link: DefaultLink = DefaultLink()
    upward_only: bool = False
    serverless: list[Functions] = msgspec.field(default_factory=list[Functions])
