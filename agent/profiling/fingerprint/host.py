"""Which machine this is, and which operating system runs on it."""

from __future__ import annotations

import hashlib
import platform
import uuid
from pathlib import Path

from agent.profiling.fingerprint import reading


def host_id(proc: Path, etc: Path) -> str:
    """Equal for all agents on one machine: 16 hex digits.

    It follows from the kernel's boot id: containers on one machine share the kernel but not
    `/etc/machine-id`, which is taken only where the kernel tells none. Without either (macOS, Windows) it is the
    host's name and network card. Hashed, since machine ids should not leave their machine.
    """
    boot = reading.text(proc / "sys/kernel/random/boot_id")
    found = boot or reading.text(etc / "machine-id") or _name_and_card()
    return hashlib.sha256(f"tiermesh host {found}".encode()).hexdigest()[:16]


def _name_and_card() -> str:
    card = uuid.getnode()
    # Without a card it is a random number, by its multicast bit (RFC 9562, section 6.10), and another one each time.
    return platform.node() if card >> 40 & 1 else f"{platform.node()} {card:012x}"


def operating_system(proc: Path, etc: Path) -> str:
    """Distribution and kernel, such as ``Debian GNU/Linux 12 (bookworm), Linux 6.6.31``."""
    release = dict(reading.fields(etc / "os-release", "="))
    kernel = reading.text(proc / "sys/kernel/osrelease") or platform.release()
    name = release.get("PRETTY_NAME", "").strip("\"'")
    return ", ".join(part for part in (name, f"{platform.system()} {kernel}") if part)
