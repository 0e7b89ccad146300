"""A request that cannot be done by its deadline any more ends, before it takes device time from others."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.serving.batcher import Job, JobStep, Work
from agent.serving.flow import Flow
from agent.serving.routing.generation import QUICKEST_LEAST, Generation
from agent.serving.routing.graph import Graph
from tests.simulation.serving.test_mesh import CHAIN, FORK, assign
from tiermesh.documents.assignment import Ring
from tiermesh.frames import EMPTY, Frame, Kind

LEAST = {"detect": 0.5, "read": 2.0}


def device_b(*rings: Ring, least_s: dict[str, float] = LEAST) -> tuple[Flow, Generation]:
    """The device that detects, of a chain."""
    whole = assign(CHAIN, [(1.0, "abca", "----")], "abc", count=1)["b"]
    generation = Generation(replace(whole, rings=rings, least_s=least_s), 0.0)
    flow = Flow("w", "b", 1)
    flow.prepare(generation)
    flow.commit(1, 0.0)
    return flow, generation


def waits(generation: Generation, deadline: float) -> Work:
    frame = Frame(Kind.DATA, 1, 0, "0" * 32, 1, "photos", "detect", ("a",), 0.0, deadline)
    work = Work(frame, 0.0)
    generation.queues["detect@b"].batcher.add(work)
    return work


def serve(generation: Generation, seconds: float, count: int = QUICKEST_LEAST) -> None:
    queue = generation.queues["detect@b"]
    for _ in range(count):
        frame = Frame(
            Kind.DATA, 1, 0, "1" * 32, 1, "photos", "detect", (), 0.0, 99.0, payload=EMPTY
        )
        work = Work(frame, 0.0)
        queue.note(Job(1, "detect@b", JobStep.APPLY, works=(work,)), seconds, 1.0)
        queue.left(work)


@pytest.mark.parametrize(("deadline", "ends"), [(12.4, True), (12.6, False)])
def test_a_request_ends_when_its_stages_take_longer_than_it_has(
    deadline: float, ends: bool
) -> None:
    flow, generation = device_b("early-end")
    waits(generation, deadline)
    flow.tick(10.0)
    queue = generation.queues["detect@b"]
    assert (queue.batcher.waiting == 0) == ends
    assert queue.ended_early == ends
    errors = [f.error for f in flow.links.sender("a", 10.0).withdraw() if f.kind is Kind.ERROR]
    assert errors == (
        ["detect: its deadline is in 2.4 s; the remaining stages take at least 2.5 s"]
        if ends
        else []
    )


def test_without_the_ring_it_takes_its_turn() -> None:
    flow, generation = device_b("order")
    waits(generation, 10.1)
    flow.tick(10.0)
    assert generation.queues["detect@b"].batcher.waiting == 1


def test_what_is_measured_counts_for_more_than_what_was_planned_and_half_of_the_quickest_is_sure() -> (
    None
):
    _, generation = device_b("early-end")
    queue = generation.queues["detect@b"]
    serve(generation, 0.2, QUICKEST_LEAST - 1)
    assert queue.least_s == 2.5, "these are too few"
    serve(generation, 0.1, 1)
    assert queue.least_s == pytest.approx(2.05)


def test_what_is_not_known_ends_nothing() -> None:
    flow, generation = device_b("early-end", least_s={})
    waits(generation, 10.1)
    flow.tick(10.0)
    assert generation.queues["detect@b"].batcher.waiting == 1


def test_a_filter_may_end_a_request_and_of_two_branches_the_longer_one_counts() -> None:
    whole = assign(FORK, [(1.0, "abcdbad", "-------")], "abcd", count=1)["a"]
    graph = Graph(whole.stages)
    least = {"left": 1.0, "right": 3.0, "both": 0.5, "keep": 7.0, "out": 9.0}
    below = graph.least_below(least)
    assert below["keep"] == 0.0
    assert below["both"] == 7.0
    assert below["photos"] == 3.0 + 0.5 + 7.0
