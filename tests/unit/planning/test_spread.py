"""Drawn batch times have the profile's mean and its percentiles."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planning.service_times import at, curve
from tiermesh.documents.problem import BatchTime
from tiermesh.documents.workflow import PERCENTILES


def measured(seconds: list[float]) -> BatchTime:
    """What a profile tells of these times."""
    ordered = sorted(seconds)
    percentiles = {n: ordered[int(q * (len(ordered) - 1))] for n, q in PERCENTILES.items()}
    return BatchTime(batch_size=1, mean=fmean(seconds), percentiles=percentiles)


def drawn_mean(batch: BatchTime) -> float:
    return fmean(at(curve(batch), (i + 0.5) / 2_000) for i in range(2_000))


def test_what_is_spread_below_the_median_keeps_its_mean() -> None:
    """Lines of one to five steps of width, as they are on signs."""
    lines = measured([6.8] + [13.6] * 4 + [20.5] * 4 + [24.0] * 2 + [31.0])
    assert drawn_mean(lines) == pytest.approx(lines.mean, rel=0.002)
    assert at(curve(lines), 0.5) == pytest.approx(lines.percentiles["p50"])


@given(st.lists(st.floats(0.001, 10.0), min_size=30, max_size=200))
def test_the_percentiles_hold_and_the_mean_does_not_come_out_too_low(seconds: list[float]) -> None:
    batch = measured(seconds)
    levels, values = curve(batch)
    assert list(values) == sorted(values)
    assert values[0] >= 0
    for name, level in PERCENTILES.items():
        assert at((levels, values), level) == pytest.approx(batch.percentiles[name])
    # Where even nothing below the median leaves the mean above what was measured, percentiles win.
    assert drawn_mean(batch) == pytest.approx(batch.mean, rel=0.01) or values[0] == 0


def test_without_percentiles_every_batch_takes_the_mean() -> None:
    assert {at(curve(BatchTime(batch_size=1, mean=0.3)), level / 4) for level in range(5)} == {0.3}
