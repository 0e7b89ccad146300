"""The worker's log of batches: JSON lines in a file of bounded size, written by a thread of its own.

Serving never waits for it. What comes faster than the disk takes, or while the disk is full, is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from agent.serving.tuning.entries import Entry
from tiermesh import limits

log = logging.getLogger(__name__)

FILE: Final = "batches.jsonl"
GATHER_S: Final = 0.5
"""Entries are gathered for so long before they are written in one go."""
_CLOSE_S: Final = 2.0


class Logbook:
    """Writes `folder`/batches.jsonl; when that is half of `most_bytes`, it becomes batches.jsonl.1.

    `add` is for one thread, the event loop. Entries of more than `most_waiting` are dropped.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = limits.BATCH_LOG_BYTES,
        most_waiting: int = limits.BATCH_LOG_ENTRIES_WAITING,
    ) -> None:
        self.path = folder / FILE
        self.dropped = 0
        self._most_bytes = most_bytes
        self._most_waiting = most_waiting
        self._waiting: deque[Entry] = deque()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._encoder = msgspec.json.Encoder()
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="logbook", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Note something; never blocks."""
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
            return
        self._waiting.append(entry)
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._some.set()
        self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(GATHER_S)
            # Cleared first: what is added from here on sets it again.
            self._some.clear()
            self._write()

    def _write(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._append(b"".join(self._encoder.encode(entry) + b"\n" for entry in entries))
        except OSError as error:
            self.dropped += len(entries)
            if not self._is_failing:
                log.warning("cannot write the batch log: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False

    def _append(self, lines: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            size = file.tell()
            file.write(lines)
        if size + len(lines) > self._most_bytes // 2:
            self.path.replace(self.path.with_name(f"{FILE}.1"))
