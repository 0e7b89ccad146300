"""A search that is watched: what it tells is true and ends where its plan does; and it can be ended."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from coordinator.planning import Options, PlanObjective, Strategy, solve
from coordinator.planning.explain import explain
from coordinator.planning.search_progress import SearchBounds, SearchObserver, Stopped
from tests.unit.planning.overflowing import batches, overflowing
from tests.unit.planning.test_properties import problems
from tiermesh.errors import Infeasible

NEAR = 1e-6


def many_boxes(count=40, **asks):
    """Devices that all differ: HiGHS has to branch."""
    problem = overflowing(5 * count, 0.3, boxes=1, terms=None)
    devices, profiles = [], []
    for i in range(count):
        price = 0.1 + 0.037 * (i * 7 % 23)
        devices.append(
            msgspec.structs.replace(problem.devices[0], name=f"box-{i}", price_per_hour=price)
        )
        slower = [(size, s * (1 + 0.09 * (i * 5 % 17))) for size, s in ((1, 0.02), (8, 0.09))]
        profiles.append(
            msgspec.structs.replace(problem.profiles[0], device=f"box-{i}", batches=batches(slower))
        )
    asked = msgspec.structs.replace(problem.asks, **asks)
    return msgspec.structs.replace(problem, devices=devices, profiles=profiles, asks=asked)


def watched(problem, options=None):
    """The plan, and what was told on the way."""
    told: list[SearchBounds] = []
    plan = solve(problem, replace(options or Options(), watch=SearchObserver(tell=told.append)))
    return plan, told


def at_last(told):
    standing = SearchBounds()
    for news in told:
        standing = standing.after(news)
    return standing


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(problem=problems())
def test_nothing_told_is_better_than_the_best_plan(problem):
    try:
        plan, told = watched(problem)
    except Infeasible:
        return
    best, slack = plan.solver.objective, NEAR * (1 + abs(plan.solver.objective))
    assert plan == msgspec.structs.replace(solve(problem), solver=plan.solver)
    assert all(s.objective >= best - slack for s in told if s.objective is not None)
    assert all(s.bound <= best + slack for s in told if s.bound is not None)
    last = at_last(told)
    assert last.objective == pytest.approx(best, abs=slack)
    assert last.gap is not None
    assert last.gap <= NEAR


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (many_boxes(), Options()),
        (many_boxes(), Options(strategy=Strategy.GREEDY)),
        (many_boxes(8), Options(objective=PlanObjective.THROUGHPUT)),
        (many_boxes(12, latency_s={"p95": 0.2}), Options(gap=0.01)),
        (overflowing(55, 0.005, p95=0.3), Options()),
        (overflowing(60, 0.3), Options()),
    ],
    ids=["exact", "greedy", "throughput", "latency", "functions-latency", "functions"],
)
def test_what_is_told_at_last_is_the_plans_proof(problem, options):
    plan, told = watched(problem, options)
    sign = -1 if options.objective is PlanObjective.THROUGHPUT else 1
    last = at_last(told)
    assert last.objective == pytest.approx(sign * plan.solver.objective, rel=1e-4)
    assert last.bound == pytest.approx(sign * plan.solver.bound, rel=1e-4)


def test_plans_that_do_not_survive_a_loss_are_not_told():
    plain = msgspec.to_builtins(overflowing(30, 0.3, boxes=3, terms=None))
    plain["asks"]["any_device_lost"] = {}
    problem = msgspec.convert(plain, type(overflowing(1, 1)))
    plan, told = watched(problem)
    objectives = [s.objective for s in told if s.objective is not None]
    assert objectives == pytest.approx([plan.solver.objective] * len(objectives))


def test_a_gap_is_known_once_both_sides_are():
    assert SearchBounds(objective=2.0).gap is None
    assert SearchBounds(objective=2.0).after(SearchBounds(bound=1.5)).gap == pytest.approx(0.25)
    assert SearchBounds(2.0, 1.5).after(SearchBounds(3.0, 1.0)) == SearchBounds(2.0, 1.5)


@pytest.mark.parametrize("asks", [{}, {"latency_s": {"p95": 0.2}}], ids=["exact", "latency"])
def test_a_search_ends_with_its_first_news_when_it_is_stopped(asks):
    told: list[SearchBounds] = []
    watch = SearchObserver(tell=told.append, stopped=lambda: bool(told))
    with pytest.raises(Stopped):
        solve(many_boxes(**asks), Options(watch=watch))
    assert len(told) == 1


def test_a_search_that_nobody_waits_for_does_not_begin():
    told: list[SearchBounds] = []
    with pytest.raises(Stopped):
        solve(many_boxes(), Options(watch=SearchObserver(tell=told.append, stopped=lambda: True)))
    assert told == []


def test_an_explanation_can_be_stopped():
    problem = overflowing(4, 0.3, boxes=2, terms=None)
    plan = solve(problem)
    asked = iter([False] * 3 + [True] * 1_000_000)
    with pytest.raises(Stopped):
        explain(problem, plan, SearchObserver(stopped=lambda: next(asked)))


def test_what_is_raised_while_it_tells_ends_the_search():
    def interrupted(_: SearchBounds) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(many_boxes(), Options(watch=SearchObserver(tell=interrupted)))
