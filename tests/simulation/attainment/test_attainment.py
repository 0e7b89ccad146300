"""The bench of attainment in small: the product's flows and coordinator through disturbances in simulated time."""

from __future__ import annotations

from functools import cache

import pytest

from bench.attainment import plans, settings
from bench.attainment.running import run
from bench.attainment.scenes import SCENES, arrivals, segments
from bench.attainment.scoring import recover_s, scored
from bench.attainment.systems import SYSTEMS
from bench.attainment.truth import Sent

SLO = 0.95


@cache
def row(scene, system, seconds=90.0, seed=1):
    made = run(
        settings.demo(), SCENES[scene], SYSTEMS[system], seconds=seconds, seed=seed, scale=1.0
    )
    return scored(made, "demo", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_steady_load_keeps_the_slo_and_causes_no_replan(seed):
    steady = row("steady", "ours", seed=seed)
    assert steady.replans == {}
    assert steady.attainment >= 0.99
    assert steady.accuracy_least >= settings.FLOOR - 0.01
    assert steady.duplicates == 0


@pytest.mark.slow
def test_a_thermal_step_is_recovered_from_and_costs_a_static_plan_its_slo():
    ours, static = row("thermal", "ours"), row("thermal", "jellybean")
    assert ours.attainment >= SLO
    assert ours.recover_s is not None
    assert static.attainment < SLO
    assert static.recover_s is None


@pytest.mark.slow
def test_a_device_that_is_lost_is_replaced_and_taken_back():
    lost = row("lost", "ours", seconds=100.0)
    assert lost.attainment >= SLO
    assert lost.replans["device-failed"] == 1
    assert lost.recover_s is not None


def test_a_run_is_a_function_of_its_seed():
    again = run(
        settings.demo(), SCENES["thermal"], SYSTEMS["jellybean"], seconds=60.0, seed=3, scale=1.0
    )
    first, second = row("thermal", "jellybean", 60.0, 3).plain(), scored(again, "demo", 3).plain()
    assert first.pop("wall_s") > 0
    assert second.pop("wall_s") > 0
    assert first == second


def test_arrivals_are_those_of_the_scene_and_the_same_for_all_systems():
    shares = {"cam-1": 0.5, "cam-2": 0.5}
    found = arrivals(SCENES["load-2"], 10.0, 1_000.0, shares, seed=1)
    assert found == arrivals(SCENES["load-2"], 10.0, 1_000.0, shares, seed=1)
    times = sorted(at for of in found.values() for at in of)
    loaded = sum(300.0 <= at < 600.0 for at in times)
    assert loaded == pytest.approx(6_000, rel=0.05)
    assert len(times) - loaded == pytest.approx(7_000, rel=0.05)


def test_bursts_have_the_mean_rate_and_are_bursty():
    parts = segments(SCENES["bursts"], 10_000.0, seed=1)
    ends = [part.begin for part in parts[1:]] + [10_000.0]
    mean = sum(p.load * (end - p.begin) for p, end in zip(parts, ends, strict=True)) / 10_000.0
    assert mean == pytest.approx(1.0, rel=0.1)
    assert {p.load for p in parts} == {0.5, 2.5}


def test_recovery_is_when_requests_keep_the_slo_for_a_while():
    def sent(at, seconds):
        return Sent("cam-1", at, at, at + seconds, is_result=True)

    late = [sent(100.0 + i, 5.0) for i in range(20)]
    good = [sent(120.0 + i, 1.0) for i in range(30)]
    assert recover_s([*late, *good], 100.0, 150.0) == 20.0
    assert recover_s(good, 120.0, 150.0) == 0.0
    assert recover_s(late, 100.0, 120.0) is None
    assert recover_s([*late, *good[:10]], 100.0, 130.0) is None


def test_jellybeans_plan_serves_each_camera_and_pays_for_it():
    setting = settings.demo()
    plan = plans.first(setting, SYSTEMS["jellybean"], 1.0)
    assert {lane.path["photos"] for lane in plan.lanes} == {"photos@cam-1", "photos@cam-2"}
    assert sum(lane.share for lane in plan.lanes) == pytest.approx(1.0)
    used = {r.device for r in plan.replicas}
    prices = {d.name: d.price_per_hour for d in setting.problem.devices}
    assert plan.cost.total_per_hour == pytest.approx(sum(prices[d] for d in used))


def test_cost_is_by_time():
    plan = plans.first(settings.demo(), SYSTEMS["static"], 1.0)
    dear = plans.first(settings.demo(), SYSTEMS["jellybean"], 1.0)
    cheap, other = plan.cost.total_per_hour, dear.cost.total_per_hour
    found = plans.cost_of([(0.0, plan), (75.0, dear)], 50.0, 100.0)
    assert found == pytest.approx((cheap + other) / 2)
