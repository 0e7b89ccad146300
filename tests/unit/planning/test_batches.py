"""Batch sizes and timeouts in plans: when they pay, and that devices are as busy as the plan says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planning import Options, PlanObjective, slo, solve
from coordinator.planning.building import build
from coordinator.planning.candidates import Choosing
from coordinator.planning.draft import Draft
from coordinator.planning.figures import Offer, followed, on_device
from coordinator.planning.requests import Requests
from coordinator.planning.simulate import SimulatedLoad, simulate
from coordinator.planning.verify import violations
from tests.unit.planning.overflowing import BURSTY, batches, overflowing

FILLING = ((1, 0.01), (2, 0.012), (4, 0.016), (8, 0.024))
"""Mostly the same for any size: batches that fill are worth waiting for."""


def plainly(rate, *, price=1.0, p95=None, boxes=3, arrivals="poisson", box=FILLING, usable=0.7):
    return overflowing(
        rate, price, p95=p95, boxes=boxes, arrivals=arrivals, box=box, terms=None, usable=usable
    )


def test_a_timeout_makes_one_device_suffice():
    """At 200/s batches that start at once keep a device 98 % busy; of 70 %, they must wait for more items."""
    problem = plainly(200)
    plan = solve(problem)
    (replica,) = plan.replicas

    assert replica.batch_size == 8
    assert replica.batch_timeout_ms > 0
    assert replica.utilization <= 0.7
    seen = simulate(problem, plan, SimulatedLoad(requests=20_000, seed=4)).busy["box.1"]
    assert seen == pytest.approx(replica.utilization, rel=0.03)

    at_once = msgspec.structs.replace(replica, batch_timeout_ms=0.0)
    greedy = msgspec.structs.replace(plan, replicas=[at_once])
    assert simulate(problem, greedy, SimulatedLoad(requests=20_000, seed=4)).busy["box.1"] > 0.9


def test_a_device_with_time_to_spare_waits_for_nothing():
    (replica,) = solve(plainly(40)).replicas

    assert replica.batch_timeout_ms == 0
    assert replica.utilization == pytest.approx(0.4, rel=0.1)  # most batches are of one item


def test_the_room_of_a_replica_holds_its_timeout():
    (replica,) = solve(plainly(200)).replicas

    assert replica.room is not None
    assert replica.room.batch_timeout_ms_max == replica.batch_timeout_ms
    assert replica.room.batch_size_max == 8


def test_where_energy_counts_batches_fill():
    problem = plainly(100, boxes=1, usable=1.0)
    device = msgspec.structs.replace(problem.devices[0], watts_busy=100.0)
    problem = msgspec.structs.replace(problem, devices=[device])
    (plain,) = solve(problem).replicas
    (frugal,) = solve(problem, Options(objective=PlanObjective.POWER)).replicas

    assert plain.batch_timeout_ms == 0
    assert frugal.batch_timeout_ms > 0
    assert frugal.utilization < 0.5 * plain.utilization


@pytest.mark.parametrize("p95", [0.06, 0.12, 1.0])
def test_percentiles_hold_with_batches(p95):
    problem = plainly(200, p95=p95)
    plan = solve(problem)

    assert violations(problem, plan) == []
    assert plan.predicted.latency_ms["p95"] <= 1e3 * p95
    seen = simulate(problem, plan, SimulatedLoad(requests=20_000, seed=3))
    assert seen.latency_ms["p95"] <= 1e3 * p95 * 1.05
    for name, share in seen.busy.items():
        said = sum(r.utilization for r in plan.replicas if r.device == name)
        assert said == pytest.approx(share, rel=0.04)
        assert share <= 0.7 * 1.02


def test_a_dearer_plan_is_as_quick_as_is_asked():
    costs = [solve(plainly(200, p95=p95)).cost.total_per_hour for p95 in (0.025, 0.12, 1.0)]

    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1]


@pytest.mark.parametrize("arrivals", ["poisson", "constant", BURSTY])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_figures_of_a_device_are_those_of_a_simulation(arrivals, share):
    """The plan is made so that one of two boxes gets the share; both have their own figures."""
    problem = plainly(60, boxes=2, arrivals=arrivals, box=((1, 0.01), (4, 0.02)), usable=1.0)
    plan = solve(problem)
    first, twin = (
        msgspec.structs.replace(plan.replicas[0], id=f"read@{d}/v", device=d)
        for d in ("box.1", "box.2")
    )
    lanes = [
        msgspec.structs.replace(plan.lanes[0], share=part, path={"read": r.id}, backup={})
        for part, r in ((share, first), (1 - share, twin))
        if part > 0
    ]
    served = msgspec.structs.replace(plan, replicas=[first, twin][: len(lanes)], lanes=lanes)
    seen = simulate(problem, served, SimulatedLoad(requests=30_000, seed=12))

    offer = Offer(share, 1.0, tuple(batches(((1, 0.01), (4, 0.02)))), 4)
    (figures,) = followed([offer], Requests.of(problem))
    assert seen.busy["box.1"] == pytest.approx(60 * share * figures.seconds, rel=0.05)
    if share == 1.0 and arrivals != "constant":
        p95 = 1e3 * figures.sojourn.at(np.array([0.95]))[0]
        assert seen.latency_ms["p95"] == pytest.approx(p95, rel=0.08)


def test_replicas_of_a_device_are_followed_together():
    times = tuple(batches(FILLING))
    requests = Requests.of(plainly(60))
    alone = on_device([Offer(1.0, 1.0, times, 8)], requests, 1.0)[0]
    both = on_device([Offer(1.0, 1.0, times, 8), Offer(1.0, 2.0, times, 8)], requests, 1.0)

    at = np.array([0.5, 0.95])
    assert (both[0].sojourn.at(at) > alone.sojourn.at(at)).all()
    assert 60 * both[0].seconds + 120 * both[1].seconds < 1


@settings(max_examples=20, deadline=None)
@given(
    rate=st.floats(5, 300),
    items=st.sampled_from([0.3, 1.0, 3.4]),
    size=st.sampled_from([1, 2, 4, 8]),
    timeout=st.sampled_from([0.0, 0.01, 0.2]),
)
def test_device_time_is_between_that_of_full_batches_and_of_single_items(
    rate, items, size, timeout
):
    times = tuple(batches(FILLING))
    requests = Requests.of(plainly(rate))
    (figures,) = followed([Offer(0.8, items, times, size, timeout)], requests, 1000)

    full = next(b.mean / size for b in times if b.batch_size == size)
    assert full * (1 - 1e-9) <= figures.seconds <= 0.01 * (1 + 1e-9)
    assert 1 <= figures.mean_batch <= size


def test_settings_at_a_level_are_candidates():
    instance = build(plainly(200), delays=True, choosing=Choosing(busy=0.6))
    settings_ = {(c.batch.batch_size, c.timeout_s) for c in instance.candidates if c.batch}

    assert any(timeout for _, timeout in settings_)
    assert any(not timeout for _, timeout in settings_)
    by_seconds = sorted(instance.candidates, key=lambda c: c.seconds)
    stays = [c.stay_s for c in by_seconds]
    assert stays == sorted(stays, reverse=True)


# --- bounds ------------------------------------------------------------------------------------------------------


def slow_and_quick(p95):
    """A slow box at a tenth of the price, which can serve everything, but not in time."""
    problem = plainly(4, p95=p95, boxes=1, box=((1, 0.2),), price=0.1, usable=1.0)
    quick = msgspec.structs.replace(problem.devices[0], name="quick", price_per_hour=1.0)
    profile = msgspec.structs.replace(
        problem.profiles[0], device="quick", batches=batches(((1, 0.02),))
    )
    return msgspec.structs.replace(
        problem, devices=[*problem.devices, quick], profiles=[*problem.profiles, profile]
    )


def test_what_cannot_be_quick_enough_does_not_loosen_the_bound():
    plan = solve(slow_and_quick(0.1))

    assert plan.cost.total_per_hour == pytest.approx(1.0)
    assert plan.solver.bound == pytest.approx(1.0)


def test_a_percentile_leaves_room_for_a_few_slow_requests():
    problem = slow_and_quick(0.1)
    found = slo.search(problem, Options())
    assert found is not None
    asks = msgspec.structs.replace(problem.asks, latency_s={"p50": 0.1})
    loose = solve(msgspec.structs.replace(problem, asks=asks))
    assert loose.solver.bound is not None
    assert loose.solver.bound <= found.found.objective


@settings(max_examples=12, deadline=None)
@given(
    p95=st.sampled_from([0.08, 0.12, 0.3]),
    rate=st.sampled_from([4.0, 20.0]),
    slow=st.sampled_from([0.04, 0.11, 0.25]),
)
def test_no_plan_that_keeps_its_percentiles_is_below_the_bound(p95, rate, slow):
    """The bound of the program against a plan found with everything quick enough by hand: all on `quick`."""
    problem = slow_and_quick(p95)
    stages = [
        msgspec.structs.replace(s, rate_rps=rate) if s.kind == "source" else s
        for s in problem.stages
    ]
    profiles = [
        msgspec.structs.replace(problem.profiles[0], batches=batches(((1, slow),))),
        problem.profiles[1],
    ]
    problem = msgspec.structs.replace(problem, stages=stages, profiles=profiles)
    plan = solve(problem)

    only = msgspec.structs.replace(
        problem, stages=[stages[0], msgspec.structs.replace(stages[1], devices=["quick"])]
    )
    assert plan.solver.bound is not None
    assert plan.solver.bound <= solve(only).cost.total_per_hour * (1 + 1e-9)
    assert plan.cost.total_per_hour <= solve(only).cost.total_per_hour * (1 + 1e-9)


# --- arrivals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", ["poisson", "constant", BURSTY])
@pytest.mark.parametrize(("share", "items"), [(1.0, 1.0), (0.2, 1.0), (0.5, 2.5), (0.5, 0.4)])
def test_a_replica_sees_its_share(arrivals, share, items):
    times = Requests.of(plainly(40, arrivals=arrivals)).at(share, items, 40_000)
    rate = len(times) / (times[-1] - times[0])

    assert rate == pytest.approx(40 * share * items, rel=0.03)
    assert (np.diff(times) >= 0).all()


def test_a_share_of_a_process_is_as_bursty_as_thinning_makes_it():
    """The dispersion of counts, less one, shrinks with the share: exact for any thinned process."""
    process = Requests.of(plainly(40, arrivals=BURSTY)).as_process

    assert process.thinned(0.25).dispersion - 1 == pytest.approx((process.dispersion - 1) / 4)


def test_a_record_is_played_at_the_rate_of_the_source():
    record = {"trace_s": [0.0, 1.0, 1.1, 1.2, 9.0]}
    problem = plainly(10)
    plain = msgspec.to_builtins(problem)
    plain["stages"][0]["arrivals"] = record
    problem = msgspec.convert(plain, type(problem))
    requests = Requests.of(problem)
    times = requests.times(11, np.random.default_rng(0))

    assert times[4] - times[0] == pytest.approx(0.4)
    assert times[1] - times[0] == pytest.approx(0.4 / 9)
    assert times[5] > times[4]
    outcome = simulate(problem, solve(problem), SimulatedLoad(requests=500))
    assert outcome.throughput_rps == pytest.approx(10, rel=0.1)


def test_bursts_are_slower_than_the_same_requests_by_chance():
    latencies = [
        solve(plainly(60, boxes=1, arrivals=a, usable=1.0)).predicted.latency_ms["p95"]
        for a in ("constant", "poisson", BURSTY)
    ]
    assert latencies == sorted(latencies)
    assert latencies[2] > latencies[0]


def test_figures_are_worked_out_once_for_devices_alike():
    """Equal boxes with equal loads share their figures."""
    problem = plainly(2000, boxes=20)
    from coordinator.planning import exact

    found = exact.search(build(problem), Options())
    assert found is not None
    draft: Draft = found.draft
    kinds = {id(figures) for figures in draft.figures.values()}
    assert len(draft.figures) > 5
    assert len(kinds) <= 2
