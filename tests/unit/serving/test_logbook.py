"""The log of batches: what is in it, how large it gets, and that serving never waits for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.serving.batcher import Job, JobStep, Work
from agent.serving.instructions import StageFailed, StageOutput
from agent.serving.routing.generation import ReplicaQueue
from agent.serving.tuning.entries import BatchServed, Entry
from agent.serving.tuning.logbook import Logbook
from tests.unit.serving.offered import VARIANT
from tiermesh import ids
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.frames import EMPTY, Frame, Kind


def entry(number: int) -> Entry:
    return BatchServed(
        workflow="w", generation=1, replica="r", start=number, end=number + 1, size=1, service_s=1.0
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def queue() -> ReplicaQueue:
    spec = ReplicaSpec(id="r@d", stage="s", variant=VARIANT, batch_size=4)
    assignment = Assignment(
        workflow="w",
        generation=3,
        plan=ids.digest_bytes(b""),
        run="run",
        device="d",
        stages={"s": StageSpec(name="s", kind="model")},
        replicas=[spec],
        lanes=[],
        replica_devices={},
        peers={},
    )
    return ReplicaQueue(assignment, spec)


def work(number: int, arrived: float) -> Work:
    return Work(Frame(Kind.DATA, 3, 0, f"{number:032x}", 1, "o", "s", (), 0.0, 1e9), arrived)


def test_what_is_added_is_on_disk_once_it_is_closed(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "logs")
    for number in range(100):
        book.add(entry(number))
    book.close()
    assert [line["start"] for line in lines(book.path)] == list(range(100))
    assert {line["entry"] for line in lines(book.path)} == {"batch"}
    assert book.dropped == 0


def test_the_next_worker_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for number in range(2):
        book = Logbook(tmp_path)
        book.add(entry(number))
        book.close()
    assert [line["start"] for line in lines(tmp_path / "batches.jsonl")] == [0, 1]


def test_the_files_stay_within_their_size(tmp_path: Path) -> None:
    most = 20_000
    for first in range(0, 1_000, 50):
        book = Logbook(tmp_path, most_bytes=most)
        for number in range(first, first + 50):
            book.add(entry(number))
        book.close()
    assert (tmp_path / "batches.jsonl.1").exists()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= most + 50 * 120
    kept = [line for file in sorted(tmp_path.iterdir(), reverse=True) for line in lines(file)]
    numbers = [line["start"] for line in kept]
    assert numbers == list(range(1_000 - len(numbers), 1_000)), "the newest, without a gap"


def test_what_is_too_much_is_dropped_and_counted(tmp_path: Path) -> None:
    book = Logbook(tmp_path, most_waiting=10)
    for number in range(25):
        book.add(entry(number))
    book.close()
    assert book.dropped == 15
    assert len(lines(book.path)) == 10


def test_a_disk_that_cannot_be_written_loses_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")
    book = Logbook(tmp_path / "logs")
    book.add(entry(1))
    book.close()
    assert book.dropped == 1
    assert "cannot write the batch log" in caplog.text


def test_a_batch_counts_in_what_preparing_took() -> None:
    replica = queue()
    first, second = work(1, 10.0), work(2, 10.1)
    assert replica.note(Job(3, "r@d", JobStep.PREPARE, works=(first, second)), 0.2, 10.3) == []
    for one, items in ((first, 3), (second, 1)):
        replica.batcher.prepared(one, [("shape", None)] * items)
    job = replica.batcher.take(10.3, lambda _: True)
    assert job is not None
    (batch,) = replica.note(job, 0.5, 11.0)
    assert (batch.start, batch.end, batch.size) == (10.5, 11.0, 4)
    assert batch.service_s == pytest.approx(0.7)
    assert replica.batch_sizes == {4: 1}
    assert replica.batch_seconds == {4: batch.service_s}
    assert (replica.batches, replica.items) == (1, 4)


def test_a_request_says_how_long_it_took_and_in_which_batch() -> None:
    replica = queue()
    one = work(1, 10.0)
    replica.batcher.prepared(one, [("shape", None)] * 5)
    while (job := replica.batcher.take(11.0, lambda _: True)) is not None:
        replica.note(job, 0.5, 11.0)
    served = replica.served(3, one, StageOutput(EMPTY), 12.0)
    assert (served.arrival, served.departure, served.latency_s) == (10.0, 12.0, 2.0)
    assert (served.items, served.batch_size, served.outcome) == (5, 4, "output")
    assert replica.served(3, one, StageFailed("why"), 12.0).outcome == "failed"
    assert replica.ended(3).batches == 2
