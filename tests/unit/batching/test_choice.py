import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.batching import published_solver
from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.choice import (
    Ceiling,
    GridPoint,
    GridSetting,
    SettingsGrid,
    choose,
    frontier,
    point_at,
    steps_between,
)
from coordinator.planning.batching.laws import TraceLaw, law_for
from coordinator.planning.batching.published import published_choice, published_figures
from coordinator.planning.batching.service import (
    AWS_LAMBDA,
    ServiceGrid,
    ServicePrice,
    ServiceTimes,
)
from tiermesh.errors import Infeasible, InvalidDocument, Unsupported

MEMORIES = (1024.0, 2048.0, 3072.0)
FUNCTION = ServiceGrid(
    np.array([(0.4 + 0.2 * np.arange(1, 21)) * 2048 / m for m in MEMORIES]), MEMORIES, AWS_LAMBDA
)
GRID = SettingsGrid((1, 4, 8, 20), steps_between(0.05, 0.45, 0.1), FUNCTION)
BURSTY = MarkovianArrivals.mmpp((10.0, 120.0), (0.5, 0.5))
DEVICE = ServiceGrid.of_device(ServiceTimes(0.004 + 0.001 * np.arange(1, 9)))


def all_points(law, grid):
    return [point_at(law, grid, grid.setting(i)) for i in range(grid.size)]


@pytest.mark.parametrize(
    "ask", [Ceiling("latency", 2.5), Ceiling("latency", 1.2), Ceiling("cost", 1.6e-5)]
)
def test_the_choice_is_the_best_of_all_points(ask):
    law = law_for(BURSTY, None)
    chosen = choose(law, law.surface(GRID, ask.quantile), ask).point
    points = [point for point in all_points(law, GRID) if ask.value(point) <= ask.limit]
    if ask.of == "latency":
        best = min(point.cost_per_request_usd for point in points)
        assert chosen.cost_per_request_usd == pytest.approx(best)
    else:
        best = min(point.estimate.p95 for point in points)
        assert chosen.estimate.p95 == pytest.approx(best, rel=1e-3)
    assert ask.value(chosen) <= ask.limit


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(["latency", "cost"]), st.floats(0.2, 4.0), st.sampled_from([0.5, 0.95, 0.99])
)
def test_no_choice_exceeds_what_is_asked(of, factor, quantile):
    law = law_for(BURSTY, None)
    ask = Ceiling(of, factor if of == "latency" else factor * 1e-5, quantile)
    surface = law.surface(GRID, quantile)
    points = [point_at(law, GRID, GRID.setting(i)) for i in range(GRID.size)]
    if any(ask.value(point) <= ask.limit for point in points):
        assert ask.value(choose(law, surface, ask).point) <= ask.limit
        return
    with pytest.raises(Infeasible) as refused:
        choose(law, surface, ask)
    found = refused.value.fields["nearest"]
    assert isinstance(found, GridPoint)
    nearest = ask.value(found)
    assert nearest == pytest.approx(min(ask.value(point) for point in points), rel=1e-3)
    assert f"{nearest:.6g}" in refused.value.fix


def test_the_nearest_that_can_be_held_can_be_held():
    law = law_for(BURSTY, None)
    surface = law.surface(GRID, 0.95)
    with pytest.raises(Infeasible) as refused:
        choose(law, surface, Ceiling("latency", 0.01))
    nearest = refused.value.fields["nearest"]
    assert isinstance(nearest, GridPoint)
    assert choose(law, surface, Ceiling("latency", nearest.estimate.p95 * 1.0001)).feasible >= 1


def test_overload_has_no_nearest():
    law = law_for(MarkovianArrivals.poisson(1e4), 1)
    with pytest.raises(Infeasible, match="more requests arrive") as refused:
        choose(
            law,
            law.surface(SettingsGrid((1, 8), (0.0, 0.01), DEVICE), 0.95),
            Ceiling("latency", 1.0),
        )
    assert refused.value.fields["nearest"] is None


def test_a_device_that_is_free_is_spent_sparingly():
    law = law_for(MarkovianArrivals.poisson(200.0), 1)
    grid = SettingsGrid(tuple(range(1, 9)), (0.0, 0.005, 0.01, 0.02), DEVICE)
    tight = choose(law, law.surface(grid, 0.95), Ceiling("latency", 0.02)).point
    loose = choose(law, law.surface(grid, 0.95), Ceiling("latency", 0.2)).point
    assert tight.cost_per_request_usd == loose.cost_per_request_usd == 0.0
    assert loose.estimate.device_seconds < tight.estimate.device_seconds


