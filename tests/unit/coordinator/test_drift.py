"""Measured against profiled device time: the ratio, how sure it is, and the profile that would have been right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.telemetry.drift import (
    Drift,
    DriftWindow,
    Ratio,
    corrected,
    corrected_problem,
    drift,
    expected_s,
    means,
    means_of,
    windows,
)
from tiermesh.documents.problem import (
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemProfile,
    ProblemStage,
)
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.v1 import telemetry_pb2 as pb

PROFILED = {1: 0.1, 2: 0.16, 4: 0.3}


def served(times: list[tuple[int, float]]) -> list[DriftWindow]:
    """One window a batch: its size and seconds."""
    return [DriftWindow({size: 1}, {size: seconds}) for size, seconds in times]


@settings(deadline=None)  # the first ratio imports SciPy
@given(
    factor=st.floats(0.2, 5.0),
    sizes=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=60),
)
def test_what_is_slower_by_a_factor_is_found_to_be(factor: float, sizes: list[int]) -> None:
    found = drift(served([(s, factor * expected_s(PROFILED, s)) for s in sizes]), PROFILED)
    assert found.overall is not None
    assert found.overall.ratio == pytest.approx(factor)
    assert found.overall.low <= found.overall.ratio * 1.0001
    assert found.overall.high >= found.overall.ratio * 0.9999
    assert {s: r.ratio for s, r in found.by_size.items()} == pytest.approx(
        dict.fromkeys(sizes, factor)
    )
    assert sum(r.batches for r in found.by_size.values()) == len(sizes) == found.overall.batches


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw, hits = random.Random(4), 0
    for _ in range(400):
        sizes = draw.choices([1, 2, 4], k=30)
        times = [(s, 1.2 * PROFILED[s] * draw.uniform(0.7, 1.3)) for s in sizes]
        overall = drift(served(times), PROFILED).overall
        assert overall is not None
        hits += overall.low <= 1.2 <= overall.high
    assert 0.90 < hits / 400 < 0.99


def test_spells_of_slowness_make_it_less_sure() -> None:
    """A hundred windows in ten spells say hardly more than ten windows do."""
    draw = random.Random(5)
    spells = [draw.choice([0.8, 1.6]) for _ in range(10)]
    one = drift(served([(1, 0.1 * s) for s in spells]), PROFILED).overall
    many = drift(served([(1, 0.1 * s) for s in spells for _ in range(10)]), PROFILED).overall
    assert one is not None
    assert many is not None
    assert many.high - many.low > 0.5 * (one.high - one.low)


def test_one_window_says_nothing_for_sure_and_none_says_nothing() -> None:
    alone = drift(served([(1, 9.0)]), PROFILED).overall
    assert alone is not None
    assert not alone.differs()
    assert drift([], PROFILED) == Drift(None, {})
    assert Drift(None, {}).factor(1) == 1.0


@pytest.mark.parametrize(
    ("low", "high", "differs"), [(1.05, 1.3, False), (1.11, 1.3, True), (0.7, 0.9, True)]
)
def test_it_differs_when_all_of_the_interval_does(low: float, high: float, differs: bool) -> None:
    assert Ratio((low + high) / 2, low, high, 9).differs() is differs


def sample(batches: dict[int, int], seconds: dict[int, float], generation: int = 1) -> object:
    return pb.ReplicaSample(
        generation=generation,
        batches=sum(batches.values()),
        batch_sizes=batches,
        batch_seconds=seconds,
    )


def test_windows_lie_between_samples_of_one_life_of_a_replica() -> None:
    samples = [
        sample({1: 2}, {1: 0.2}),
        sample({1: 2}, {1: 0.2}),
        sample({1: 3, 4: 1}, {1: 0.35, 4: 0.5}),
        sample({1: 1}, {1: 0.1}),  # a worker that was restarted
        sample({1: 2}, {1: 0.3}),
        sample({1: 9}, {1: 0.9}, generation=2),
    ]
    found = windows(samples)
    assert [dict(w.batches) for w in found] == [{1: 1, 4: 1}, {1: 1}]
    assert found[0].seconds == pytest.approx({1: 0.15, 4: 0.5})
    assert found[1].seconds == pytest.approx({1: 0.2})


def profile() -> Profile:
    points = [
        Point(
            batch_size=size,
            threads=threads,
            samples=9,
            seconds=Seconds(**dict.fromkeys(Seconds.__struct_fields__, seconds / threads)),
            items_per_second=size * threads / seconds,
            interval=0.02,
        )
        for threads in (1, 2)
        for size, seconds in PROFILED.items()
    ]
    return Profile(
        device="device",
        device_class="class",
        model="model",
        variant="v",
        variant_digest="sha256:0",
        runtime="onnx",
        agent_version="1",
        measured_at="2026-01-01T00:00:00+00:00",
        points=points,
    )


def test_a_corrected_profile_shows_no_drift_any_more() -> None:
    assert means(profile(), 1) == PROFILED
    times = [(s, f * PROFILED[s]) for s, f in ((1, 1.2), (2, 1.3), (4, 1.4)) for _ in range(9)]
    right = corrected(profile(), drift(served(times), PROFILED))
    again = drift(served(times), means(right, 1))
    assert {s: r.ratio for s, r in again.by_size.items()} == pytest.approx({1: 1, 2: 1, 4: 1})
    assert right.points[0].items_per_second == pytest.approx(1 / 0.12)
    assert right.points[0].seconds.p95 == pytest.approx(0.12)


def test_a_size_that_was_hardly_seen_is_corrected_as_all_are() -> None:
    times = [(1, 0.12), (1, 0.118), (1, 0.122), (4, 0.9)]
    found = drift(served(times), PROFILED)
    assert found.overall is not None
    assert found.factor(1) == pytest.approx(1.2)
    assert found.factor(4) == found.factor(2) == found.overall.ratio


def test_a_problem_is_corrected_where_its_replicas_drifted() -> None:
    batches = [BatchTime(batch_size=1, mean=0.1, percentiles={"p95": 0.2})]
    problem = Problem(
        name="p",
        tiers=["edge"],
        devices=[ProblemDevice(name=name, tier="edge") for name in ("a", "b")],
        stages=[ProblemStage(name="s", kind="model", variants=["v"])],
        edges=[],
        profiles=[
            ProblemProfile(stage="s", variant="v", device=name, batches=batches)
            for name in ("a", "b")
        ],
    )
    found = drift(served([(1, 0.15)] * 3), means_of(batches))
    right = corrected_problem(problem, {("s", "v", "b"): found})
    assert right.profiles[0] == problem.profiles[0]
    assert right.profiles[1].batches[0].mean == pytest.approx(0.15)
    assert right.profiles[1].batches[0].percentiles["p95"] == pytest.approx(0.3)
    assert right.digest != problem.digest
