"""The clock of a worker, and of samples: Unix seconds that never jump."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, NamedTuple

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Anchor(NamedTuple):
    """Which boot of the machine this is (empty where it does not say), and what a clock calls its beginning."""

    boot: str
    zero: float


def anchor(now: float) -> Anchor:
    """The anchor of the clock that says `now`: times of another clock of the same boot differ by their zeros."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = ""
    return Anchor(boot, now - time.monotonic())


class Clock:
    """Unix time at the start, and monotonic from there: setting the device's clock moves no deadline."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now, in seconds."""
        return self._offset + time.monotonic()
