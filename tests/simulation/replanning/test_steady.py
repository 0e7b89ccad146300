"""While nothing changes, chance alone sets no replan off, for a simulated day; and what changes is found in time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coordinator.keeping.load_monitor import LoadMonitor
from coordinator.replanning import ReplanReason, State, decide, observe
from coordinator.replanning.load import LoadTest
from coordinator.replanning.state import LoadMeasured, OperatorApplied
from tests.simulation.replanning.mesh import PLAN, PROBLEM, Mesh
from tests.simulation.replanning.steady import (
    BURSTY,
    DAY_S,
    POLICY,
    RATES,
    alarm_s,
    bursty_counts,
    bursty_test,
    day_of_ratios,
    false_alarms,
    median_delay_s,
    poisson_counts,
    poisson_test,
)

SEEDS = range(2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", RATES)
def test_poisson_arrivals_of_a_steady_rate_are_no_change_for_a_day(rate, seed):
    assert false_alarms(rate, DAY_S, seed) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_bursts_that_the_plan_knows_are_no_change_for_a_day(seed):
    assert alarm_s(bursty_test(), bursty_counts(DAY_S, seed), 1.0) is None


def test_bursts_are_a_change_to_a_plan_that_expects_none():
    """What the test above is worth."""
    hours = (bursty_counts(3_600.0, seed) for seed in SEEDS)
    assert any(alarm_s(poisson_test(BURSTY.rate), hour, 1.0) for hour in hours)


@pytest.mark.parametrize("seed", range(40))
def test_noise_alone_is_no_change_at_any_rate(seed):
    rate = 10 ** np.random.default_rng(seed).uniform(-1.5, 3.0)
    assert false_alarms(rate, DAY_S / 12, seed) == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ratio", [0.85, 1.05])
def test_a_rate_that_is_slightly_another_is_not_worth_acting_on(ratio, seed):
    counts = poisson_counts(4.0 * ratio, DAY_S, 1.0, seed)
    assert alarm_s(poisson_test(4.0), counts, 1.0) is None


@pytest.mark.parametrize("seed", range(5))
def test_bursts_that_the_plan_did_not_know_are_learnt(seed):
    """After an hour of them, the test that begins anew knows how they come."""
    past = [(n, 1.0) for n in bursty_counts(3_600.0, seed)]
    test = LoadTest(BURSTY.rate, POLICY.false_alarm_s, past=past)
    assert alarm_s(test, bursty_counts(3 * 3_600.0, seed + 100), 1.0) is None


@pytest.mark.parametrize(
    ("rate", "ratio", "most_s"),
    [
        (4.0, 1.5, 40.0),
        (4.0, 2.0, 12.0),
        (4.0, 3.0, 5.0),
        (4.0, 0.5, 75.0),
        (20.0, 1.5, 8.0),
        (20.0, 2.0, 3.5),
        (200.0, 1.5, 1.5),
        (0.2, 2.0, 250.0),
    ],
)
def test_a_change_is_found_in_time(rate, ratio, most_s):
    assert median_delay_s(rate, ratio, runs=40) <= most_s


def test_no_test_that_errs_so_rarely_is_much_faster():
    """Lorden's bound on the mean delay, for a change to 1.5 times 4/s."""
    divergence_per_s = 6.0 * math.log(1.5) - 2.0
    drift_per_s = 2.0 - 4.0 * math.log(1.5)
    bound_s = math.log(POLICY.false_alarm_s * drift_per_s) / divergence_per_s
    assert bound_s > 30.0
    assert median_delay_s(4.0, 1.5, runs=40) < 1.3 * bound_s


# --- the whole of it: samples in, decisions out ------------------------------------------------------------------


def decisions(mesh, seconds, look_s, on=None):
    """What `decide` says over time, as (seconds, reason), with nothing done about it."""
    measuring = on or LoadMonitor(PROBLEM, {}, PLAN, "run-1", 1, POLICY)
    state = observe(OperatorApplied(0.0, frozenset({"cam-1", "hub-1"})), State(policy=POLICY))
    found = []
    for at in range(int(seconds)):
        for device, sample in mesh.samples(float(at)):
            measuring.take(device, sample)
        if at % look_s == 0:
            measured = LoadMeasured(
                float(at), measuring.load(), measuring.ratios(), measuring.burn()
            )
            state = observe(measured, state)
            due = decide(state, float(at))
            if due is not None:
                found.append((at, due.reason))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_of_a_mesh_that_does_what_was_planned_set_no_replan_off(seed):
    """Two cameras, batches with a third of spread and spells of it, a miss of 4 % where 5 % may."""
    assert decisions(Mesh(seed, missed=0.04), 3_600, look_s=10) == []


def test_device_times_that_grow_by_half_are_found():
    mesh = Mesh(1, slower=lambda at: 1.6 if at >= 300 else 1.0)
    (at, reason), *_ = decisions(mesh, 500, look_s=5)
    assert reason is ReplanReason.PROFILE_DRIFT
    assert at <= 420


@pytest.mark.parametrize(("missed", "most_s"), [(1.0, 25), (0.5, 50), (0.3, 90), (0.12, 700)])
def test_an_slo_that_is_missed_is_found(missed, most_s):
    mesh = Mesh(2, missed=lambda at: missed if at >= 700 else 0.03)
    found = decisions(mesh, 1_450, look_s=5)
    assert found, "nothing was found"
    assert found[0][1] is ReplanReason.SLO_MISSED
    assert 700 <= found[0][0] <= 700 + most_s


@pytest.mark.parametrize("rate", [0.2, 4.0, 50.0])
def test_noisy_device_times_have_not_drifted_for_a_day(rate):
    """Batches with a third of spread, and spells in which all are up to 15 % slower or faster."""
    low, high = POLICY.drift.enter
    found = [ratio.sure for ratio in day_of_ratios(rate, seed=1, look_s=300)]
    assert len(found) > 250
    assert all(low < sure < high for sure in found)
