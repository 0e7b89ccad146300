"""Functions in plans: what they cost, when they pay, and that what is promised of them comes true."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planning import Options, PlanObjective, Strategy, solve
from coordinator.planning.figures import FunctionSize, Offer, mean_of, of_function
from coordinator.planning.requests import Requests
from coordinator.planning.settings import Offered, of_functions
from coordinator.planning.simulate import SimulatedLoad, simulate
from coordinator.planning.verify import violations
from tests.unit.planning.overflowing import BURSTY, TERMS, overflowing
from tiermesh.documents.problem import Arrivals, ColdStart, MapRates
from tiermesh.errors import InvalidDocument

SINGLE = {"box": ((1, 0.02),), "function": ((1, 0.04),)}
ITEM_USD = 0.04 * 2 * 1.66667e-05 + 2e-07
"""Of a call that takes 40 ms of 2 GB."""


def enumerated(rate: float, price: float, boxes: int = 3) -> float:
    """The least cost over every number of boxes: they take what they can, functions the rest."""
    each = 0.9 / 0.02
    return min(n * price + max(rate - n * each, 0.0) * ITEM_USD * 3600 for n in range(boxes + 1))


@pytest.mark.parametrize("price", [0.01, 0.1, 0.2, 0.24, 0.3, 1.0])
@pytest.mark.parametrize("rate", [10, 44, 46, 80, 200])
def test_cost_is_that_of_the_best_number_of_devices(rate, price):
    problem = overflowing(rate, price, **SINGLE)
    plan = solve(problem)

    assert plan.cost.total_per_hour == pytest.approx(enumerated(rate, price), rel=1e-6)
    assert plan.solver.termination == "optimal"
    assert violations(problem, plan) == []
    assert solve(problem, Options(strategy=Strategy.EXHAUSTIVE)).cost.total_per_hour == (
        pytest.approx(plan.cost.total_per_hour, rel=1e-6)
    )


@settings(max_examples=6, deadline=None)
@given(
    rate=st.sampled_from([3.0, 20.0, 55.0, 130.0]),
    price=st.sampled_from([0.02, 0.08, 0.3]),
    call=st.sampled_from([0.0, 2e-07, 2e-06]),
    cold=st.sampled_from([None, ColdStart(seconds=0.5, share=0.1, source="measured once")]),
    usable=st.sampled_from([0.7, 1.0]),
)
def test_whatever_the_prices_plans_keep_the_rules_and_their_bound(rate, price, call, cold, usable):
    terms = msgspec.structs.replace(TERMS, usd_per_call=call, cold_start=cold)
    problem = overflowing(rate, price, terms=terms, usable=usable)
    plan = solve(problem)

    assert violations(problem, plan) == []
    assert plan.solver.bound is not None
    assert plan.solver.bound <= plan.cost.total_per_hour * (1 + 1e-9)
    if rate <= 3 * usable * 8 / 0.09:
        alone = solve(overflowing(rate, price, terms=None, usable=usable))
        assert plan.cost.total_per_hour <= alone.cost.total_per_hour * (1 + 1e-6)


@pytest.fixture(scope="module")
def overflow():
    """Bursts for which one box is too slow, where boxes cost more than what functions take of them."""
    problem = overflowing(55, 0.1, p95=0.3, arrivals=BURSTY)
    return problem, solve(problem)


def test_bursts_overflow_where_a_second_device_costs_more(overflow):
    problem, plan = overflow
    devices = {r.device for r in plan.replicas if r.function is None}
    taken = sum(r.items_per_second for r in plan.replicas if r.function is not None)

    assert len(devices) == 1
    assert 0 < taken < 25
    assert 0.1 < plan.cost.total_per_hour < 0.2
    assert plan.predicted.latency_ms["p95"] <= 300
    assert violations(problem, plan) == []


def test_a_second_device_serves_bursts_where_it_costs_less():
    plan = solve(overflowing(55, 0.005, p95=0.3, arrivals=BURSTY))

    assert {r.device for r in plan.replicas} == {"box.1", "box.2"}
    assert plan.cost.serverless_per_hour == 0


def test_without_bursts_one_device_is_enough():
    plan = solve(overflowing(55, 0.1, p95=0.3))

    assert {r.device for r in plan.replicas} == {"box.1"}


@pytest.mark.parametrize("seed", [5, 6])
def test_what_is_promised_of_bursts_comes_true_under_other_ones(overflow, seed):
    problem, plan = overflow
    outcome = simulate(problem, plan, SimulatedLoad(requests=40_000, seed=seed))
    box = next(r for r in plan.replicas if r.function is None)

    assert outcome.latency_ms["p95"] == pytest.approx(plan.predicted.latency_ms["p95"], rel=0.15)
    assert outcome.busy[box.device] == pytest.approx(box.utilization, rel=0.05)
    assert outcome.serverless_per_hour == pytest.approx(plan.cost.serverless_per_hour, rel=0.05)


@pytest.mark.parametrize(
    ("arrivals", "items"), [("poisson", 0.5), ("poisson", 1.0), ("poisson", 2.5), (BURSTY, 1.0)]
)
def test_figures_of_a_function_are_those_of_a_simulation(arrivals, items):
    cold = ColdStart(seconds=0.3, share=0.04, source="measured once")
    terms = msgspec.structs.replace(TERMS, cold_start=cold)
    problem = overflowing(40, 1000.0, arrivals=arrivals, terms=terms)
    edges = [msgspec.structs.replace(problem.edges[0], ratio=items)]
    problem = msgspec.structs.replace(problem, edges=edges)
    plan = solve(problem)
    (replica,) = plan.replicas
    assert replica.function is not None

    outcome = simulate(problem, plan, SimulatedLoad(requests=20_000, seed=8))
    assert outcome.serverless_per_hour == pytest.approx(plan.cost.serverless_per_hour, rel=0.04)
    assert outcome.servers["lambda"] == pytest.approx(replica.function.mean_servers, rel=0.04)

    offer = Offer(
        1.0,
        items,
        tuple(problem.profiles[1].batches),
        replica.batch_size,
        replica.batch_timeout_ms / 1e3,
    )
    figures = of_function(offer, Requests.of(problem), FunctionSize(2048, terms))
    if items == 1.0:
        promised = 1e3 * figures.sojourn.at(np.array([0.5, 0.95])) + 10
        seen = [outcome.latency_ms[name] for name in ("p50", "p95")]
        assert seen == pytest.approx(promised, rel=0.05)
    assert mean_of(figures.sojourn) > 0.04


def test_functions_run_side_by_side():
    problem = overflowing(500, 1000.0, arrivals="constant", **SINGLE)
    outcome = simulate(problem, solve(problem), SimulatedLoad(requests=2000))

    assert outcome.latency_ms["p99"] == pytest.approx(50.0)
    assert outcome.servers["lambda"] == pytest.approx(500 * 0.04, rel=0.05)
    assert outcome.busy == {}


def test_the_floor_is_below_what_any_setting_costs():
    function = FunctionSize(2048, TERMS)
    times = tuple(overflowing(10, 1).profiles[1].batches)
    floor = function.floor(times)
    requests = Requests.of(overflowing(10, 1))
    for size, timeout in ((1, 0.0), (4, 0.05), (8, 0.5), (8, 10.0)):
        price = of_function(Offer(1.0, 1.0, times, size, timeout), requests, function).usd_per_item
        assert price >= floor * (1 - 1e-9)
    assert price == pytest.approx(floor, rel=0.01)


def test_any_device_may_be_lost_where_functions_take_over():
    problem = overflowing(40, 0.1, **SINGLE)
    asks = msgspec.structs.replace(problem.asks, any_device_lost={})
    problem = msgspec.convert(
        {**msgspec.to_builtins(problem), "asks": msgspec.to_builtins(asks)}, type(problem)
    )
    plan = solve(problem)

    used = {r.device for r in plan.replicas}
    assert used == {"box.1", "lambda"}
    assert plan.cost.total_per_hour == pytest.approx(0.1)
    assert all(lane.backup["read"].startswith("read@lambda") for lane in plan.lanes)
    lost = simulate(problem, plan, SimulatedLoad(fail="box.1", fail_at=0.3))
    assert lost.lost < 0.02 * 4000


@pytest.mark.parametrize(
    ("field", "value"), [("count", 2), ("price_per_hour", 0.1), ("memory_mb", 512.0)]
)
def test_what_makes_no_sense_of_functions_is_refused(field, value):
    problem = overflowing(10, 0.1)
    device = msgspec.structs.replace(problem.devices[1], **{field: value})
    problem = msgspec.structs.replace(problem, devices=[problem.devices[0], device])
    with pytest.raises(InvalidDocument) as error:
        solve(problem)
    assert error.value.fields["path"] == f"$.devices[1].{field}"


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(),
        Arrivals(trace_s=[3.0, 2.0]),
        Arrivals(trace_s=[1.0, 1.0]),
        Arrivals(map=MapRates(D0=[[-1.0]], D1=[[1.0, 0.0]])),
        Arrivals(map=MapRates(D0=[[-1.0]], D1=[[2.0]])),
    ],
)
def test_arrivals_that_are_none_are_refused(arrivals):
    with pytest.raises(InvalidDocument):
        solve(overflowing(10, 0.1, arrivals=arrivals))


def test_memory_sizes_are_weighed():
    """Twice the memory at a third of the time is cheaper; at two thirds it is not."""
    for speedup, memory in ((3.0, 4096), (1.5, 2048)):
        problem = overflowing(10, 1000.0, **SINGLE)
        larger = msgspec.structs.replace(
            problem.profiles[1],
            memory_mb=4096,
            batches=[msgspec.structs.replace(problem.profiles[1].batches[0], mean=0.04 / speedup)],
        )
        problem = msgspec.structs.replace(problem, profiles=[*problem.profiles, larger])
        (replica,) = solve(problem).replicas
        assert replica.function is not None
        assert replica.function.memory_mb == memory


def test_throughput_is_as_much_as_the_ceiling_buys():
    problem = overflowing(10, 0.1, **SINGLE)
    asks = msgspec.structs.replace(problem.asks, cost_per_hour_at_most=0.3)
    plan = solve(
        msgspec.structs.replace(problem, asks=asks), Options(objective=PlanObjective.THROUGHPUT)
    )
    left = {n: max(0.3 - n * 0.1, 0.0) for n in range(4)}
    enough = max(n * 45 + usd / (ITEM_USD * 3600) for n, usd in left.items())
    assert plan.predicted.throughput_rps == pytest.approx(enough, rel=1e-4)
    assert math.isclose(plan.cost.total_per_hour, 0.3, rel_tol=1e-4)


def test_throughput_without_a_ceiling_has_no_end():
    with pytest.raises(InvalidDocument, match="unbounded"):
        solve(overflowing(10, 0.1), Options(objective=PlanObjective.THROUGHPUT))


def test_exhaustion_claims_no_more_than_it_knows():
    plan = solve(overflowing(10, 0.1), Options(strategy=Strategy.EXHAUSTIVE))

    assert plan.solver.bound is not None
    assert plan.solver.bound < plan.cost.total_per_hour
    assert plan.solver.termination != "optimal"


def test_settings_trade_price_for_latency():
    problem = overflowing(40, 0.1)
    smaller = msgspec.structs.replace(
        problem.profiles[1],
        memory_mb=1024,
        batches=[
            msgspec.structs.replace(b, mean=b.mean * 1.6) for b in problem.profiles[1].batches
        ],
    )
    offered = Offered(share=1.0, items=1.0, most=6, longest_s=0.5)
    profiles = [problem.profiles[1], smaller]
    found = of_functions(profiles, TERMS, Requests.of(problem), offered)
    prices, stays = [s.usd_per_item for s in found], [s.stay_s for s in found]

    assert 2 <= len(found) <= 6
    assert prices == sorted(prices)
    assert stays == sorted(stays, reverse=True)
    assert {s.profile.memory_mb for s in found} == {1024, 2048}
    assert all(s.timeout_s <= 0.5 for s in found)
