"""The journal: what is written is there again, and every way it can be broken says so."""

import os
import shutil
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from coordinator.fleet.events import DeviceLost, OperatorNoted
from coordinator.journal import store as journal_module
from coordinator.journal.store import FILE_NAME, Journal
from tiermesh.errors import StorageFull, TiermeshError


@pytest.fixture
def journal(tmp_path):
    opened = Journal.open(tmp_path)
    yield opened
    opened.close()


def note(text, at=1.0, who="ada"):
    return OperatorNoted(at=at, who=who, text=text)


def test_the_events_give_the_state_after_a_restart(tmp_path, fleet, made):
    fleet(made.described("a"), made.described("b"))
    fleet(DeviceLost(at=3.0, who="t", device="b", why="silent"))
    first = Journal.open(tmp_path)
    first.append(fleet.happened)
    first.close()
    second = Journal.open(tmp_path)
    assert second.load() == fleet.now
    second.close()


def test_a_snapshot_and_the_events_after_it_give_the_same_state(tmp_path, fleet, made):
    journal = Journal.open(tmp_path)
    journal.append([fleet(made.described("a")) and fleet.happened[-1]])
    journal.save_snapshot(fleet.now, force=True)
    fleet(made.described("b"))
    journal.append(fleet.happened[-1:])
    assert journal.load() == fleet.now
    assert len(journal.events()) == 2, "a snapshot deletes nothing"
    journal.close()


def test_a_snapshot_of_another_version_is_not_used(tmp_path, fleet, made, monkeypatch):
    journal = Journal.open(tmp_path)
    fleet(made.described("a"))
    journal.append(fleet.happened)
    journal.save_snapshot(fleet.now, force=True)
    monkeypatch.setattr(journal_module, "STATE_VERSION", journal_module.STATE_VERSION + 1)
    assert journal._snapshot() == (0, None)
    assert journal.load() == fleet.now
    journal.close()


def test_a_plan_and_its_catalogue_survive(tmp_path, fleet, made):
    from coordinator.fleet.events import PlanMade, RolloutStarted
    from coordinator.fleet.state import Catalogue

    catalogue = Catalogue(
        variants={"detect": {"v3": made.variant()}}, bundles={"glue": made.bundle("glue")}
    )
    plan = made.plan()
    fleet(
        PlanMade(
            at=1.0, who="ada", workflow="read", plan=plan, inputs={"device a": {"price": 0.1}}
        ),
        RolloutStarted(
            at=1.0,
            who="ada",
            workflow="read",
            generation=1,
            plan=plan.digest,
            workflow_digest="w",
            run="r",
            purpose="apply",
            catalogue=catalogue,
            devices=["a"],
        ),
    )
    journal = Journal.open(tmp_path)
    journal.append(fleet.happened)
    journal.close()
    reader = Journal.read_only(tmp_path)
    assert reader.load() == fleet.now
    reader.close()


def test_events_are_filtered_by_kind_subject_and_number(journal, made):
    journal.append([note("one"), made.described("a"), made.described("b"), note("two")])
    assert [e.number for e in journal.events()] == [1, 2, 3, 4]
    assert [e.event.text for e in journal.events(kinds=["operator-noted"])] == ["one", "two"]
    assert [e.event.device for e in journal.events(about="b")] == ["b"]
    assert [e.number for e in journal.events(after=2)] == [3, 4]
    assert [e.number for e in journal.events(limit=2)] == [3, 4]
    assert journal.events(limit=1)[0].event.who == "ada"


def test_events_are_written_all_or_none(journal):
    class Unwritable:
        at, who, kind, subject = 1.0, "x", "x", "x"

    with pytest.raises((TypeError, TiermeshError)):
        journal.append([note("one"), Unwritable()])
    assert journal.events() == []


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path, journal):
    journal.append([note("one")])
    with pytest.raises(TiermeshError, match="another coordinator") as caught:
        Journal.open(tmp_path)
    assert str(os.getpid()) in caught.value.why
    reader = Journal.read_only(tmp_path)
    journal.append([note("two")])
    assert len(reader.events()) == 2
    reader.close()


def test_the_lock_ends_with_its_process(tmp_path):
    script = (
        "import os, sys, pathlib; from coordinator.journal.store import Journal\n"
        "Journal.open(pathlib.Path(sys.argv[1])); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    Journal.open(tmp_path).close()


def test_no_journal_to_read_says_so(tmp_path):
    with pytest.raises(TiermeshError, match="no journal"):
        Journal.read_only(tmp_path)


def test_a_file_that_is_no_database_is_called_damaged(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all, but long enough to be read" * 50)
    with pytest.raises(TiermeshError, match="damaged") as caught:
        Journal.open(tmp_path)
    assert "Move the file away" in caught.value.fix


def test_a_page_that_was_overwritten_is_called_damaged(tmp_path):
    journal = Journal.open(tmp_path)
    journal.append([note("x" * 2_000, at=i) for i in range(50)])
    journal.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[8_192:40_960] = b"\xff" * (40_960 - 8_192)
    path.write_bytes(data)
    damaged = Journal.open(tmp_path)
    with pytest.raises(TiermeshError, match=r"damaged|cannot be read"):
        damaged.load()
    damaged.close()


def test_a_newer_schema_is_refused(tmp_path):
    Journal.open(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    connection.close()
    with pytest.raises(TiermeshError, match="newer version"):
        Journal.open(tmp_path)
    with pytest.raises(TiermeshError, match="newer version"):
        Journal.read_only(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    connection.close()
    Journal.open(tmp_path).close()


def test_an_event_of_a_newer_version_is_named(journal):
    journal.append([note("one")])
    with journal._connection:
        journal._connection.execute(
            "UPDATE events SET body = ?", (b'{"event":"device-teleported"}',)
        )
    with pytest.raises(TiermeshError, match="event 1 of the journal"):
        journal.load()


def test_a_full_disk_is_said_and_loses_nothing(journal):
    journal.append([note("kept")])
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull, match="journal"):
        journal.append([note("x" * 100_000)])
    assert [e.event.text for e in journal.events()] == ["kept"]


def test_a_disk_on_which_sqlite_cannot_even_begin_is_called_full(journal, monkeypatch):
    journal._connection.close()
    monkeypatch.setattr(journal, "_connection", Failing())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StorageFull, match="the disk is full"):
        journal.append([note("x")])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(TiermeshError, match="disk I/O error") as caught:
        journal.append([note("x")])
    assert not isinstance(caught.value, StorageFull)


class Failing:
    """A connection as on a disk that fails."""

    def __enter__(self):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    def __exit__(self, *_):
        raise AssertionError("never entered")

    def close(self):
        pass


def test_another_programs_database_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(TiermeshError, match="not a journal"):
        Journal.open(tmp_path)


def test_only_the_owner_may_read_it(tmp_path):
    Journal.open(tmp_path / "new").close()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / FILE_NAME).stat().st_mode & 0o077 == 0
