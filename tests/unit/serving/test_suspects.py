"""A request that ends the worker again and again is given up; what only happened to be there is not."""

from __future__ import annotations

from pathlib import Path

from agent.serving.batcher import Batcher, JobStep, Work
from agent.serving.compute.running_note import RunningNote
from agent.serving.compute.suspects import Suspects
from tiermesh import limits
from tiermesh.frames import Frame, Kind

GUILTY, INNOCENT = ("upper", "a" * 32), ("upper", "b" * 32)


def work(number: int, *, alone: bool = False) -> Work:
    made = Work(Frame(Kind.DATA, 1, 0, f"{number:032x}", 1, "o", "s", (), 0.0, 1e9), 0.0)
    made.alone = alone
    return made


def test_what_runs_at_every_end_is_given_up_and_what_came_through_is_cleared() -> None:
    suspects = Suspects({})
    for _ in range(limits.POISON_ENDS):
        suspects = Suspects(suspects.counts, [GUILTY, INNOCENT])
        assert suspects.is_suspect(*INNOCENT)
        assert suspects.cleared([INNOCENT])
    assert not suspects.is_suspect(*INNOCENT)
    assert "ended 3 times" in suspects.why_not(*GUILTY)
    assert suspects.why_not(*INNOCENT) == ""
    assert not suspects.cleared([INNOCENT])


def test_suspects_are_bounded_and_the_oldest_go_first() -> None:
    many = [("s", f"{n:032x}") for n in range(limits.SUSPECTS + 10)]
    suspects = Suspects({}, many)
    assert list(suspects.counts) == many[10:]


def test_the_note_outlives_its_writer(tmp_path: Path) -> None:
    note = RunningNote(tmp_path)
    assert note.load().counts == {}
    note.began([GUILTY, INNOCENT])
    assert RunningNote(tmp_path).load().counts == {GUILTY: 1, INNOCENT: 1}
    assert RunningNote(tmp_path).load().counts == {GUILTY: 1, INNOCENT: 1}, "counted once"
    note.began([GUILTY])
    note.ended()
    assert RunningNote(tmp_path).load().counts[GUILTY] == 1


def test_a_note_that_is_not_one_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "running").write_bytes(b"\xff\xff\xff\xffgarbage")
    (tmp_path / "suspects.json").write_text("[[1]]")
    assert RunningNote(tmp_path).load().counts == {}


def test_a_suspect_shares_no_job() -> None:
    batcher = Batcher(1, "s@d", 4, 0.0, batches=True)
    for _ in range(20):
        batcher.took(0.0, 1)
    works = [work(0), work(1, alone=True), work(2), work(3)]
    for one in works:
        batcher.add(one)
    taken = []
    while (job := batcher.take(0.0, lambda _: True)) is not None and job.step is JobStep.PREPARE:
        taken.append([works.index(w) for w in job.works])
        for one in job.works:
            batcher.prepared(one, [("shape", None)])
    assert taken == [[0], [1], [2, 3]]
    batches = [job] if job is not None else []
    while (more := batcher.take(0.0, lambda _: True)) is not None:
        batches.append(more)
    assert sorted(sorted(works.index(i.work) for i in b.items) for b in batches) == [[0, 2, 3], [1]]
