"""The batcher follows the policy of one server, item by item."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.serving.batcher import Batcher, Job, JobStep, Work
from tiermesh.frames import Frame, Kind


def work(number: int, arrived: float, deadline: float = 1e9) -> Work:
    return Work(Frame(Kind.DATA, 1, 0, f"{number:032x}", 1, "o", "s", (), 0.0, deadline), arrived)


def room(_: Frame) -> bool:
    return True


def starts(
    times: list[float], size: int, timeout: float, service: float
) -> list[tuple[float, int]]:
    """The recursion of one server: ready_i = min(t_i + T, t_{i+B-1}), start = max(free, ready_i)."""
    found: list[tuple[float, int]] = []
    free, i = 0.0, 0
    while i < len(times):
        full = times[i + size - 1] if i + size <= len(times) else float("inf")
        start = max(free, min(times[i] + timeout, full))
        taken = min(size, sum(1 for t in times[i:] if t <= start))
        found.append((start, taken))
        free, i = start + service, i + taken
    return found


def simulated(
    times: list[float], size: int, timeout: float, service: float
) -> list[tuple[float, int]]:
    """The batcher, with requests of one item whose preparing takes no time."""
    batcher = Batcher(1, "r", size, timeout, batches=True)
    pending, found, now, free = sorted(times), [], 0.0, 0.0
    number = 0
    while pending or not batcher.is_idle:
        while pending and pending[0] <= now:
            batcher.add(work(number := number + 1, pending.pop(0)))
        job = batcher.take(now, room) if now >= free else None
        while job is not None and job.step is JobStep.PREPARE:
            for one in job.works:
                batcher.prepared(one, [("shape", None)])
            job = batcher.take(now, room)
        if job is not None:
            found.append((now, len(job.items)))
            free = now + service
            continue
        ready = max(batcher.ready_at(now, room)[0], free)
        now = min(ready, pending[0]) if pending else ready
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=25),
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(1, 15),
)
def test_it_starts_when_the_law_of_one_server_says(
    ticks: list[int], size: int, timeout: int, service: int
) -> None:
    times = [float(t) for t in sorted(ticks)]
    assert simulated(times, size, timeout, service) == starts(times, size, timeout, service)


def prepared(batcher: Batcher, one: Work, shapes: str) -> None:
    batcher.add(one)
    job = batcher.take(0.0, room)
    assert job is not None
    assert job.step is JobStep.PREPARE
    batcher.prepared(one, [(shape, shape) for shape in shapes])


def test_only_items_of_one_shape_share_a_batch() -> None:
    batcher = Batcher(1, "r", 3, 1.0, batches=True)
    prepared(batcher, work(1, 0.0), "ab")
    prepared(batcher, work(2, 0.0), "abb")
    job = batcher.take(0.0, room)
    assert job is not None
    assert [item.value for item in job.items] == ["b", "b", "b"]
    assert batcher.take(0.5, room) is None
    job = batcher.take(1.0, room)
    assert job is not None
    assert [item.value for item in job.items] == ["a", "a"]


def test_a_batch_of_several_shapes_goes_in_several_runs_and_what_is_left_waits() -> None:
    batcher = Batcher(1, "r", 3, 1.0, batches=True)
    prepared(batcher, work(1, 0.0), "ab")
    assert batcher.take(0.1, room) is None
    prepared(batcher, work(2, 0.0), "cad")
    ran: list[list[str]] = []
    while (job := batcher.take(0.1, room)) is not None:
        ran.append([item.value for item in job.items])
    assert ran == [["a", "a"], ["b"]]
    assert batcher.ready_at(0.1, room)[0] == 1.0


def test_what_has_no_place_to_go_is_not_started_and_keeps_its_place() -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    blocked, free = work(1, 0.0), work(2, 1.0)
    batcher.add(blocked)
    batcher.add(free)
    job = batcher.take(1.0, lambda frame: frame is free.frame)
    assert isinstance(job, Job)
    assert job.works == (free,)
    assert batcher.take(1.0, lambda _: False) is None
    job = batcher.take(2.0, room)
    assert isinstance(job, Job)
    assert job.works == (blocked,)


def test_another_attempt_of_a_request_joins_the_one_that_is_here() -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    released: list[str] = []
    batcher.add(work(1, 0.0))
    again = work(1, 1.0)
    again.release = lambda: released.append("again")
    batcher.add(again)
    assert batcher.waiting == 1
    assert released == ["again"]
    job = batcher.take(1.0, room)
    assert job is not None
    assert job.works[0].frame is again.frame
    batcher.done(job.works[0])
    batcher.add(work(1, 2.0))
    assert batcher.waiting == 1


def test_an_earlier_attempt_that_comes_later_changes_nothing() -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    first, second = work(1, 0.0), work(1, 1.0)
    second.frame = replace(second.frame, attempt=2)
    batcher.add(second)
    batcher.add(first)
    job = batcher.take(1.0, room)
    assert job is not None
    assert [one.frame.attempt for one in job.works] == [2]


def test_a_failed_request_takes_its_waiting_items_along() -> None:
    batcher = Batcher(1, "r", 2, 1.0, batches=True)
    failing, other = work(1, 0.0), work(2, 0.0)
    prepared(batcher, failing, "a")
    prepared(batcher, other, "b")
    batcher.drop(failing)
    job = batcher.take(1.0, room)
    assert job is not None
    assert [item.work for item in job.items] == [other]
    assert batcher.take(9.0, room) is None


def test_requests_past_their_deadline_come_out() -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    batcher.add(work(1, 0.0, deadline=5.0))
    batcher.add(work(2, 0.0, deadline=9.0))
    assert [one.frame.deadline for one in batcher.expired(6.0)] == [5.0]
    assert batcher.waiting == 1


@pytest.mark.parametrize(("seconds", "taken"), [(0.1, 1), (0.001, 5), (0.00001, 16)])
def test_slow_stage_code_is_given_few_requests_at_once(seconds: float, taken: int) -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    for _ in range(60):
        batcher.took(seconds, 1)
    for number in range(40):
        batcher.add(work(number, 0.0))
    job = batcher.take(0.0, room)
    assert job is not None
    assert abs(len(job.works) - taken) <= 1


def aged(number: int, arrived: float, accepted: float) -> Work:
    frame = Frame(Kind.DATA, 1, 0, f"{number:032x}", 1, "o", "s", (), accepted, accepted + 60.0)
    return Work(frame, arrived)


def quick(batcher: Batcher) -> Batcher:
    """Stage code that takes no time: many requests at once."""
    for _ in range(60):
        batcher.took(0.00001, 1)
    return batcher


def by_age(one: Work) -> float:
    return one.frame.accepted_at + 1.5


def test_what_was_accepted_first_is_taken_first_however_late_it_comes() -> None:
    batcher = quick(Batcher(1, "r", 1, 0.0, batches=False, urgency=by_age))
    for number, (arrived, accepted) in enumerate([(5.0, 4.0), (5.1, 4.5), (5.2, 1.0), (5.3, 4.5)]):
        batcher.add(aged(number, arrived, accepted))
    assert batcher.ready_at(6.0, room) == (6.0, 1.0 + 1.5)
    job = batcher.take(6.0, room)
    assert job is not None
    assert [one.frame.accepted_at for one in job.works] == [1.0, 4.0, 4.5, 4.5]
    assert [one.arrived for one in job.works][2:] == [5.1, 5.3], "as they came, where it is equal"


def test_an_aggregate_keeps_its_order() -> None:
    batcher = quick(Batcher(1, "r", 1, 0.0, batches=False, in_order=True, urgency=by_age))
    batcher.add(aged(1, 5.0, 4.0))
    batcher.add(aged(2, 5.1, 1.0))
    job = batcher.take(6.0, room)
    assert job is not None
    assert [one.frame.accepted_at for one in job.works] == [4.0, 1.0]


def test_what_cannot_be_done_by_its_deadline_comes_out_before_it_passes() -> None:
    batcher = Batcher(1, "r", 1, 0.0, batches=False)
    batcher.add(work(1, 0.0, deadline=5.0))
    batcher.add(work(2, 0.0, deadline=9.0))
    assert batcher.expired(4.0, least_s=0.9) == []
    assert [one.frame.deadline for one in batcher.expired(4.0, least_s=1.1)] == [5.0]
