"""The journal: one SQLite file (WAL) with every event in order, who caused it and when.

The state is what the events add up to (`coordinator.fleet.replay`). A snapshot saves replaying from
the start; it is only a cache, and the events are never deleted. One process writes at a time; any
number may read meanwhile.

The methods block: call them from a thread where an event loop runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from coordinator.fleet import Fleet, replay
from coordinator.fleet.events import Event
from tiermesh.errors import StorageFull, TiermeshError

SCHEMA_VERSION: Final = 1
STATE_VERSION: Final = 3
"""Raised when `apply` or the state changes; a snapshot of another version is not used."""
SNAPSHOT_EVERY: Final = 2_000
"""Events between two snapshots."""
FILE_NAME: Final = "journal.sqlite"
PAGE_BYTES: Final = 64 * 1024
"""With less free space than this, SQLite can write nothing: its index alone grows by 32 kB."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind, number);
CREATE TABLE IF NOT EXISTS snapshot (
    one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL,
    state_version INTEGER NOT NULL, body BLOB NOT NULL
);
"""
_EVENTS: Final = msgspec.json.Decoder(Event)
_STATES: Final = msgspec.json.Decoder(Fleet)


class Entry(msgspec.Struct, frozen=True):
    """An event and its number in the journal."""

    number: int
    event: Event


class Journal:
    """The open journal. Made by `Journal.open` (to write) or `Journal.read_only`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self._since_snapshot = 0

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Open the journal of a state folder to write, making both where they are missing.

        Raises:
            TiermeshError: another coordinator writes, the file is damaged or of a newer version.
            StorageFull: there is no room.
        """
        path = folder / FILE_NAME
        with _explained(path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _take_lock(folder)
            try:
                return cls(path, _connect(path), lock)
            except BaseException:
                os.close(lock)
                raise

    @classmethod
    def read_only(cls, folder: Path) -> Journal:
        """Open the journal to read, beside a coordinator that may be writing.

        Raises:
            TiermeshError: there is none, it is damaged or of a newer version.
        """
        path = folder / FILE_NAME
        if not path.exists():
            raise TiermeshError(
                f"there is no journal in {folder}",
                why="no coordinator has run with this state folder",
                fix="Run `coordinator devices` first, or name another folder with --state",
            )
        with _explained(path):
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
            try:
                _check_version(connection, path)
            except BaseException:
                connection.close()
                raise
            return cls(path, connection, None)

    def append(self, events: Sequence[Event]) -> None:
        """Write events, all or none; they are on disk when this returns. Nothing where only reading."""
        if self._lock is None:
            return
        rows = [
            (e.at, e.who, e.kind, e.subject, msgspec.json.encode(e, enc_hook=float)) for e in events
        ]
        with _explained(self._path), self._connection:
            self._connection.executemany(
                "INSERT INTO events (at, who, kind, subject, body) VALUES (?, ?, ?, ?, ?)", rows
            )
        self._since_snapshot += len(rows)

    def load(self) -> Fleet:
        """The state that the events add up to, from the last snapshot where it can be used."""
        number, fleet = self._snapshot()
        with _explained(self._path):
            entries = list(self._entries("number > ?", [number]))
        self._since_snapshot = len(entries)
        return replay((entry.event for entry in entries), fleet)

    def events(
        self,
        *,
        after: int = 0,
        before: int = 0,
        kinds: Sequence[str] = (),
        about: str = "",
        limit: int | None = None,
    ) -> list[Entry]:
        """Events with a number above `after`, oldest first; with `limit`, the newest that many.

        With `before`, only those with a number below it.
        """
        where = "number > ?"
        values: list[object] = [after]
        if before:
            where += " AND number < ?"
            values.append(before)
        if kinds:
            where += f" AND kind IN ({','.join('?' * len(kinds))})"
            values += kinds
        if about:
            where += " AND subject = ?"
            values.append(about)
        with _explained(self._path):
            return list(self._entries(where, values, limit))

    def save_snapshot(self, fleet: Fleet, *, force: bool = False) -> None:
        """Keep `fleet`, what all events add up to, when enough happened since the last snapshot."""
        due = self._since_snapshot >= SNAPSHOT_EVERY or (force and self._since_snapshot > 0)
        if self._lock is None or not due:
            return
        body = msgspec.json.encode(fleet, enc_hook=float)
        with _explained(self._path), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO snapshot"
                " SELECT 1, COALESCE(MAX(number), 0), ?, ? FROM events",
                (STATE_VERSION, body),
            )
        self._since_snapshot = 0

    def close(self) -> None:
        """Close the file and let another coordinator write."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _snapshot(self) -> tuple[int, Fleet | None]:
        with _explained(self._path):
            row = self._connection.execute(
                "SELECT number, body FROM snapshot WHERE state_version = ?", (STATE_VERSION,)
            ).fetchone()
        try:
            return (int(row[0]), _STATES.decode(row[1])) if row else (0, None)
        except msgspec.MsgspecError:
            return 0, None

    def _entries(
        self, where: str, values: Sequence[object], limit: int | None = None
    ) -> Iterator[Entry]:
        newest = "" if limit is None else f"ORDER BY number DESC LIMIT {int(limit)}"
        # `where` is made in this class only, with placeholders for all that comes from outside.
        query = f"SELECT number, body FROM events WHERE {where} {newest}"  # noqa: S608
        with closing(
            self._connection.execute(f"SELECT * FROM ({query}) ORDER BY number", values)  # noqa: S608
        ) as rows:
            for number, body in rows:
                yield Entry(int(number), self._decoded(int(number), body))

    def _decoded(self, number: int, body: bytes) -> Event:
        try:
            return _EVENTS.decode(body)
        except msgspec.MsgspecError as error:
            raise TiermeshError(
                f"event {number} of the journal {self._path} cannot be read",
                why=str(error),
                fix="Run the newer coordinator that wrote it, or name another --state",
                number=number,
            ) from None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _check_version(connection, path)
        with connection:
            connection.executescript(_TABLES)
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),)
            )
        path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if tables and "meta" not in tables:
        raise TiermeshError(
            f"{path} is not a journal",
            why="it is another program's database",
            fix="Name another --state",
        )
    if not tables:
        return
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    found = int(row[0]) if row else SCHEMA_VERSION
    if found > SCHEMA_VERSION:
        raise TiermeshError(
            f"the journal {path} is of a newer version",
            why=f"its schema is {found}, and this coordinator knows {SCHEMA_VERSION}",
            fix="Run the newer coordinator, or name another folder with --state",
            found=found,
            known=SCHEMA_VERSION,
        )


