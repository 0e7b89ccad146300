"""Causes, named by measurement: what is significant is told in a sentence, and nothing else is."""

from __future__ import annotations

import pytest

from coordinator.replanning.causes import (
    CauseKind,
    Condition,
    Evidence,
    LinkTimes,
    Slowness,
    causes,
)
from coordinator.replanning.load import LoadEstimate, RateEstimate
from coordinator.replanning.slo import Burn
from coordinator.telemetry.drift import Ratio

SLOW, SAME = Ratio(1.5, 1.3, 1.7, 60), Ratio(1.4, 0.9, 1.9, 12)


def slow(device, ratio=SLOW):
    return Slowness(f"read@{device}", device, ratio)


def told(**evidence):
    return [(cause.kind, cause.text) for cause in causes(Evidence(**evidence))]


def test_nothing_that_is_significant_is_no_cause():
    load = LoadEstimate(4.0, RateEstimate(6.0, 3.9, 8.0, 12, 2.0))
    assert (
        told(slowness=[slow("hub-1", SAME)], load=load, links={"hub-1": LinkTimes(9.0, 1.0)}) == []
    )


def test_a_device_alone_is_slower_than_its_profile():
    (cause,) = told(slowness=[slow("hub-1"), slow("hub-2", SAME)])
    assert cause == (
        CauseKind.DEVICE_SLOWER,
        "hub-1 is slower than its profile: "
        "read@hub-1 takes 1.50 times (interval 1.30 to 1.70) its planned device time",
    )


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (Condition(temperature_celsius=91.0), "91 degrees Celsius"),
        (Condition(throttled="cpu.max is 0.5 cores"), "cpu.max is 0.5 cores"),
    ],
)
def test_a_slow_device_that_is_held_back_is_throttled(condition, why):
    ((kind, text),) = told(slowness=[slow("hub-1")], devices={"hub-1": condition})
    assert kind is CauseKind.THROTTLED
    assert text.startswith(f"hub-1 is throttled ({why}): read@hub-1 takes 1.50 times")
    assert told(devices={"hub-1": condition}) == [], "while it is as fast as ever it is none"


def on_one_host(*names):
    return {name: Condition(host="rack") for name in names}


def test_devices_of_one_host_that_are_slower_together_have_a_neighbour():
    both = [slow("hub-1"), slow("hub-2", Ratio(1.8, 1.5, 2.1, 40))]
    ((kind, text),) = told(slowness=both, devices=on_one_host("hub-1", "hub-2"))
    assert kind is CauseKind.NEIGHBOUR
    assert "(hub-1, hub-2) are slower than planned, 1.50 to 1.80 times" in text
    apart = told(slowness=both)
    assert [kind for kind, _ in apart] == [CauseKind.DEVICE_SLOWER, CauseKind.DEVICE_SLOWER]
    half = told(
        slowness=[slow("hub-1"), slow("hub-2", SAME)], devices=on_one_host("hub-1", "hub-2")
    )
    assert [kind for kind, _ in half] == [CauseKind.DEVICE_SLOWER]


def test_more_load_is_told_with_its_interval_and_less_is_no_cause():
    more = LoadEstimate(4.0, RateEstimate(6.1, 5.2, 7.1, 90, 15.0), changed=True)
    assert told(load=more) == [
        (
            CauseKind.MORE_LOAD,
            "more requests come than planned: load 6.1/s (95 % interval 5.2 to 7.1), planned 4/s",
        )
    ]
    assert told(load=LoadEstimate(4.0, RateEstimate(2.0, 1.5, 2.6, 60, 30.0), changed=True)) == []


def test_bursts_that_were_not_planned_for_are_a_cause():
    ((kind, text),) = told(dispersion=5.2)
    assert kind is CauseKind.BURST
    assert "5.2 times the mean, 1.0 is planned" in text
    assert told(dispersion=5.2, planned_dispersion=5.0) == []


def test_a_link_that_has_become_slow_and_a_device_that_is_lost_are_causes():
    found = told(
        links={"hub-1": LinkTimes(80.0, 4.0)},
        devices={"hub-2": Condition(state="failed", why="no heartbeat")},
    )
    assert found == [
        (CauseKind.DEVICE_LOST, "hub-2 is failed: no heartbeat"),
        (
            CauseKind.LINK_SLOWER,
            "the link to hub-1 is slow: a round trip takes 80 ms (median of late), 4 ms at best",
        ),
    ]


def test_a_miss_that_nothing_explains_is_told_as_such():
    burn = Burn("p95", 3.0, 60.0, 240, 72)
    ((kind, text),) = told(burn=burn)
    assert kind is CauseKind.UNEXPLAINED
    assert "30% of 240 requests" in text
    assert [k for k, _ in told(burn=burn, slowness=[slow("hub-1")])] == [CauseKind.DEVICE_SLOWER]
