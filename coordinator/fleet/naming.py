"""Names that are unique in the mesh and fit for plan files, whatever devices call themselves."""

from __future__ import annotations

import re
from collections.abc import Collection

from tiermesh import ids, limits

_SUFFIX_CHARS = 6


def fitting(name: str) -> str:
    """`name` with all that the name pattern does not allow replaced."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[: limits.NAME_CHARS]
    return cleaned if re.fullmatch(ids.NAME_PATTERN, cleaned) else "device"


def unique(name: str, device: str, taken: Collection[str], current: str | None = None) -> str:
    """The name for a device: what it calls itself, with a piece of its id where that is taken.

    A device keeps the `current` name while it still follows from what the device calls itself.
    """
    base = fitting(name)
    suffixed = f"{base[: limits.NAME_CHARS - _SUFFIX_CHARS - 1]}-{fitting(device)[:_SUFFIX_CHARS]}"
    candidates = [base, suffixed]
    if current in candidates and current not in taken:
        return str(current)
    for candidate in candidates:
        if candidate not in taken:
            return candidate
    number = 2
    stem = base[: limits.NAME_CHARS - _SUFFIX_CHARS - 1]
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
