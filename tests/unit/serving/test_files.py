"""What sources and sinks keep on disk survives a kill, and stays where it belongs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sqlite3
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

from agent.serving.clock import Anchor
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.results import (
    RecordedSink,
    ResultFile,
    ResultLine,
    line_of,
    read_outcomes,
)
from agent.serving.endpoint_io.sink_writer import SinkWriter
from agent.serving.endpoint_io.spool import Spool, remove_if_empty
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.request import FormerSink, PossibleDuplicate, Request
from agent.serving.endpoints.sink import OutcomeCounts, SinkAction, SinkState
from agent.serving.instructions import Write
from tiermesh import limits
from tiermesh.documents.assignment import SourceSpec
from tiermesh.errors import InvalidDocument, LimitExceeded, StorageFull, TiermeshError
from tiermesh.frames import Frame, Kind, pack

IDS = [f"{i:032x}" for i in range(10)]


@contextlib.contextmanager
def results(path: Path) -> Generator[ResultFile]:
    with contextlib.closing(ResultFile(path)) as file:
        yield file


def frame(request: str, kind: Kind = Kind.DATA, **values: object) -> Frame:
    return Frame(kind, 2, 1, request, 3, "o", "out", ("d",), 5.0, 65.0, pack(values), "why")


def request(index: int) -> Request:
    return Request(index, IDS[index], f"{index}.jpg", 1.5, 61.5, {"x"})


def test_a_spool_goes_on_where_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "deep" / "s.db")
    spool.accept([request(0), request(1), request(2)])
    spool.forget([request(1)])
    # Not closed: the worker is killed.
    requests, counts = Spool(tmp_path / "deep" / "s.db").load()
    assert [(r.index, r.id, r.item, r.accepted_at, r.deadline) for r in requests] == [
        (0, IDS[0], "0.jpg", 1.5, 61.5),
        (2, IDS[2], "2.jpg", 1.5, 61.5),
    ]
    assert (counts.accepted, counts.confirmed) == (3, 1)


def test_a_spool_keeps_how_requests_ended_and_when_they_were_due(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path, Anchor("boot 1", 0.0))
    assert spool.totals(7.0) == ({}, 7.0)
    ended = [request(0), request(1), request(2)]
    ended[0].ended, ended[0].counted = RequestOutcome.ERROR, ("p95<=3/ended", "p95<=3/failed")
    ended[1].ended, ended[1].counted = RequestOutcome.RESULT, ("p95<=3/ended", "p95<=3/p95")
    ended[2].offered_at = 0.5
    spool.accept(ended)
    spool.forget(ended[:2])
    # Not closed: the worker is killed, and the clock is set.
    again = Spool(path, Anchor("boot 1", 100.0))
    ((left,), counts) = again.load()
    assert (left.offered_at, left.accepted_at) == (100.5, 101.5)
    assert (counts.accepted, counts.results, counts.errors, counts.filtered) == (3, 1, 1, 0)
    totals, began = again.totals(200.0)
    assert began == 107.0
    assert totals["p95<=3/ended"] == 2
    assert totals["p95<=3/p95"] == 1


FORMER_SPOOL = """
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, file TEXT NOT NULL, accepted_at REAL NOT NULL, deadline REAL NOT NULL
);
CREATE TABLE source (next INTEGER NOT NULL);
CREATE TABLE sinks (sink TEXT NOT NULL, device TEXT NOT NULL, below INTEGER);
CREATE TABLE addresses (device TEXT PRIMARY KEY, address TEXT NOT NULL);
CREATE TABLE strays (id TEXT NOT NULL, sink TEXT NOT NULL, device TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE clock (boot TEXT NOT NULL, zero REAL NOT NULL);
CREATE TABLE offered (number INTEGER PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE began (at REAL NOT NULL);
INSERT INTO source VALUES (9);
INSERT INTO requests VALUES (7, 'ab', 'in/7.jpg', 1.5, 61.5), (8, 'cd', 'in/8.jpg', 2.5, 62.5);
INSERT INTO offered VALUES (8, 2.25);
INSERT INTO totals VALUES ('result', 6), ('error', 1);
INSERT INTO strays VALUES ('ef', 'out', 'a', 60.0);
INSERT INTO sinks VALUES ('out', 'b', NULL), ('out', 'a', 8);
"""
"""A spool as agents wrote it before spools had a version."""


def test_a_spool_of_the_former_version_goes_on_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(FORMER_SPOOL)
    for _ in range(2):
        with contextlib.closing(Spool(path)) as spool:
            requests, counts = spool.load()
            assert [(r.index, r.id, r.item, r.deadline, r.offered_at) for r in requests] == [
                (7, "ab", "in/7.jpg", 61.5, None),
                (8, "cd", "in/8.jpg", 62.5, 2.25),
            ]
            assert not any(r.is_kept for r in requests)
            assert (counts.accepted, counts.results, counts.errors) == (9, 6, 1)
            assert spool.duplicates() == [PossibleDuplicate("ef", "out", "a", 60.0)]
            assert spool.sinks() == ({"out": "b"}, [FormerSink("out", "a", 8)])
            assert spool.spec() is None
    with contextlib.closing(Spool(path)) as spool:
        more = request(9)
        more.payload = pack({"text": "x"})
        spool.accept([more])
        assert [r.is_kept for r in spool.load()[0]] == [False, False, True]


def test_a_spool_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Spool(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(TiermeshError, match=r"written by a newer agent.*version 7"):
        Spool(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_spool_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"anything but a database" * 100)
    before = path.read_bytes()
    with pytest.raises(TiermeshError, match=r"cannot be read.*Move .* away"):
        Spool(path)
    assert path.read_bytes() == before


def test_a_spool_keeps_the_payload_of_what_was_offered_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    values = {"text": "t", "blob": b"b" * 5_000, "array": np.arange(6).reshape(2, 3), "n": [1, 2.5]}
    offered = request(0)
    offered.payload = pack(values)
    spool = Spool(path)
    spool.accept([offered, request(1)])
    spool.keep_spec(SourceSpec(kind="jsonl", path="in"))
    # Not closed: the worker is killed.
    again = Spool(path)
    assert again.payload(0) == offered.payload
    assert [r.is_kept for r in again.load()[0]] == [True, False]
    assert again.spec() == SourceSpec(kind="jsonl", path="in")
    with pytest.raises(TiermeshError, match="no payload of request 1"):
        again.payload(1)


def test_the_nth_item_of_a_run_stays_the_nth_whatever_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    assert Spool(path).merge_items(["b", "d", "e"]) == ["b", "d", "e"]
    # Not closed: the worker is killed.
    assert Spool(path).merge_items(["a", "c", "d", "e"]) == ["b", "d", "e", "a", "c"]
    with contextlib.closing(Spool(path)) as spool:
        assert spool.merge_items([]) == ["b", "d", "e", "a", "c"]
        assert spool.merge_items(["c", "b", "d", "e", "a"]) == ["b", "d", "e", "a", "c"]


def test_an_item_that_is_listed_several_times_is_several_items(tmp_path: Path) -> None:
    with contextlib.closing(Spool(tmp_path / "s.db")) as spool:
        assert spool.merge_items(["a", "b", "a"]) == ["a", "b", "a"]
        assert spool.merge_items(["a", "a", "a", "b"]) == ["a", "b", "a", "a"]


def test_a_spool_from_before_items_were_kept_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with contextlib.closing(Spool(path)) as spool:
        spool.accept([request(0), request(1)])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE items; PRAGMA user_version = 1")
    for _ in range(2):
        with contextlib.closing(Spool(path)) as spool:
            assert spool.merge_items(["0.jpg", "1.jpg"]) == ["0.jpg", "1.jpg"]
            assert [r.index for r in spool.load()[0]] == [0, 1]


def test_items_that_cannot_be_kept_are_said(tmp_path: Path) -> None:
    with contextlib.closing(Spool(tmp_path / "s.db")) as spool:
        spool._db.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageFull, match="the order of its items"):
            spool.merge_items(["a"])


def test_a_clock_that_was_set_between_two_workers_moves_no_deadline(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Spool(path, Anchor("boot 1", 100.0)).accept([request(0)])
    for clock, deadline in [
        (Anchor("boot 1", 3_700.0), 61.5 + 3_600.0),
        (Anchor("boot 1", 40.0), 61.5 - 60.0),
        (Anchor("boot 2", 7.0), 61.5 - 60.0),
        (Anchor("", 9.0), 61.5 - 60.0),
        (Anchor("", 900.0), 61.5 - 60.0),
    ]:
        spool = Spool(path, clock)
        ((kept,), _) = spool.load()
        assert (kept.deadline, kept.deadline - kept.accepted_at) == (deadline, 60.0)
        spool.close()


def test_only_a_spool_without_requests_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.accept([request(0)])
    assert not remove_if_empty(path)
    spool.forget([request(0)])
    spool.close()
    assert remove_if_empty(path)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_knows_where_the_sinks_are_and_were(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    assert spool.sinks() == ({}, [])
    spool.keep_sinks({"out": "a"}, [])
    spool.keep_sinks({"out": "b"}, [FormerSink("out", "a", 7)])
    assert Spool(tmp_path / "s.db").sinks() == ({"out": "b"}, [FormerSink("out", "a", 7)])


def test_a_spool_keeps_what_may_count_twice_after_the_request_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    spool.keep_sinks({"out": "b"}, [], {"b": "127.0.0.1:9"})
    duplicate = PossibleDuplicate(request(0).id, "out", "a", 60.0)
    ended = request(0)
    ended.duplicates.append(duplicate)
    spool.accept([ended])
    spool.forget([ended])
    spool.close()
    assert not remove_if_empty(path)
    again = Spool(path)
    assert (again.duplicates(), again.addresses()) == ([duplicate], {"b": "127.0.0.1:9"})
    again.settle(duplicate)
    again.close()
    assert remove_if_empty(path)


def test_lines_that_do_not_count_are_taken_out_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with results(path) as file:
        file.remembered("r")
        file.append([ResultLine(f"{i:032x}", "result", run="r") for i in range(4)])
        wanted = [f"{1:032x}", f"{3:032x}", f"{9:032x}"]
        assert file.drop(wanted, "r") == dict.fromkeys(wanted[:2], Kind.DATA)
        file.append([ResultLine(f"{4:032x}", "result", run="r")])
    assert list(read_outcomes(path)) == [f"{i:032x}" for i in (0, 2, 4)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_sink_refuses_what_has_ended_elsewhere() -> None:
    sink = SinkState("r")
    sink.refuse("0" * 32)
    assert sink.arrive(frame("0" * 32)) is SinkAction.CONFIRM
    assert not sink.has_written("0" * 32)
    assert sink.arrive(frame("1" * 32)) is SinkAction.WRITE
    sink.written("1" * 32, Kind.DATA, "r")
    sink.dropped("1" * 32, Kind.DATA)
    assert (sink.counts.results, sink.has_written("1" * 32)) == (0, False)


def test_a_spool_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    other = Spool(tmp_path / "s.db")
    other._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageFull, match="source cannot write"):
        other.accept([request(0)])
    spool.accept([request(0)])


def test_a_sinks_file_is_its_memory(tmp_path: Path) -> None:
    with results(tmp_path / "out" / "r.jsonl") as file:
        assert file.remembered("run")[0] == {}
        file.append([line_of(frame(IDS[0], n=1), "run", 9.0)])
        file.append([line_of(frame(IDS[1], Kind.ERROR), "run", 9.0)])
        file.append([line_of(frame(IDS[2], Kind.FILTERED), "earlier", 9.0)])
    with results(tmp_path / "out" / "r.jsonl") as file:
        ids, endings = file.remembered("run")
    assert ids == dict(zip(IDS, (Kind.DATA, Kind.ERROR, Kind.FILTERED), strict=False))
    assert (endings.results, endings.errors, endings.filtered) == (1, 1, 0)


def test_a_sink_that_is_elsewhere_now_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with results(path) as file:
        file.remembered("run")
        file.append([line_of(frame(IDS[0], n=1), "run", 9.0)])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "not hex", "outcome": "result"}\n' + whole[:10])
    before = path.read_bytes()
    assert list(read_outcomes(path)) == IDS[:1]
    assert path.read_bytes() == before, "somebody else may be writing it"


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with results(path) as file:
        file.remembered("run")
        file.append([line_of(frame(IDS[0]), "run", 9.0)])
    with path.open("ab") as torn:
        torn.write(b'{"id":"' + IDS[1].encode()[:9])
    with results(path) as file:
        assert list(file.remembered("run")[0]) == [IDS[0]]
        file.append([line_of(frame(IDS[2]), "run", 9.0)])
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()] == [IDS[0], IDS[2]]


def test_lines_that_are_no_results_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'# a note\n{"id":"zz","outcome":"result"}\n')
    with results(path) as file:
        assert file.remembered("run")[0] == {}
        file.append([line_of(frame(IDS[0]), "run", 9.0)])
    assert path.read_bytes().startswith(b"# a note\n")


def test_a_line_says_what_people_need_and_sums_up_the_rest() -> None:
    values = {"name": "a.jpg", "image": b"x" * 5_000, "t": np.zeros((2, 3)), "l": [b"ab", {"k": 1}]}
    line = line_of(frame(IDS[0], **values), "run", 9.25)
    assert line == ResultLine(
        id=IDS[0], outcome="result", run="run", name="a.jpg",
        payload={
            "name": "a.jpg",
            "image": {"bytes": 5_000},
            "t": {"tensor": "<f8", "shape": (2, 3)},
            "l": [{"bytes": 2}, {"k": 1}],
        },
        error="why", accepted_at=5.0, finished_at=9.25, attempts=3, lane=1, generation=2,
    )  # fmt: skip


def test_a_full_disk_delays_results_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"
    file = ResultFile(path)
    file.remembered("run")
    full = [True]
    real = file._write

    def write(data: bytes) -> str | None:
        if full[0]:
            file._file.write(data[:7])
            return "No space left on device"
        return real(data)

    monkeypatch.setattr(file, "_write", write)
    monkeypatch.setattr("agent.serving.endpoint_io.sink_writer._RETRY_S", 0.01)
    troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[list[Write]] = queue.SimpleQueue()
    writer = SinkWriter(
        RecordedSink(file, with_payload=True),
        clock=lambda: 1.0,
        done=done.put,
        trouble=troubles.put,
        failed=never,
    )
    writer.put(Write("out", "run", frame(IDS[0])))
    assert "No space left" in troubles.get(timeout=5)
    assert path.read_bytes() == b""
    full[0] = False
    assert [one.frame.request_id for one in done.get(timeout=5)] == [IDS[0]]
    writer.close()
    assert len(path.read_bytes().splitlines()) == 1


def never(error: BaseException) -> None:
    raise AssertionError("the thread of a sink has failed") from error


class PickySink:
    """A sink whose kind has a fault: it raises for what it is told to."""

    def __init__(self, is_broken: Callable[[Write], bool]) -> None:
        self.lines: list[Write] = []
        self.is_broken = is_broken

    def recover(self, run: str) -> tuple[dict[str, Kind], OutcomeCounts]:
        return {}, OutcomeCounts()

    def write(self, ends: Sequence[Write], now: float) -> None:
        if any(map(self.is_broken, ends)):
            raise UnicodeError("nobody foresaw \ud800 this")
        self.lines += ends

    def drop(self, ids: Collection[str], run: str) -> dict[str, Kind]:
        raise KeyError("no such thing")

    def close(self) -> None:
        pass


def picky(
    is_broken: Callable[[Write], bool], failed: Callable[[BaseException], None] = never
) -> tuple[PickySink, SinkWriter, queue.SimpleQueue[Sequence[Write]], list[str]]:
    sink, troubles = PickySink(is_broken), list[str]()
    done: queue.SimpleQueue[Sequence[Write]] = queue.SimpleQueue()
    writer = SinkWriter(
        sink, clock=lambda: 1.0, done=done.put, trouble=troubles.append, failed=failed
    )
    return sink, writer, done, troubles


@pytest.fixture
def unlogged(caplog: pytest.LogCaptureFixture) -> None:
    """A report of a test travels as UTF-8, and the error that is logged here cannot."""
    caplog.set_level(logging.CRITICAL, logger="agent.serving.endpoint_io.sink_writer")


@pytest.mark.usefixtures("unlogged")
def test_an_end_that_can_never_be_written_becomes_an_error_and_the_others_are_written() -> None:
    sink, writer, _, _ = picky(
        lambda w: w.frame.request_id == IDS[1] and w.frame.kind is not Kind.ERROR
    )
    for one in IDS[:3]:
        writer.put(Write("out", "run", frame(one)))
    writer.close()
    kinds = {one.frame.request_id: one.frame.kind for one in sink.lines}
    assert kinds == {IDS[0]: Kind.DATA, IDS[1]: Kind.ERROR, IDS[2]: Kind.DATA}
    (error,) = [one.frame.error for one in sink.lines if one.frame.kind is Kind.ERROR]
    assert error == r"out: its result cannot be written: UnicodeError: nobody foresaw \ud800 this"


@pytest.mark.usefixtures("unlogged")
def test_results_that_cannot_be_taken_back_do_not_end_the_thread_of_a_sink() -> None:
    _, writer, done, troubles = picky(lambda _: False)
    writer.drop([IDS[0]], "run", lambda kinds: None)
    writer.put(Write("out", "run", frame(IDS[1])))
    assert [one.frame.request_id for one in done.get(timeout=5)] == [IDS[1]]
    writer.close()
    assert troubles == ["KeyError: 'no such thing'"]


@pytest.mark.usefixtures("unlogged")
def test_a_sink_that_can_write_nothing_at_all_says_that_its_thread_has_failed() -> None:
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    _, writer, done, _ = picky(lambda _: True, failures.put)
    writer.put(Write("out", "run", frame(IDS[0])))
    assert isinstance(failures.get(timeout=5), UnicodeError)
    writer.close()
    assert done.empty()


def test_a_sink_takes_each_request_once() -> None:
    sink = SinkState("run", {IDS[0]: Kind.ERROR}, kept=2)
    assert sink.arrive(frame(IDS[0])) is SinkAction.CONFIRM
    assert sink.ended(IDS[0]) is Kind.ERROR
    assert sink.arrive(frame(IDS[1])) is SinkAction.WRITE
    assert sink.arrive(frame(IDS[1])) is SinkAction.WAIT
    sink.written(IDS[1], Kind.DATA, "run")
    assert sink.arrive(frame(IDS[1], Kind.ERROR)) is SinkAction.CONFIRM
    assert sink.counts.duplicates == 3
    for one in IDS[2:4]:
        assert sink.arrive(frame(one)) is SinkAction.WRITE
        sink.written(one, Kind.ERROR, "run")
    assert sink.arrive(frame(IDS[0])) is SinkAction.WRITE, "its memory is bounded"
    assert (sink.counts.results, sink.counts.errors) == (1, 2)
    sink.begin("another run")
    assert (sink.counts.results, sink.counts.errors) == (0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "in").mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", ".hidden"):
        (data / "in" / name).write_bytes(name.encode())
    (data / "single.jpg").write_bytes(b"single")
    (tmp_path / "secret").write_bytes(b"secret")
    (data / "in" / "link.jpg").symlink_to(tmp_path / "secret")
    (data / "up").symlink_to(tmp_path)
    return data


def test_a_source_offers_the_files_of_folders_by_name(folder: Path) -> None:
    data = DataFolder(folder)
    assert data.files(["single.jpg", "in"]) == [
        "single.jpg", "in/a.jpg", "in/b.jpg", "in/link.jpg",
    ]  # fmt: skip
    assert data.read("in/a.jpg") == b"a.jpg"
    with pytest.raises(TiermeshError, match="there is no nowhere"):
        data.files("nowhere")


@pytest.mark.parametrize(
    "name", ["in/link.jpg", "up/secret", "../secret", "/etc/passwd", "in/../../secret"]
)
def test_nothing_outside_the_data_folder_is_read(folder: Path, name: str) -> None:
    with pytest.raises(TiermeshError, match="outside the data folder"):
        DataFolder(folder).read(name)


def test_a_name_that_is_not_utf_8_is_offered_and_fails_in_words(folder: Path) -> None:
    (folder / "in" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"latin-1")
    (folder / "in" / "caf\u00e9.jpg").write_bytes(b"utf-8")
    data = DataFolder(folder)
    names = [name for name in data.files("in") if "caf" in name]
    assert names == [r"in/caf\xe9.jpg", "in/caf\u00e9.jpg"]
    pack({"name": names[0]})
    with pytest.raises(TiermeshError, match="its name is not UTF-8"):
        data.read(names[0])
    assert data.read(names[1]) == b"utf-8"


def test_a_name_that_only_looks_like_one_that_is_not_utf_8_is_read(folder: Path) -> None:
    (folder / "in" / r"caf\xe9.jpg").write_bytes(b"a backslash")
    data = DataFolder(folder)
    assert data.read(r"in/caf\xe9.jpg") == b"a backslash"
    with pytest.raises(TiermeshError, match="No such file"):
        data.read(r"in/gone\xe9.jpg")


def test_links_in_a_loop_are_told_apart_from_what_is_not_there(folder: Path) -> None:
    (folder / "one").symlink_to(folder / "two")
    (folder / "two").symlink_to(folder / "one")
    for name in ("one", "one/a.jpg"):
        for use in (DataFolder(folder).files, DataFolder(folder).read, DataFolder(folder).path):
            with pytest.raises(TiermeshError, match="in a loop"):
                use(name)


@pytest.mark.parametrize("name", ["in/a\0b", "n" * 300, "/".join(["deep"] * 2_000)])
def test_what_no_file_can_be_called_is_said_to_be_no_path(folder: Path, name: str) -> None:
    for use in (DataFolder(folder).files, DataFolder(folder).read, DataFolder(folder).path):
        with pytest.raises(TiermeshError, match="is not a path"):
            use(name)


def test_a_file_larger_than_a_frame_is_refused(folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(limits.FRAME_BYTES)
    with pytest.raises(LimitExceeded):
        DataFolder(folder).read("huge")


def test_a_trace_is_read_line_by_line(folder: Path) -> None:
    (folder / "trace").write_text("0.5\n1.25\n\n")
    assert DataFolder(folder).times("trace") == [0.0, 0.75]
    (folder / "trace").write_text("0.5\nsoon\n")
    with pytest.raises(InvalidDocument, match="line 2 of trace is 'soon'"):
        DataFolder(folder).times("trace")


def test_a_trace_in_unix_seconds_begins_at_once(folder: Path) -> None:
    (folder / "trace").write_bytes(b"\xef\xbb\xbf# recorded\r\n1700000000\r\n1700000000.5\r\n")
    assert DataFolder(folder).times("trace") == [0.0, 0.5]


@pytest.mark.parametrize("time", ["nan", "inf", "-inf", "1e999"])
def test_a_trace_with_a_time_that_never_comes_is_refused_with_its_line(
    folder: Path, time: str
) -> None:
    (folder / "trace").write_text(f"0.5\n{time}\n2\n")
    with pytest.raises(InvalidDocument, match="line 2 of trace is") as caught:
        DataFolder(folder).times("trace")
    assert caught.value.fields["line"] == 2
