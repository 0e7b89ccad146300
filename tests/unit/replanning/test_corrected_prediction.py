"""Predictions corrected by what serving measures, and idle devices that are used once the SLO is in danger."""

from __future__ import annotations

import pytest

from coordinator.planning import Options, solve
from coordinator.replanning import Policy
from coordinator.replanning.corrected_prediction import (
    before_serving,
    corrections_of,
    drifts_before_serving,
    is_alike,
    is_close,
    while_serving,
    worth_correcting,
)
from coordinator.replanning.current_problem import slower, with_running
from coordinator.replanning.search import search
from coordinator.replanning.unexplained import devices_of, inflation
from coordinator.telemetry.drift import DriftWindow, drift
from tests.unit.replanning.test_worth import problem_of

CHEAP = {"hub-1": (0.10, 0.1)}
PROBLEM = problem_of(CHEAP | {"server": (0.50, 0.05)}, latency_s=0.5)
KEY = ("detect", "v", "hub-1")


def served(mean):
    """Twelve batches that took about so long."""
    return [DriftWindow({1: 1}, {1: mean * factor}) for factor in (0.97, 1.0, 1.03) * 4]


def drifts(mean):
    return {KEY: drift(served(mean), {1: 0.1})}


def test_the_prediction_follows_what_batches_take():
    plan = solve(PROBLEM)
    as_planned = while_serving(PROBLEM, plan, {})
    assert as_planned.corrections == {}
    now = while_serving(PROBLEM, plan, drifts(0.15))
    assert now.corrections["detect@hub-1/v"].ratio == pytest.approx(1.5)
    assert now.latency_ms["p50"] > 1.4 * as_planned.latency_ms["p50"]
    assert "detect@hub-1/v 1.50 (" in now.text


def test_what_is_within_a_tenth_corrects_nothing():
    assert worth_correcting(drifts(0.105)) == {}
    assert while_serving(PROBLEM, solve(PROBLEM), drifts(0.105)) == while_serving(
        PROBLEM, solve(PROBLEM), {}
    )


def test_corrections_are_close_when_nobody_would_notice():
    plan = solve(PROBLEM)
    one, near, far = (corrections_of(plan, drifts(mean)) for mean in (0.15, 0.155, 0.2))
    assert is_close(one, near)
    assert not is_close(one, far)
    assert not is_close(one, {})


def test_what_is_measured_explains_a_miss_without_more():
    plan = solve(PROBLEM)
    assert inflation(slower(PROBLEM, {"hub-1"}, 3.0), plan) == 1.0


def test_an_idle_device_is_used_when_nothing_explains_that_the_slo_is_missed():
    """All is as planned by measurement, and requests are late: the best plan still is the one that fails."""
    plan = solve(PROBLEM)
    assert devices_of(plan) == {"cam-1", "hub-1"}
    policy = Policy()
    same = search(with_running(PROBLEM, plan, policy), plan, Options(), policy)
    assert not same.verdict.replace
    factor = inflation(PROBLEM, plan)
    assert factor > 1
    problem = with_running(slower(PROBLEM, devices_of(plan), factor), plan, policy)
    found = search(problem, plan, Options(), policy)
    assert found.verdict.replace
    assert "server" in devices_of(found.plan)


def test_only_the_devices_that_are_named_become_slower():
    changed = slower(PROBLEM, {"hub-1"}, 2.0)
    assert [p.batches[0].mean for p in changed.profiles] == [0.2, 0.05]


def test_what_replicas_take_just_before_they_serve_corrects_the_prediction() -> None:
    plan = solve(PROBLEM)
    (replica,) = [r for r in plan.replicas if r.variant is not None]
    profile = next(p for p in PROBLEM.profiles if p.device == replica.device)
    seconds = next(b.mean for b in profile.batches if b.batch_size == replica.batch_size)
    took = {replica.id: 1.4 * seconds, "unknown": 9.0}
    measured = drifts_before_serving(PROBLEM, plan, took)
    assert [d.overall.ratio for d in measured.values() if d.overall] == [pytest.approx(1.4)]
    before, after = before_serving(PROBLEM, plan, {}), before_serving(PROBLEM, plan, took)
    assert after.latency_ms["p50"] >= 1.3 * before.latency_ms["p50"]
    assert after.rate_rps == plan.predicted.throughput_rps
    told = after.event(at=7.0, who="t", workflow="w", generation=3)
    assert (told.latency_ms, told.generation) == (dict(after.latency_ms), 3)
    assert "detect@hub-1 1.40" in told.text


def test_predictions_that_hardly_differ_are_told_once():
    said = {"p50": 300.0, "p95": 800.0, "p99": 1000.0}
    assert is_alike(said, {"p50": 320.0, "p95": 900.0, "p99": 3000.0})
    assert not is_alike(said, {"p50": 300.0, "p95": 1100.0})
