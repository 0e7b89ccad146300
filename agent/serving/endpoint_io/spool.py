"""A source's spool on disk: what it has accepted and not yet seen confirmed, so that a killed worker goes on.

The index of the next request is kept with the requests, in one transaction: after a power cut both are of one moment,
and what is then accepted again gets the same ids as before, which the sinks know.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agent.serving.aggregates.snapshot import flat, unflat
from agent.serving.clock import Anchor
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.request import FormerSink, PossibleDuplicate, Request, SourceCounts
from tiermesh.documents.assignment import SourceSpec
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Packed

VERSION: Final = 2
"""Of the tables below, in the file's `user_version`. Files from before there was one have 0; see `_MIGRATIONS`."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, item TEXT NOT NULL, accepted_at REAL NOT NULL,
    deadline REAL NOT NULL, payload BLOB
);
CREATE TABLE IF NOT EXISTS source (next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sinks (sink TEXT NOT NULL, device TEXT NOT NULL, below INTEGER);
INSERT INTO source SELECT 0 WHERE NOT EXISTS (SELECT * FROM source);
CREATE TABLE IF NOT EXISTS addresses (device TEXT PRIMARY KEY, address TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS strays (id TEXT NOT NULL, sink TEXT NOT NULL, device TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS clock (boot TEXT NOT NULL, zero REAL NOT NULL);
CREATE TABLE IF NOT EXISTS offered (number INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS began (at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS spec (json BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    position INTEGER PRIMARY KEY, name TEXT NOT NULL, copy INTEGER NOT NULL, UNIQUE (name, copy)
);
"""

_MIGRATIONS: Final = {
    # All requests were files of the data folder, and a table of them need not be there yet.
    0: (
        "ALTER TABLE requests RENAME COLUMN file TO item",
        "ALTER TABLE requests ADD COLUMN payload BLOB",
    ),
    # What the n-th item is was not kept: it is as the source lists them at the first start from now on.
    1: (),
}
"""By the version that a file has: what makes it the next one."""


class Spool:
    """One source's file. Methods block; one thread at a time.

    Of requests that the source makes by itself only the item is kept, such as the name of a file, not what is in it; of
    those that were offered from outside the payload.

    Times are by the clock of the worker that wrote them. Where the machine's clock was set since, in the same boot,
    they are moved to that of `anchor`: a deadline stays as far away as it was.

    Raises:
        TiermeshError: it cannot be opened, is no spool, or was written by a newer agent; it is left as it is.
    """

    def __init__(self, path: Path, anchor: Anchor | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open(path)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise TiermeshError(f"cannot open the spool {path.name}", why=str(error)) from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise TiermeshError(
                f"the spool {path.name} of a source cannot be read",
                why=str(error),
                fix=f"Move {path} away: the requests in it are given up then",
            ) from None
        except TiermeshError:
            self._db.close()
            raise
        if anchor is not None:
            self._move_to(anchor)

    def _open(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise TiermeshError(
                f"the spool {path.name} of a source was written by a newer agent",
                why=f"it has version {version}, and this agent knows {VERSION}",
                fix="Start the newer agent again; the requests in the spool are untouched",
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version < VERSION:
            self._migrate(version)
        self._db.executescript(_SCHEMA)

    def _migrate(self, version: int) -> None:
        """Make a file of a former version one of this, all or nothing."""
        known = "SELECT * FROM sqlite_master WHERE type = 'table' AND name = 'requests'"
        is_new = self._db.execute(known).fetchone() is None
        with self._transaction():
            for step in range(version, VERSION):
                for statement in () if is_new else _MIGRATIONS[step]:
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _move_to(self, anchor: Anchor) -> None:
        with self._transaction():
            written = self._db.execute("SELECT boot, zero FROM clock").fetchone()
            if written is not None and written[0] == anchor.boot != "":
                moved = anchor.zero - written[1]
                self._db.execute(
                    "UPDATE requests SET accepted_at = accepted_at + ?, deadline = deadline + ?",
                    (moved, moved),
                )
                self._db.execute("UPDATE strays SET until = until + ?", (moved,))
                self._db.execute("UPDATE offered SET at = at + ?", (moved,))
                self._db.execute("UPDATE began SET at = at + ?", (moved,))
            self._db.execute("DELETE FROM clock")
            self._db.execute("INSERT INTO clock VALUES (?, ?)", anchor)

    def load(self) -> tuple[list[Request], SourceCounts]:
        """The requests in flight when the worker ended, and how many there were in all."""
        rows = self._db.execute(
            "SELECT number, id, item, accepted_at, deadline, at, payload IS NOT NULL"
            " FROM requests LEFT JOIN offered USING (number) ORDER BY number"
        )
        # Whether the first attempt was sent is not known, so the next one counts as a repetition.
        requests = [
            Request(
                index,
                request,
                item,
                accepted_at,
                deadline,
                set(),
                attempt=1,
                offered_at=offered_at,
                is_kept=bool(is_kept),
            )
            for index, request, item, accepted_at, deadline, offered_at, is_kept in rows
        ]
        (accepted,) = self._db.execute("SELECT next FROM source").fetchone()
        totals = self._totals()
        return requests, SourceCounts(
            accepted=accepted,
            confirmed=accepted - len(requests),
            errors=totals.get(RequestOutcome.ERROR, 0),
            filtered=totals.get(RequestOutcome.FILTERED, 0),
        )

    def totals(self, now: float) -> tuple[dict[str, int], float]:
        """What the requests that ended added, by name, and when this file was begun: `now` for a new one."""
        self._db.execute(
            "INSERT INTO began SELECT ? WHERE NOT EXISTS (SELECT * FROM began)", (now,)
        )
        (began,) = self._db.execute("SELECT at FROM began").fetchone()
        return self._totals(), began

    def _totals(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, count FROM totals").fetchall())

    def accept(self, requests: Iterable[Request]) -> None:
        """Keep requests, in order, and the payloads of those that were offered from outside.

        Raises:
            StorageFull: they cannot be kept.
        """
        requests = list(requests)
        rows = [
            (
                r.index,
                r.id,
                r.item,
                r.accepted_at,
                r.deadline,
                flat(r.payload) if r.payload is not None else None,
            )
            for r in requests
        ]
        offered = [(r.index, r.offered_at) for r in requests if r.offered_at is not None]
        try:
            with self._transaction():
                self._db.executemany(
                    "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?)", rows
                )
                self._db.executemany("INSERT OR REPLACE INTO offered VALUES (?, ?)", offered)
                self._db.execute("UPDATE source SET next = ?", (rows[-1][0] + 1,))
        except sqlite3.Error as error:
            raise StorageFull(
                "a source cannot write accepted requests to disk",
                why=str(error),
                fix="Free disk space on the device",
            ) from None

    def payload(self, index: int) -> Packed:
        """The payload of a request that was offered from outside.

        Raises:
            TiermeshError: it is not here, or cannot be read.
        """
        query = "SELECT payload FROM requests WHERE number = ?"
        row = self._db.execute(query, (index,)).fetchone()
        if row is None or row[0] is None:
            raise TiermeshError(f"the spool has no payload of request {index}")
        return unflat(row[0])

    def keep_spec(self, spec: SourceSpec) -> None:
        """Keep what the source is: requests that are left are read as by it, whatever a later run has."""
        with self._transaction():
            self._db.execute("DELETE FROM spec")
            self._db.execute("INSERT INTO spec VALUES (?)", (encode_json(spec),))

    def spec(self) -> SourceSpec | None:
        """What the source was when it was here last; None in a file of an agent that did not keep it."""
        row = self._db.execute("SELECT json FROM spec").fetchone()
        return decode_json(row[0], SourceSpec, "a source in a spool") if row is not None else None

    def merge_items(self, listing: Iterable[str]) -> list[str]:
        """The items of the run, in order: those of earlier listings, whether they are still there, then the new ones.

        So the n-th item stays the n-th. One that is listed several times is several items.

        Raises:
            StorageFull: they cannot be kept.
        """
        copies, rows = Counter[str](), list[tuple[str, int]]()
        for name in listing:
            rows.append((name, copies[name]))
            copies[name] += 1
        try:
            with self._transaction():
                self._db.executemany("INSERT OR IGNORE INTO items (name, copy) VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise StorageFull(
                "a source cannot keep the order of its items",
                why=str(error),
                fix="Free disk space on the device",
            ) from None
        return [name for (name,) in self._db.execute("SELECT name FROM items ORDER BY position")]

    def sinks(self) -> tuple[dict[str, str], list[FormerSink]]:
        """Where each sink was last, and where they had been before for requests that may be in flight."""
        rows = self._db.execute("SELECT sink, device, below FROM sinks").fetchall()
        current = {sink: device for sink, device, below in rows if below is None}
        return current, [FormerSink(*row) for row in rows if row[2] is not None]

    def addresses(self) -> dict[str, str]:
        """Where the devices on which sinks are or were take frames."""
        return dict(self._db.execute("SELECT device, address FROM addresses").fetchall())

    def duplicates(self) -> list[PossibleDuplicate]:
        """Requests that have ended, and may have ended twice."""
        rows = self._db.execute("SELECT id, sink, device, until FROM strays")
        return [PossibleDuplicate(*row) for row in rows]

    def settle(self, duplicate: PossibleDuplicate) -> None:
        """A request counts once now."""
        self._db.execute(
            "DELETE FROM strays WHERE id = ? AND sink = ? AND device = ?",
            (duplicate.request, duplicate.sink, duplicate.device),
        )

    def keep_sinks(
        self,
        current: Mapping[str, str],
        formers: Iterable[FormerSink],
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        """Keep where the sinks are and were, and where those devices take frames."""
        rows = [(sink, device, None) for sink, device in current.items()]
        with self._transaction():
            self._db.execute("DELETE FROM sinks")
            self._db.executemany(
                "INSERT OR REPLACE INTO addresses VALUES (?, ?)", (addresses or {}).items()
            )
            self._db.executemany(
                "INSERT INTO sinks VALUES (?, ?, ?)",
                [*rows, *((f.sink, f.device, f.below) for f in formers)],
            )

    def forget(self, requests: Iterable[Request]) -> None:
        """Requests have ended. Failing to forget costs a repetition after a restart, no more."""
        requests = list(requests)
        numbers = [(r.index,) for r in requests]
        totals = [
            (name,) for r in requests for name in (r.ended or RequestOutcome.RESULT, *r.counted)
        ]
        duplicates = [
            (s.request, s.sink, s.device, s.until) for r in requests for s in r.duplicates
        ]
        with self._transaction():
            self._db.executemany("INSERT INTO strays VALUES (?, ?, ?, ?)", duplicates)
            self._db.executemany("DELETE FROM requests WHERE number = ?", numbers)
            self._db.executemany("DELETE FROM offered WHERE number = ?", numbers)
            self._db.executemany(
                "INSERT INTO totals VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1",
                totals,
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("ROLLBACK" if kind is not None else "COMMIT")


def remove_if_empty(path: Path) -> bool:
    """Remove a spool without requests in flight; whether it was one."""
    spool = Spool(path)
    requests, _ = spool.load()
    duplicates = spool.duplicates()
    spool.close()
    if requests or duplicates:
        return False
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        file.unlink(missing_ok=True)
    return True
