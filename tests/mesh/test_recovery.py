"""The measure of recovery, on flows made by hand."""

from __future__ import annotations

import math

import pytest

from tests.mesh.recovery import recovery_s


def flow(*spans: tuple[float, float], rate: float = 100.0) -> list[float]:
    """Results evenly in each span."""
    return [a + i / rate for a, b in spans for i in range(round((b - a) * rate))]


def test_a_flow_that_goes_on_needs_no_time() -> None:
    assert recovery_s(flow((0, 10)), 3.0, 100) == 0.0


def test_a_gap_counts_from_the_fault_to_its_end_even_if_it_begins_late() -> None:
    assert recovery_s(flow((0, 3), (4.5, 10)), 3.0, 100) == pytest.approx(1.5, abs=0.1)
    assert recovery_s(flow((0, 4), (5, 10)), 3.0, 100) == pytest.approx(2.0, abs=0.1)


def test_what_had_waited_and_comes_at_once_does_not_make_the_flow_be_back_before_it_came() -> None:
    waited = [4.0] * 100
    assert recovery_s([*flow((0, 3)), *waited, *flow((4, 10))], 3.0, 100) == pytest.approx(1.0)


def test_half_a_flow_is_not_back() -> None:
    half = flow((3, 6), rate=50)
    assert recovery_s([*flow((0, 3)), *half, *flow((6, 10))], 3.0, 100) == pytest.approx(3, abs=0.2)


def test_a_flow_that_stays_away_is_told() -> None:
    assert recovery_s(flow((0, 3)), 3.0, 100) == math.inf
