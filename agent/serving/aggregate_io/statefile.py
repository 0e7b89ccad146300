"""An aggregate's snapshot on disk: one SQLite file, in which state and outputs change together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.serving.aggregates.snapshot import AggregateSnapshot, Given, HeldAggregate, flat, unflat
from tiermesh.errors import StorageFull

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS states (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (
    series TEXT, number INTEGER, data BLOB NOT NULL, PRIMARY KEY (series, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (name TEXT PRIMARY KEY, next INTEGER, settled INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (since INTEGER NOT NULL, pending TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS given (token TEXT NOT NULL, device TEXT NOT NULL, address TEXT NOT NULL, generation INTEGER);
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

    def load(self) -> AggregateSnapshot:
        """What was kept."""
        snapshot = AggregateSnapshot()
        for key, data in self._db.execute("SELECT key, data FROM states"):
            snapshot.states[key] = unflat(data)
        for series, number, data in self._db.execute("SELECT series, number, data FROM outputs"):
            snapshot.outputs[series, number] = unflat(data)
        for name, after, settled in self._db.execute("SELECT name, next, settled FROM series"):
            snapshot.positions[name] = after
            snapshot.settled[name] = settled
        return snapshot

    def held(self) -> HeldAggregate:
        """Whose the state is."""
        given = self._db.execute("SELECT token, device, address, generation FROM given").fetchone()
        since, pending = self._db.execute("SELECT since, pending FROM held").fetchone() or (0, "")
        positions = dict(self._db.execute("SELECT name, next FROM series").fetchall())
        return HeldAggregate(
            since, pending, Given(*given) if given is not None else None, True, positions
        )

    def keep(self, change: AggregateSnapshot) -> None:
        """Keep what has changed, all or none.

        Raises:
            StorageFull: it cannot be kept.
        """
        self._change(lambda: self._write(change))

    def adopt(self, snapshot: AggregateSnapshot, since: int, pending: str) -> None:
        """Hold this state and no other from now on; see `HeldAggregate`.

        Raises:
            StorageFull: it cannot be kept; what was here is still here.
        """

        def work() -> None:
            self._clear()
            self._write(snapshot)
            self._db.execute("INSERT INTO held VALUES (?, ?)", (since, pending))

        self._change(work)

    def own(self) -> None:
        """The state is no copy any more."""
        self._change(lambda: self._db.execute("UPDATE held SET pending = ''"))

    def give(self, given: Given) -> None:
        """The state is another device's from now on."""

        def work() -> None:
            self._clear()
            row = given.token, given.device, given.address, given.generation
            self._db.execute("INSERT INTO given VALUES (?, ?, ?, ?)", row)

        self._change(work)

    def _clear(self) -> None:
        for table in ("states", "outputs", "series", "held", "given"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names are ours

    def _change(self, work: Callable[[], object]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            work()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StorageFull(
                "an aggregate cannot write its state",
                why=str(error),
                fix="Free disk space on the device",
            ) from None

    def _write(self, change: AggregateSnapshot) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?)",
            [(key, flat(state)) for key, state in change.states.items()],
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)",
            [(*place, flat(output)) for place, output in change.outputs.items()],
        )
        for name, after in change.positions.items():
            self._db.execute(
                "INSERT INTO series VALUES (?, ?, 0) ON CONFLICT (name) DO UPDATE SET next = excluded.next",
                (name, after),
            )
        for name, settled in change.settled.items():
            self._db.execute("UPDATE series SET settled = ? WHERE name = ?", (settled, name))
            self._db.execute("DELETE FROM outputs WHERE series = ? AND number < ?", (name, settled))

    def close(self) -> None:
        """Close the file; the state stays in it."""
        self._db.close()

    def discard(self) -> None:
        """Remove the file."""
        self.close()
        remove(self._path)


def remove(path: Path) -> None:
    """Remove a state's file, where there is one."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
