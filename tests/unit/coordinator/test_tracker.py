"""Who gets an artifact from whom: the coordinator sends it once, whoever drops out."""

import random

import pytest

from coordinator.artifacts.tracker import Tracker

D = "sha256:" + "0" * 64


def test_whoever_has_nothing_and_knows_nobody_asks_the_coordinator():
    assert Tracker().peers("a", D, ["b", "c"]) == []


def test_the_whole_comes_before_parts_and_the_idle_before_the_busy():
    tracker = Tracker()
    tracker.note("a", D, 10, complete=False)
    tracker.note("b", D, 50, complete=False)
    for peer in ("c", "d"):
        tracker.note(peer, D, 100, complete=True)
    tracker.note("e", D, 10, complete=False)
    with tracker.reading("c"):
        assert tracker.peers("a", D, ["b", "c", "d", "e"]) == ["d", "c", "b"]
    assert tracker.peers("a", D, ["b"]) == ["b"], "only who is near"


def test_a_seed_is_followed_before_it_has_anything_and_by_all():
    tracker = Tracker()
    with tracker.seeding("a", D):
        assert tracker.peers("b", D, ["a"]) == ["a"]
        assert tracker.peers("c", D, ["a", "b"]) == ["a"]
    assert tracker.peers("b", D, ["a"]) == [], (
        "it dropped out with nothing: somebody else is sent it"
    )


def test_who_was_of_no_use_is_not_named_again_until_it_is_forgiven():
    tracker = Tracker()
    tracker.note("b", D, 100, complete=True)
    tracker.bar("a", "b", D)
    assert tracker.peers("a", D, ["b"]) == []
    assert tracker.peers("c", D, ["b"]) == ["b"]
    tracker.forgive("a")
    assert tracker.peers("a", D, ["b"]) == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_parts_anywhere_never_wait_for_each_other_in_a_circle(seed):
    """Whatever the devices hold, somebody is sent the artifact or follows somebody who is ahead."""
    rng = random.Random(seed)
    devices = [f"d{i}" for i in range(6)]
    tracker = Tracker()
    for device in devices:
        tracker.note(device, D, rng.choice([0, 10, 10, 50]), complete=False)
    sent_to = [d for d in devices if not tracker.peers(d, D, [p for p in devices if p != d])]
    best = max(tracker._readable[D].values())
    assert {tracker._readable[D][d] for d in sent_to} == {best}
