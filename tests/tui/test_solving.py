"""The search for a plan, as the app is told of it: the gap as it closes, the time it takes, and its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from coordinator.planning.search_progress import SearchBounds, Stopped
from coordinator.tui import solving
from coordinator.tui.model.candidate import Asking, PlanAnswer, Search, SearchStep
from coordinator.tui.model.plan import candidate_lines
from coordinator.tui.model.view import View
from tests.unit.planning.overflowing import overflowing

ASKING = Asking(number=1, workflow="read")
PROBLEM = overflowing(60, 0.3, boxes=6, terms=None)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told():
    return []


@pytest.fixture
def asked(told, monkeypatch):
    """The planner as the app asks it, always of one problem."""

    async def problem(_self, _asking):
        return PROBLEM

    monkeypatch.setattr(solving.Solving, "_problem", problem)
    return solving.Solving(None, lambda message: told.append(message.candidate), None)  # pyright: ignore[reportArgumentType]


def said(candidate: PlanAnswer) -> str:
    lines = candidate_lines(View(), candidate, None, 70)
    return "\n".join("".join(run.text for run in line) for line in lines)


async def test_a_search_ends_with_its_plan_and_how_long_it_took(asked, told):
    await asked.solve(ASKING)
    last = told[-1]
    assert last.search is Search.FOUND
    assert last.steps[-1].gap <= solving.GAP
    assert last.steps[-1].cost_per_hour == pytest.approx(last.plan.cost.total_per_hour)
    assert [c.seconds for c in told] == sorted(c.seconds for c in told)
    assert f"optimal, in {last.seconds:.1f} s" in said(last)


async def test_what_the_solver_says_is_told_while_it_works(asked, told, monkeypatch):
    going = threading.Event()

    def slow(_problem, options):
        options.watch.know(bound=0.5)
        options.watch.know(objective=1.0)
        assert going.wait(10)

    monkeypatch.setattr(solving, "_solve", slow)
    monkeypatch.setattr(solving, "TELL_S", 0.01)
    task = asyncio.create_task(asked.solve(ASKING))
    async with asyncio.timeout(10):
        while not told or told[-1].standing.gap is None or not told[-1].seconds > 0.05:
            await asyncio.sleep(0.005)
    text = said(told[-1])
    going.set()
    await task
    assert "solving 0." in text
    assert "1 USD/h  gap 50.00%" in text


async def test_a_search_that_is_superseded_stops_at_once(asked, monkeypatch):
    begun, stopped = threading.Event(), threading.Event()

    def endless(_problem, options):
        begun.set()
        try:
            while True:
                options.watch.check()
        except Stopped:
            stopped.set()
            raise

    monkeypatch.setattr(solving, "_solve", endless)
    task = asyncio.create_task(asked.solve(ASKING))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.to_thread(stopped.wait, 10)


def test_steps_are_better_plans_and_smaller_gaps():
    clock = Clock()
    closing = solving.Closing(clock)
    closing.hear(SearchBounds(bound=1.0))
    for seconds, news in (
        (1.0, SearchBounds(objective=4.0)),
        (2.0, SearchBounds(objective=2.0)),
        (3.0, SearchBounds(bound=1.01)),
        (4.0, SearchBounds(bound=1.5)),
    ):
        clock.now = 100.0 + seconds
        closing.hear(news)
    found = closing.told(PlanAnswer(asking=ASKING))
    assert found.steps == (
        SearchStep(1.0, 4.0, 0.75),
        SearchStep(2.0, 2.0, 0.5),
        SearchStep(4.0, 2.0, 0.25),
    )
    assert found.standing == SearchBounds(2.0, 1.5)


def test_without_a_plan_yet_the_bound_is_told():
    candidate = PlanAnswer(asking=ASKING, seconds=1.25, standing=SearchBounds(bound=0.4))
    assert "solving 1.2 s" in said(candidate)
    assert "at least 0.4 USD/h" in said(candidate)
