"""Requests of a source on several devices fall to lanes as they do when devices make them."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest

from coordinator.planning.dealing import Dealing
from tiermesh.documents.plan import Lane


def lane(share: float, camera: str, hub: str = "hub") -> Lane:
    return Lane(share=share, path={"photos": f"photos@{camera}", "read": f"read@{hub}"})


LANES = [lane(0.25, "a", "x"), lane(0.25, "a", "y"), lane(0.5, "b")]


def cameras(arrivals, count=4_000):
    dealing = Dealing(LANES, "photos", arrivals, first=0.3, seed=1)
    return [dealing.next().path["photos"] for _ in range(count)]


def test_poisson_arrivals_fall_to_a_device_by_chance():
    runs = [len(list(of)) for _, of in groupby(cameras("poisson"))]
    # Of coin tosses, runs are two long in the mean, and a quarter is longer than that.
    assert sum(runs) / len(runs) == pytest.approx(2.0, rel=0.1)
    assert sum(run > 2 for run in runs) / len(runs) == pytest.approx(0.25, abs=0.04)


def test_even_arrivals_of_equal_devices_take_turns():
    assert cameras("constant", 4) == ["photos@a", "photos@b"] * 2


@pytest.mark.parametrize("arrivals", ["poisson", "constant", "shaped"])
def test_each_lane_gets_its_share(arrivals):
    dealing = Dealing(LANES, "photos", arrivals, first=0.3, seed=1)
    dealt = Counter(dealing.next().path["read"] for _ in range(4_000))
    assert dealt["read@x"] / 4_000 == pytest.approx(0.25, abs=0.03)
    assert dealt["read@hub"] / 4_000 == pytest.approx(0.5, abs=0.03)
    assert abs(dealt["read@x"] - dealt["read@y"]) <= 6


def test_a_source_on_one_device_deals_evenly():
    dealing = Dealing(
        [lane(0.5, "a", "x"), lane(0.5, "a", "y")], "photos", "poisson", first=0.0, seed=1
    )
    dealt = Counter(dealing.next().path["read"] for _ in range(10))
    assert dealt == {"read@x": 5, "read@y": 5}