def test_two_servers_serve_what_one_cannot():
    grid = SettingsGrid((4, 8), (0.005,), DEVICE)
    process = MarkovianArrivals.poisson(0.8 * DEVICE.at(0).capacity(8, servers=2))
    with pytest.raises(Infeasible):
        choose(
            law_for(process, 1), law_for(process, 1).surface(grid, 0.95), Ceiling("latency", 1.0)
        )
    law = law_for(process, 2)
    chosen = choose(law, law.surface(grid, 0.95), Ceiling("latency", 0.1)).point
    assert 0.8 <= (chosen.estimate.utilization or 0) < 1


def test_a_trace_is_judged_by_itself():
    arrivals = BURSTY.sample(5_000, np.random.default_rng(1))
    law = TraceLaw(arrivals, BURSTY, 1)
    setting = GridSetting(8, 0.01)
    found = law.estimate(SettingsGrid((8,), (0.01,), DEVICE), setting)
    assert found.mean_batch * 1 == pytest.approx(5_000 / round(5_000 / found.mean_batch))


def test_the_frontier_is_cheapest_first_and_nothing_beats_it():
    surface = law_for(BURSTY, None).surface(GRID, 0.95)
    best = frontier(surface)
    assert [cost for _, _, cost in best] == sorted(cost for _, _, cost in best)
    for _, latency, cost in best:
        beaten = (surface.latency_s < latency) & (surface.cost <= cost)
        assert not beaten.any()


def test_cost_is_the_true_mean():
    point = point_at(law_for(MarkovianArrivals.poisson(30.0), None), GRID, GridSetting(1, 0.05, 1))
    expected = 0.6 * 2.0 * 1.66667e-05 + 2e-07
    assert point.cost_per_request_usd == pytest.approx(expected)


def test_a_device_by_the_hour_costs_its_time():
    assert ServicePrice(usd_per_hour=3.6).per_request(0.5, 4.0) == pytest.approx(0.5 * 0.001)


class TestPublished:
    """The method of BATCH, as its own solver has it."""

    def test_it_fixes_the_batch_size_and_bills_a_quantile(self):
        chosen = published_choice(BURSTY, GRID, Ceiling("cost", 8e-6))
        assert chosen.batch_size == 20
        exact = point_at(law_for(BURSTY, None), GRID, chosen)
        assert exact.cost_per_request_usd > 8e-6 * 1.1, (
            "its mean cost exceeds the budget it was given"
        )

    def test_its_figures_are_those_of_its_solver_loop_by_loop(self):
        small = SettingsGrid((20,), (0.05, 0.35), FUNCTION)
        rows = dict(zip(MEMORIES, FUNCTION.seconds.tolist(), strict=True))
        latency, cost = published_solver.solve(BURSTY, rows.__getitem__, MEMORIES, small.timeouts_s)
        timeouts = np.array(small.timeouts_s)
        ours = published_figures(BURSTY, timeouts, FUNCTION.seconds, small, 0.95)
        assert ours[0] == pytest.approx(latency, abs=1e-9)
        assert ours[1] == pytest.approx(cost)

    @pytest.mark.parametrize(
        ("process", "grid", "why"),
        [
            (MarkovianArrivals.poisson(20.0), GRID, "Poisson"),
            (BURSTY, SettingsGrid((8,), (0.1,), DEVICE), "fixes B at 20"),
            (
                BURSTY,
                SettingsGrid(
                    (20,), (0.1,), ServiceGrid.of_device(ServiceTimes(np.linspace(2, 1, 20)))
                ),
                "must grow",
            ),
        ],
    )
    def test_it_says_where_it_cannot_be_applied(self, process, grid, why):
        with pytest.raises(Unsupported, match=r".*") as refused:
            published_choice(process, grid, Ceiling("latency", 3.0))
        assert why in refused.value.why

    def test_it_ends_where_by_its_own_figures_nothing_fits(self):
        with pytest.raises(Infeasible):
            published_choice(BURSTY, GRID, Ceiling("latency", 0.001))


def test_service_times_between_measured_sizes_are_interpolated_and_never_beyond():
    times = ServiceTimes.from_measured({1: 0.01, 4: 0.04, 8: 0.06})
    assert times.seconds == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.045, 0.05, 0.055, 0.06])
    assert times.largest_batch == 8
    assert not times.falls
    assert ServiceTimes.from_measured({1: 0.02, 2: 0.01}).falls


@pytest.mark.parametrize("measured", [{}, {0: 0.1}, {1: -0.1}, {1: float("nan")}, {5000: 1.0}])
def test_what_are_no_service_times_is_refused(measured):
    with pytest.raises(InvalidDocument):
        ServiceTimes.from_measured(measured)


def test_steps_have_no_summed_rounding():
    assert steps_between(0.01, 0.49, 0.01)[-1] == 0.49
    assert len(steps_between(0.01, 0.49, 0.01)) == 49
