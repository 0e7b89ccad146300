"""Units are read as written; ids spread evenly and stay equal for equal inputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiermesh import ids, units


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (units.Rate, "12/s", 12.0),
        (units.Rate, "90 /min", 1.5),
        (units.Share, "93.5 %", 0.935),
        (units.Duration, "900 ms", 0.9),
        (units.Duration, "2 min", 120.0),
        (units.Size, "1 GiB", 2**30),
        (units.Price, "0.4 USD/h", 0.4),
        (units.Power, "1.5 kW", 1500.0),
    ],
)
def test_a_quantity_is_read_in_its_base_unit(
    kind: type[units.Quantity], text: str, value: float
) -> None:
    assert kind.parse(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["12", 12, "", "s", "-3/s", "nan/s", "12/sec", "1e999999 x", None])
def test_a_number_without_its_unit_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="12/s"):
        units.Rate.parse(text)


@given(st.text(), st.text(), st.integers(min_value=0))
def test_request_ids_are_stable_and_fall_in_the_unit_interval(
    workflow: str, run: str, index: int
) -> None:
    request = ids.request_id(workflow, run, index)
    assert request == ids.request_id(workflow, run, index)
    assert 0 <= ids.position(request) < 1


@given(st.text(), st.floats(0.05, 0.95), st.integers(0, 10**12), st.integers(1, 5))
def test_any_few_requests_in_a_row_fall_on_the_lanes_in_proportion(
    run: str, share: float, first: int, every: int
) -> None:
    """`every` is how many devices make a source's requests in turn."""
    indices = range(first, first + 100 * every, every)
    positions = [ids.position(ids.request_id("w", run, i)) for i in indices]
    assert sum(p < share for p in positions) == pytest.approx(100 * share, abs=6)


def test_runs_begin_at_places_of_their_own() -> None:
    starts = {ids.position(ids.request_id("w", f"run-{i}", 0)) for i in range(100)}
    assert len(starts) == 100
    assert 0.3 < sum(starts) / 100 < 0.7


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert ids.digest_value({"a": 1, "b": [2]}) == ids.digest_value({"b": [2], "a": 1})
    assert ids.is_digest(ids.digest_value(0))
    assert not ids.is_digest("sha256:xyz")
