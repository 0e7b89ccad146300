"""An aggregate folds each request in once, in the order of its source, whatever arrives in which order how often."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.aggregate_io.statefile import StateFile
from agent.serving.aggregates.folding import AggregateState
from agent.serving.aggregates.sequence import Sequence
from agent.serving.aggregates.snapshot import AggregateSnapshot
from agent.serving.batcher import Batcher, Work
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Frame, Kind, pack


def frame(index: int, settled: int = 0, key: str = "k", **payload: Any) -> Frame:
    return Frame(
        Kind.DATA, 1, 0, f"{index:032x}", 1, "o", "s", (), 0.0, 1e9,
        pack({"key": key, "n": index, **payload}), series="photos@a", index=index, settled=settled,
    )  # fmt: skip


class Sum:
    """Stage code: the sum of a key's numbers so far, and an array that the state holds."""

    def start(self, key: str) -> dict[str, Any]:
        return {"sum": 0, "seen": np.zeros(0, dtype="<i8")}

    def fold(self, state: dict[str, Any], payload: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if payload.get("bad"):
            raise ValueError("a bad request")
        after = {
            "sum": state["sum"] + payload["n"],
            "seen": np.append(state["seen"], payload["n"]),
        }
        return after, {"sum": after["sum"], "seen": after["seen"]}


class KeptSum(Sum):
    def dump(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def load(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


def aggregate(path: Path | None, code: Sum | None = None) -> AggregateState:
    return AggregateState(
        code or KeptSum(), "total", "key", StateFile(path) if path is not None else None
    )


def folded(one: AggregateState, *frames: Frame) -> list[int]:
    sums = [one.fold(Work(f, 0.0)).unpack()["sum"] for f in frames]
    one.keep()
    return sums


@given(st.lists(st.integers(0, 12), max_size=60), st.sets(st.integers(0, 12)), st.integers(0, 3))
def test_turns_come_in_order_and_once(arrivals: list[int], ends: set[int], settled: int) -> None:
    sequence = Sequence[int]()
    turns: list[int] = []
    for index in [*arrivals, *range(13)]:
        if index in ends:
            turns += sequence.ended(frame(index, settled))
        elif index >= settled:
            turns += sequence.add(frame(index, settled), index)
    fresh = list(dict.fromkeys(turns))
    assert fresh == [i for i in range(settled, 13) if i not in ends]
    assert sequence.waiting == 0


def test_what_has_ended_everywhere_is_waited_for_no_more() -> None:
    sequence = Sequence[int]()
    assert sequence.add(frame(0), 0) == [0]
    assert sequence.add(frame(3), 3) == []
    assert sequence.add(frame(5, settled=3), 5) == [3]
    assert sequence.add(frame(1, settled=0), 1) == [], "a late copy of what has ended"
    assert sequence.add(frame(4), 4) == [4, 5]
    assert sequence.add(frame(4), 4) == [4], "what was made of it is sent again"


def test_a_series_that_goes_on_where_nothing_is_known_is_noticed() -> None:
    assert Sequence[int]().begins(frame(7, settled=5))
    assert not Sequence[int]().begins(frame(0))
    assert not Sequence[int]({"photos@a": 6}).begins(frame(7, settled=5))


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.serving.aggregates.sequence._KEPT", 4)
    sequence = Sequence[int]()
    for index in range(2, 10):
        sequence.add(frame(index), index)
    assert (sequence.waiting, sequence.dropped) == (4, 4)
    for index in (20, 21, 22, 23, 0):
        sequence.ended(frame(index))
    assert sequence.add(frame(0), 0) == [0], "its end was one too many to remember"
    sequence.expire(2e9)
    assert sequence.waiting == 0


def test_a_state_goes_on_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    draw, path = random.Random(3), tmp_path / "s.db"
    sums: dict[int, int] = {}
    one, at = aggregate(path), 0
    while at < 60:
        batch = [frame(i, max(at - 3, 0), key=str(i % 3)) for i in range(max(at - 3, 0), at + 2)]
        made = [one.fold(Work(f, 0.0)).unpack()["sum"] for f in batch]
        if draw.random() < 0.4:
            # Killed: what is not kept has not left.
            one = aggregate(path)
            continue
        one.keep()
        for f, value in zip(batch, made, strict=True):
            assert sums.setdefault(f.index, value) == value, "the same output as before"
        at += 2
    for index, value in sums.items():
        assert value == sum(range(index % 3, index + 1, 3))
    again = aggregate(path)
    assert again.resumed_keys == 3
    assert again.positions == {"photos@a": max(sums) + 1}
    (last,) = [again.fold(Work(frame(max(sums), key=str(max(sums) % 3)), 0.0))]
    assert last.unpack()["seen"].numpy().tolist() == list(range(max(sums) % 3, max(sums) + 1, 3))


def test_a_request_that_fails_changes_nothing_and_holds_nothing_up() -> None:
    one = aggregate(None, Sum())
    assert folded(one, frame(1)) == [1]
    with pytest.raises(ValueError, match="bad request"):
        one.fold(Work(frame(2, bad=True), 0.0))
    with pytest.raises(TiermeshError, match="no 'key'"):
        one.fold(Work(Frame(Kind.DATA, 1, 0, "0" * 32, 1, "o", "s"), 0.0))
    assert folded(one, frame(3), frame(3)) == [4, 4]
    with pytest.raises(TiermeshError, match="has ended before"):
        folded(one, frame(9, settled=4), frame(2))
    assert not one.is_kept


class FullDisk(StateFile):
    def keep(self, change: AggregateSnapshot) -> None:
        raise StorageFull("an aggregate cannot write its state", why="no space left")


def test_on_a_full_disk_it_goes_on_in_memory_and_leaves_no_stale_state(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    folded(aggregate(path), frame(0))
    one = AggregateState(KeptSum(), "total", "key", FullDisk(path))
    assert folded(one, frame(1), frame(2)) == [1, 3]
    assert not one.is_kept
    assert not path.exists()


def test_a_queue_in_order_holds_up_what_is_behind_a_request_without_room() -> None:
    batcher = Batcher(1, "s@d", 1, 0.0, batches=False, in_order=True)
    works = [Work(frame(i), 0.0) for i in range(3)]
    for work in works:
        batcher.add(work)
    blocked = lambda f: f.index != 0  # noqa: E731
    assert batcher.take(0.0, blocked) is None
    assert batcher.ready_at(0.0, blocked)[0] > 1e9
    taken = [batcher.take(0.0, lambda _: True) for _ in works]
    assert [w for job in taken if job is not None for w in job.works] == works


def test_a_sequence_that_was_elsewhere_goes_on_there_and_passes_over_what_ended_above() -> None:
    there = Sequence[int]()
    assert there.add(frame(0), 0) == [0]
    there.ended(frame(2))
    assert there.add(frame(3), 3) == []
    here = Sequence[int](closed=True)
    assert [here.add(frame(i), i) for i in (4, 3, 0)] == [[], [], []]
    assert there.clear() == [3]
    assert here.open({"photos@a": 1}, there.passed) == [0], "what was there before is repeated"
    assert here.add(frame(1), 1) == [1, 3, 4]
