"""Histograms of durations: what they estimate, that they add up in any order, and what is refused from outside."""

from __future__ import annotations

from functools import reduce
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiermesh.errors import InvalidDocument
from tiermesh.histogram import (
    BUCKETS,
    COARSEST,
    COUNT_MAX,
    EMPTY,
    LEAST_S,
    MOST_S,
    PERCENTILES,
    SCALE,
    Histogram,
    fill,
    histogram,
    merged,
    read,
)
from tiermesh.v1 import telemetry_pb2 as pb

DURATIONS = st.lists(st.floats(LEAST_S, MOST_S, exclude_min=True), max_size=60)
USUAL = st.lists(st.floats(0.002, 1.9), min_size=1, max_size=60)
ANY = st.lists(st.floats(-1.0, 2 * MOST_S) | st.sampled_from([0.0, 1.0, 0.5, 1e-9]), max_size=60)


def nearest_rank(durations, share):
    return sorted(durations)[ceil(share * len(durations)) - 1]


@given(DURATIONS.filter(bool), st.sampled_from(sorted(PERCENTILES.values())))
def test_an_estimate_is_within_the_error_that_is_stated(durations, share):
    found = histogram(durations)
    true = nearest_rank(durations, share)
    assert found.count == len(durations)
    assert found.percentile_s(share) == pytest.approx(true, rel=found.relative_error + 1e-9)
    assert found.relative_error < 0.044


@given(USUAL)
def test_the_error_is_about_a_percent_where_the_longest_is_within_1000_times_the_shortest(
    durations,
):
    assert histogram(durations).scale == SCALE
    assert histogram(durations).relative_error < 0.011


@given(ANY)
def test_however_far_apart_durations_are_a_histogram_stays_bounded(durations):
    found = histogram(durations)
    assert len(found.counts) <= BUCKETS
    assert COARSEST <= found.scale <= SCALE
    assert found.count == len(durations)
    assert found.zero_count == sum(d <= LEAST_S for d in durations)


@given(st.lists(ANY, max_size=6), st.randoms(use_true_random=False))
def test_parts_merge_in_any_order_and_grouping_into_the_histogram_of_all(parts, chance):
    whole = histogram(d for part in parts for d in part)
    made = [histogram(part) for part in parts]
    assert merged(made) == whole
    chance.shuffle(made)
    assert reduce(lambda a, b: merged([a, b]), made, EMPTY) == whole
    half = len(made) // 2
    assert merged([merged(made[half:]), merged(made[:half])]) == whole


def test_the_percentile_of_two_sources_is_not_the_mean_of_theirs():
    quick, slow = [0.1] * 900, [2.0] * 100
    both = merged([histogram(quick), histogram(slow)])
    averaged = (900 * 0.1 + 100 * 2.0) / 1_000
    assert averaged == pytest.approx(0.29)
    assert both.percentile_s(0.95) == pytest.approx(2.0, rel=0.011)
    assert both.percentile_s(0.9) == pytest.approx(0.1, rel=0.011)


def test_nothing_is_told_of_no_durations():
    assert EMPTY.percentiles_ms() == {}
    assert EMPTY.percentile_s(0.95) == 0.0
    assert merged([]) == merged([EMPTY, EMPTY]) == EMPTY
    assert histogram([0.0, 0.0, 1.0]).percentile_s(0.5) == 0.0


@given(ANY)
def test_a_histogram_comes_back_as_it_was_sent(durations):
    found, message = histogram(durations), pb.Histogram()
    fill(message, found)
    assert read(pb.Histogram.FromString(message.SerializeToString())) == found


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Histogram(scale=SCALE + 1, counts=[1]), "scale"),
        (pb.Histogram(scale=-(2**31), counts=[1]), "scale"),
        (pb.Histogram(scale=SCALE, counts=[1] * (BUCKETS + 1)), "counts"),
        (pb.Histogram(scale=SCALE, offset=2**31 - 1, counts=[1]), "offset"),
        (pb.Histogram(scale=SCALE, offset=-(2**31), counts=[1]), "offset"),
        (pb.Histogram(scale=SCALE, counts=[2**64 - 1] * BUCKETS), "counts"),
        (pb.Histogram(zero_count=COUNT_MAX + 1), "counts"),
    ],
)
def test_what_is_no_histogram_is_refused(message, field):
    with pytest.raises(InvalidDocument, match="histogram") as refused:
        read(message)
    assert refused.value.fields["path"] == f"$.{field}"


@given(
    st.builds(
        pb.Histogram,
        scale=st.integers(-(2**31), 2**31 - 1) | st.integers(COARSEST, SCALE),
        offset=st.integers(-(2**31), 2**31 - 1) | st.integers(-700, 700),
        counts=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=BUCKETS + 2),
        zero_count=st.integers(0, 2**64 - 1),
    )
)
def test_whatever_comes_is_refused_or_can_be_estimated_and_merged(message):
    try:
        found = read(message)
    except InvalidDocument:
        return
    both = merged([found, histogram([LEAST_S, 1.0, MOST_S])])
    assert both.count == found.count + 3
    assert len(both.counts) <= BUCKETS
    assert all(0 <= ms <= 1.05e3 * MOST_S for ms in found.percentiles_ms().values())


def test_defaults_are_those_of_an_empty_histogram():
    assert read(pb.Histogram()) == Histogram() == EMPTY
