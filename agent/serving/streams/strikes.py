"""Devices that send what cannot be read: counted, and refused for a while where it is often. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from tiermesh import limits

WINDOW_S: Final = 60.0


class Strikes:
    """Messages that could not be read, by the device that sent them; `total` of all."""

    def __init__(self) -> None:
        self.total = 0
        self._latest: dict[str, deque[float]] = {}

    def add(self, device: str, now: float) -> None:
        """A message of a device cannot be read."""
        self.total += 1
        latest = self._latest.setdefault(device, deque(maxlen=limits.MALFORMED_MESSAGES))
        latest.append(now)

    def is_out(self, device: str, now: float) -> bool:
        """Whether a device's streams are refused: it has sent too many within the last minute."""
        latest = self._latest.get(device, ())
        return len(latest) == limits.MALFORMED_MESSAGES and now - latest[0] < WINDOW_S