def _take_lock(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise TiermeshError(
            f"another coordinator uses {folder}",
            why=f"process {holder or 'unknown'} holds its lock",
            fix="Wait until it is done, stop it, or name another folder with --state",
            pid=holder,
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn what SQLite and the file system say into one clear error."""
    try:
        yield
    except sqlite3.OperationalError as error:
        _explain_operational(path, error)
    except sqlite3.DatabaseError as error:
        raise TiermeshError(
            f"the journal {path} is damaged",
            why=str(error),
            fix="Move the file away and discover the devices again: they keep what they serve",
            path=str(path),
        ) from None
    except OSError as error:
        failure = StorageFull if error.errno == errno.ENOSPC else TiermeshError
        raise failure(
            f"the state folder {path.parent} cannot be used",
            why=error.strerror or str(error),
            fix="Name another --state",
        ) from None


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < PAGE_BYTES
    return False


def _explain_operational(path: Path, error: sqlite3.OperationalError) -> NoReturn:
    # Where the disk is full, SQLite may also be unable to enlarge its index of what was written (SQLITE_IOERR_SHMSIZE).
    if error.sqlite_errorcode == sqlite3.SQLITE_FULL or _is_full(path.parent):
        raise StorageFull(
            f"the journal {path} cannot be written",
            why="the disk is full",
            fix="Free some space; nothing that was written before is lost",
        ) from None
    raise TiermeshError(
        f"the journal {path} cannot be used", why=str(error), fix="Check the folder's permissions"
    ) from None
