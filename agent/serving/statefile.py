"""An aggregate's snapshot on disk: one SQLite file, in which state and outputs change together."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from agent.serving.aggregates import Snapshot
from tiermesh.errors import StorageFull
from tiermesh.frames import Packed, Tensor

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS states (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (
    series TEXT, number INTEGER, data BLOB NOT NULL, PRIMARY KEY (series, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (name TEXT PRIMARY KEY, next INTEGER, settled INTEGER) WITHOUT ROWID;
"""


class StateFile:
    """Methods block; one thread at a time. What is kept is past the disk's caches when `keep` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def load(self) -> Snapshot:
        """What was kept."""
        snapshot = Snapshot()
        for key, data in self._db.execute("SELECT key, data FROM states"):
            snapshot.states[key] = _unpacked(data)
        for series, number, data in self._db.execute("SELECT series, number, data FROM outputs"):
            snapshot.outputs[series, number] = _unpacked(data)
        for name, after, settled in self._db.execute("SELECT name, next, settled FROM series"):
            snapshot.positions[name] = after
            snapshot.settled[name] = settled
        return snapshot

    def keep(self, change: Snapshot) -> None:
        """Keep what has changed, all or none.

        Raises:
            StorageFull: it cannot be kept.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._write(change)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StorageFull(
                "an aggregate cannot keep its state",
                why=str(error),
                fix="Free disk space on the device",
            ) from None

    def _write(self, change: Snapshot) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?)",
            [(key, _packed(state)) for key, state in change.states.items()],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)",
            [(*place, _packed(output)) for place, output in change.outputs.items()],
        )
        for name, after in change.positions.items():
            self._db.execute(
                "INSERT INTO series VALUES (?, ?, 0) ON CONFLICT (name) DO UPDATE SET next = excluded.next",
                (name, after),
            )
        for name, settled in change.settled.items():
            self._db.execute("UPDATE series SET settled = ? WHERE name = ?", (settled, name))
            self._db.execute("DELETE FROM outputs WHERE series = ? AND number < ?", (name, settled))

    def discard(self) -> None:
        """Remove the file."""
        self._db.close()
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)


def _packed(payload: Packed) -> bytes:
    tensors = [(t.dtype, t.shape, bytes(t.data)) for t in payload.tensors]
    return msgspec.msgpack.encode((payload.data, tensors))


def _unpacked(data: bytes) -> Packed:
    whole, tensors = msgspec.msgpack.decode(
        data, type=tuple[bytes, list[tuple[str, tuple[int, ...], bytes]]]
    )
    return Packed(whole, tuple(Tensor(*tensor) for tensor in tensors))
