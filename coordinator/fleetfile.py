"""The fleet file: what an operator knows of the fleet and devices cannot say, in YAML.

Addresses of devices that multicast does not reach, the order of the tiers, what links cost and
carry::

    tiers: [edge, hub, cloud]
    devices: [192.168.1.20:7070, 192.168.1.21:7070]
    links:
      - {from: edge, to: cloud, price_per_gib: 0.09, capacity_mbps: 20, rtt_ms: 35}

Links that are not listed are free, unlimited and immediate. The ends of a link are names of devices
or tiers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import yaml

from tiermesh import limits
from tiermesh.documents.problem import DefaultLink, ProblemLink
from tiermesh.documents.reading import Document, convert
from tiermesh.documents.workflow import Name
from tiermesh.errors import InvalidDocument, LimitExceeded, TiermeshError

TIERS: Final = ("edge", "hub", "datacenter", "cloud")
"""The order of the tiers where a fleet file does not say."""


class FleetFile(Document, kw_only=True):
    """The fleet file's content. `tiers` are ordered, lowest first; `devices` are ``host:port``."""

    tiers: list[Name] = msgspec.field(default_factory=lambda: list(TIERS))
    devices: list[str] = msgspec.field(default_factory=list[str])
    links: list[ProblemLink] = msgspec.field(default_factory=list[ProblemLink])
    default_link: DefaultLink = DefaultLink()
    upward_only: bool = False


def read_fleet_file(path: Path) -> FleetFile:
    """Read and check a fleet file.

    Raises:
        InvalidDocument: it is not YAML, or a field is wrong.
        TiermeshError: it cannot be read.
    """
    return convert(read_yaml(path, "the fleet file"), FleetFile, "the fleet file")


def read_yaml(path: Path, what: str) -> object:
    """The plain data of a YAML file, within the limit on documents."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TiermeshError(f"cannot read {what} {path}", why=str(error)) from None
    return parse_yaml(text, what)


def parse_yaml(text: str, what: str) -> object:
    """The plain data of YAML text."""
    if len(text) > limits.DOCUMENT_BYTES:
        raise LimitExceeded(
            f"{what} is too large", why=f"the limit is {limits.DOCUMENT_BYTES} bytes"
        )
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidDocument(
            f"{what} is not YAML", why=" ".join(str(error).split()), path="$"
        ) from None
