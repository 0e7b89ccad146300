"""The version of the API, and how calls tell it."""

from __future__ import annotations

from typing import Final

from tiermesh import __version__
from tiermesh.errors import Unsupported

API_VERSION: Final = 1
"""Raised when a message or a document changes so that the other end would misread it."""
VERSION: Final = f"{__version__}/{API_VERSION}"
VERSION_KEY: Final = "tiermesh-version"
OPERATION_KEY: Final = "tiermesh-operation"
"""The client's name for a call that streams; `Interrupt` takes it."""


def check_version(coordinator: str, client: str) -> None:
    """Refuse a peer of another version: both share a state folder, and documents are decoded strictly.

    Raises:
        Unsupported: naming both versions.
    """
    if coordinator == client:
        return
    raise Unsupported(
        f"the running coordinator has version {coordinator or 'unknown'}, and this client {client or 'unknown'}",
        why="the API of one version is not that of the other",
        fix="Restart that coordinator with this version; serving goes on meanwhile",
        coordinator=coordinator,
        client=client,
    )
