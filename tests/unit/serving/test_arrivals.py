"""A source on several devices is one process: what its devices make together is what was asked for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.endpoints.arrivals import ArrivalSchedule
from tiermesh.documents.assignment import SourceSpec
from tiermesh.errors import InvalidDocument

HALVES = ((0.0, 0.5), (0.5, 1.0))
THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))


def spec(kind: Literal["constant", "poisson", "trace"], *, repeat: bool = True) -> SourceSpec:
    return SourceSpec(path="in", rate_rps=4.0, arrivals=kind, trace="t", repeat=repeat)


def together(parts: Sequence[ArrivalSchedule], each: int) -> list[float]:
    """When requests are due at any of the devices."""
    times = [list(accumulate(part.gap(i) for i in range(each))) for part in parts]
    end = min(of[-1] for of in times)
    return sorted(t for of in times for t in of if t <= end)


def variation(times: Sequence[float]) -> float:
    """The coefficient of variation of the gaps: 0 for even arrivals, 1 for Poisson ones."""
    gaps = [b - a for a, b in pairwise(times)]
    return statistics.stdev(gaps) / statistics.fmean(gaps)


@pytest.mark.parametrize("shares", [HALVES, THIRDS, ((0.0, 0.2), (0.2, 1.0))])
def test_poisson_arrivals_of_several_devices_are_poisson_together(
    shares: Sequence[tuple[float, float]],
) -> None:
    times = together([ArrivalSchedule(spec("poisson"), 9, share) for share in shares], 4_000)
    close = sum(b - a < 0.005 for a, b in pairwise(times)) / len(times)
    assert variation(times) == pytest.approx(1.0, abs=0.05)
    assert close == pytest.approx(1 - 2.718281828 ** (-0.005 * 4.0), abs=0.005)
    assert len(times) / times[-1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("shares", [HALVES, THIRDS])
def test_even_arrivals_of_several_devices_are_even_together(
    shares: Sequence[tuple[float, float]],
) -> None:
    times = together([ArrivalSchedule(spec("constant"), 9, share) for share in shares], 100)
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.25] * (len(times) - 1))
    assert times[0] == 0.0


@given(
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5),
    st.lists(st.floats(0.0, 10.0), min_size=2, max_size=60).map(sorted),
)
def test_a_trace_is_dealt_each_time_to_one_device(weights: list[float], trace: list[float]) -> None:
    ends = [0.0, *(end / sum(weights) for end in accumulate(weights))]
    parts = [
        ArrivalSchedule(spec("trace", repeat=False), 99, share, trace) for share in pairwise(ends)
    ]
    made: list[float] = []
    for part in parts:
        made += accumulate(part.gap(i) for i in range(part.count or 0))
    assert sorted(made) == pytest.approx(trace, abs=1e-9)


def test_a_trace_that_repeats_goes_on_where_it_ended() -> None:
    trace = [1.0, 2.0, 2.5, 6.0]
    parts = [ArrivalSchedule(spec("trace"), 99, share, trace) for share in HALVES]
    once = [t for part in parts for t in accumulate(part.gap(i) for i in range(2 * 2))]
    assert sorted(once) == pytest.approx([*trace, *(6.0 + t for t in trace)])


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize(
    ("trace", "says"),
    [
        ([], "no times"),
        ([0.0, float("nan"), 2.0], "not all finite"),
        ([0.0, 1.0, float("inf")], "not all finite"),
        ([float("nan")], "not all finite"),
        ([0.0, 2.0, 1.0], "do not grow"),
        ([-1.0, 1.0], "do not grow"),
    ],
)
def test_a_trace_that_nobody_can_follow_is_refused(
    trace: list[float], says: str, repeat: bool
) -> None:
    with pytest.raises(InvalidDocument, match=says):
        ArrivalSchedule(spec("trace", repeat=repeat), 9, trace=trace)


@pytest.mark.parametrize("trace", [[0.0], [0.0, 0.0, 0.0]])
def test_a_trace_of_no_length_is_followed_once_and_not_for_ever(trace: list[float]) -> None:
    once = ArrivalSchedule(spec("trace", repeat=False), 9, trace=trace)
    assert once.count == len(trace)
    with pytest.raises(InvalidDocument, match="cannot be repeated"):
        ArrivalSchedule(spec("trace"), 9, trace=trace)
