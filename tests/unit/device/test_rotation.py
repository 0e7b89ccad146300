"""Which batches are measured, and in which order."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model_host.inference import Item
from agent.profiling.rotation import Rotation, starts

COUNTS = st.integers(1, 40)


@given(COUNTS, COUNTS)
def test_every_batch_has_its_turn_once_a_round(count: int, size: int) -> None:
    assert sorted(islice(starts(count, size), count)) == list(range(count))


@given(st.integers(1, 8), st.integers(1, 8))
def test_batches_overlap_none_before_all_items_were_in_one(times: int, size: int) -> None:
    around = islice(starts(times * size, size), times)
    seen = [(first + i) % (times * size) for first in around for i in range(size)]
    assert sorted(seen) == list(range(times * size))


def test_also_a_few_batches_are_of_items_from_everywhere() -> None:
    assert list(islice(starts(12, 1), 4)) == [0, 7, 2, 9]


def items(*widths: int) -> list[Item]:
    return [Item({"x": np.zeros(width, "f4")}, width) for width in widths]


def test_a_batch_is_of_neighbours_in_a_group_for_each_shape() -> None:
    rotation = Rotation(items(1, 5, 1, 2), [0.1, 0.2, 0.3, 0.4], 3)
    assert [[i.shape_key for i in group] for group in rotation.batch(2)] == [[1, 1], [2]]
    assert rotation.works == [7.0, 8.0, 4.0, 8.0]
    assert rotation.stage_seconds(2) == pytest.approx(0.8)
    assert rotation.largest == 1
