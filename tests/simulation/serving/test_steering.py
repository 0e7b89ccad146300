"""Steering by its effect: disturbances with delays, seeded, over minutes; and the calm of an hour."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.serving.steering.rule import LaneRule
from tests.simulation.serving.lanes import Factor, Run, SimLane, always, between, simulate

RATE_RPS = 6.7
SLO_S = 3.0
SLOW = between(60.0, 180.0, 2.5)
STUCK = between(60.0, 180.0, 100.0)


def lanes(
    services: tuple[float, ...],
    *,
    rate_rps: float = RATE_RPS,
    slower: Factor = always,
    way: Factor = always,
) -> list[SimLane]:
    """Lanes with equal shares; what is disturbed is the first. Each may be used to 90 %, as the plan says."""
    share = 1 / len(services)
    made = [
        SimLane(LaneRule(share, min(0.9 / (rate_rps * service), 1.0)), service)
        for service in services
    ]
    made[0].slower, made[0].way = slower, way
    return made


def slow(seed: int, *, steers: bool = True) -> Run:
    return simulate(
        lanes((0.15, 0.15), slower=SLOW), seed=seed, rate_rps=RATE_RPS, seconds=305, steers=steers
    )


def stuck(seed: int, *, steers: bool = True) -> Run:
    return simulate(
        lanes((0.14, 0.12), way=STUCK), seed=seed, rate_rps=RATE_RPS, seconds=305, steers=steers
    )


def loaded(seed: int, *, steers: bool = True) -> Run:
    rate = 0.8 * RATE_RPS
    return simulate(
        lanes((0.26, 0.13), rate_rps=rate), seed=seed, rate_rps=rate, seconds=305,
        load=between(60.0, 180.0, 1.5), steers=steers,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disturbed", [slow, stuck, loaded])
def test_most_requests_are_in_time_through_a_disturbance_and_without_steering_they_are_not(
    disturbed: Callable[..., Run], seed: int
) -> None:
    run = disturbed(seed)
    assert run.within(SLO_S, 60.0, 185.0) > 0.93
    assert run.within(SLO_S, 60.0, 185.0) > disturbed(seed, steers=False).within(SLO_S, 60.0, 185.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_lane_that_is_stuck_loses_its_share_within_three_seconds(seed: int) -> None:
    run = stuck(seed)
    assert run.share(0, 59.9) == 0.5
    assert run.share(0, 63.5) < 0.1
    assert run.share(0, 100.0) > 0.0, "a trickle tells when it is back"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disturbed", [slow, stuck, loaded])
def test_shares_are_those_of_the_plan_again_when_it_is_over(
    disturbed: Callable[..., Run], seed: int
) -> None:
    assert disturbed(seed).share(0, 299.0) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("disturbed", [slow, stuck, loaded])
def test_shares_do_not_swing(disturbed: Callable[..., Run], seed: int) -> None:
    """In two minutes of a disturbance a lane is relieved a few times: what it gets back comes ever more slowly."""
    run = disturbed(seed)
    assert run.steering is not None
    assert run.steering.rule.moves.away <= 10


@pytest.mark.parametrize(("load", "moved"), [(0.3, 0.005), (0.6, 0.005), (0.8, 0.02), (0.85, 0.02)])
def test_noise_alone_moves_next_to_nothing_and_does_no_harm(load: float, moved: float) -> None:
    rate = 2 * load / 0.15
    still, steered = (
        simulate(
            lanes((0.15, 0.15), rate_rps=rate), seed=3, rate_rps=rate, seconds=1_800, steers=steers
        )
        for steers in (False, True)
    )
    away = [abs(shares[0] - 0.5) for _, shares in steered.shares]
    assert sum(away) / len(away) < moved
    assert steered.p95(0.0, 1_800.0) < 1.1 * still.p95(0.0, 1_800.0)


ACCURATE, CHEAP = 0.9, 0.7


def scaled(
    seed: int,
    floor: float,
    *,
    accuracy: bool = True,
    rule: float | None = CHEAP,
    steers: bool = True,
) -> Run:
    """An accurate lane that becomes slow, and a spare one that is cheaper by far."""
    made = [
        SimLane(LaneRule(1.0, 1.0, ACCURATE), 0.15, slower=SLOW),
        SimLane(LaneRule(0.0, 1.0, rule), 0.05),
    ]
    return simulate(
        made, seed=seed, rate_rps=4.0, seconds=305, at_least=floor, accuracy=accuracy, steers=steers
    )


def served(run: Run) -> list[float]:
    """The mean accuracy of all that was accepted up to each request, in the order of acceptance."""
    total, means = 0.0, list[float]()
    for count, (_, _, lane) in enumerate(sorted(run.ended), 1):
        total += CHEAP if lane else ACCURATE
        means.append(total / count)
    return means


@pytest.mark.parametrize("seed", range(3))
def test_under_overload_requests_go_to_a_cheaper_variant_down_to_the_floor_and_back(
    seed: int,
) -> None:
    run = scaled(seed, 0.8)
    assert 0.2 < run.mean_share(1, 70.0, 180.0) <= 0.5 + 1e-9
    assert run.within(SLO_S, 60.0, 185.0) > 0.85
    still = scaled(seed, 0.8, steers=False)
    assert still.within(SLO_S, 60.0, 185.0) < 0.4
    assert run.share(1, 299.0) == pytest.approx(0.0)


@pytest.mark.parametrize("floor", [0.75, 0.8, 0.85, 0.88])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_served_is_never_less_accurate_than_the_floor(seed: int, floor: float) -> None:
    run = scaled(seed, floor)
    assert max(shares[1] for _, shares in run.shares) > 0.0
    assert min(served(run)) >= floor


def test_nothing_goes_to_a_lane_below_the_floor_without_slack_nor_where_accuracy_is_not_known() -> (
    None
):
    for run in (scaled(1, ACCURATE), scaled(1, 0.8, rule=None), scaled(1, 0.8, accuracy=False)):
        assert all(shares[1] == 0.0 for _, shares in run.shares)


def test_of_two_lanes_with_room_the_one_that_is_as_accurate_is_taken_first() -> None:
    made = [
        SimLane(LaneRule(1.0, 1.0, ACCURATE), 0.15, slower=SLOW),
        SimLane(LaneRule(0.0, 1.0, CHEAP), 0.05),
        SimLane(LaneRule(0.0, 1.0, ACCURATE), 0.15),
    ]
    run = simulate(made, seed=2, rate_rps=4.0, seconds=200, at_least=0.7)
    assert run.mean_share(2, 80.0, 180.0) > 0.3
    assert max(shares[1] for _, shares in run.shares) < 0.05


def test_lanes_that_end_at_other_sinks_take_nothing() -> None:
    made = [
        SimLane(LaneRule(0.5, 1.0, ends=("out@a",)), 0.15, slower=STUCK),
        SimLane(LaneRule(0.5, 1.0, ends=("out@b",)), 0.05),
    ]
    run = simulate(made, seed=2, rate_rps=4.0, seconds=120)
    assert all(shares == [0.5, 0.5] for _, shares in run.shares)
