"""The clock of a worker: Unix seconds that never jump."""

from __future__ import annotations

import time


class Clock:
    """Unix time at the start, and monotonic from there: setting the device's clock moves no deadline."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now, in seconds."""
        return self._offset + time.monotonic()
