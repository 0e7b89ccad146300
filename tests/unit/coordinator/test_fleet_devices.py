"""Devices: their states, names and sightings."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fleet import Desired, apply, decide, replay
from coordinator.fleet.events import (
    DeviceDiscovered,
    DeviceFailed,
    DeviceHeld,
    DeviceLeft,
    DeviceLost,
    DeviceNoted,
    DeviceReturned,
    DeviceUnreachable,
    ProfileDropped,
    ProfileFailed,
    ProfileMeasured,
    ReplanEnded,
    ReplanStarted,
    Unreached,
)
from coordinator.fleet.instructions import Describe, Measure
from coordinator.fleet.lifecycle import DeviceState, Reach, ReplanOutcome
from coordinator.fleet.naming import unique
from coordinator.fleet.state import Fleet
from tiermesh import ids


def discovered(key, *addresses):
    return DeviceDiscovered(
        at=1.0, who="t", sighting=key, addresses=list(addresses or [key]), via="static"
    )


def unreachable(key, at=2_000.0, reach=Reach.REFUSED):
    return DeviceUnreachable(at=at, who="t", sighting=key, reasons=[Unreached(key, reach, "why")])


def test_a_device_that_stops_answering_is_suspect_then_failed_then_ready_again(fleet, made):
    fleet(discovered("a"), made.described("a"))
    assert fleet.now.devices["a"].state is DeviceState.READY
    fleet(unreachable("a"))
    assert fleet.now.devices["a"].state is DeviceState.SUSPECT
    assert "refused (why)" in fleet.now.devices["a"].why
    assert fleet.now.ready == []
    fleet(unreachable("a"))
    assert fleet.now.devices["a"].state is DeviceState.FAILED
    fleet(made.described("a", at=3_000.0))
    assert fleet.now.devices["a"].state is DeviceState.READY
    assert fleet.now.devices["a"].why == ""


def test_a_device_with_a_second_way_to_it_is_not_lost_with_the_first(fleet, made):
    fleet(discovered("a"), discovered("b"))
    fleet(made.described("dev", sighting="a"), made.described("dev", sighting="b"))
    fleet(unreachable("a"))
    assert fleet.now.devices["dev"].state is DeviceState.READY
    fleet(unreachable("b"))
    assert fleet.now.devices["dev"].state is DeviceState.SUSPECT


def test_a_way_that_failed_is_forgotten_once_another_leads_there(fleet, made):
    fleet(discovered("old"), made.described("dev", sighting="old"), unreachable("old"))
    fleet(discovered("new"), made.described("dev", sighting="new"))
    assert list(fleet.now.sightings) == ["new"]


def test_a_device_that_left_stays_away_until_it_is_described(fleet, made):
    fleet(discovered("a"), made.described("a"), DeviceLeft(at=5.0, who="me", device="a"))
    assert fleet.now.devices["a"].state is DeviceState.LEFT
    assert fleet.now.sightings == {}
    fleet(DeviceLost(at=6.0, who="t", device="a", why="silent"))
    assert fleet.now.devices["a"].state is DeviceState.LEFT
    fleet(made.described("a"))
    assert fleet.now.devices["a"].state is DeviceState.READY


def test_equal_names_are_told_apart_and_stay_as_they_are(fleet, made):
    fleet(made.described("1111aaaa", name="cam"), made.described("2222bbbb", name="cam"))
    names = {d.id: d.name for d in fleet.now.devices.values()}
    assert names == {"1111aaaa": "cam", "2222bbbb": "cam-2222bb"}
    fleet(made.described("1111aaaa", name="door"))
    fleet(made.described("2222bbbb", name="cam"))
    assert fleet.now.devices["2222bbbb"].name == "cam-2222bb"
    assert fleet.now.named("door").id == "1111aaaa"
    assert fleet.now.named("2222bbbb").name == "cam-2222bb"


@given(st.lists(st.tuples(st.text(max_size=80), st.text(min_size=1, max_size=12)), max_size=12))
def test_names_are_unique_and_fit_for_a_plan_whatever_devices_say(pairs):
    taken = set()
    for name, device in pairs:
        given_name = unique(name, device, taken)
        assert given_name not in taken
        assert re.fullmatch(ids.NAME_PATTERN, given_name)
        taken.add(given_name)


def test_descriptions_are_asked_for_where_they_are_old_or_missing(fleet, made):
    fleet(discovered("a"), discovered("b"), made.described("a", at=50.0))
    assert decide(fleet.now, Desired()) == []
    assert decide(fleet.now, Desired(described={})) == [Describe("b")]
    assert decide(fleet.now, Desired(described={"a": 50.0})) == [Describe("a"), Describe("b")]
    assert decide(fleet.now, Desired(described={"a": 50.0}), [Describe("a")]) == [Describe("b")]


@pytest.mark.parametrize("set_to", [50.0 + 3_600, 50.0 - 3_600], ids=["ahead", "back"])
def test_a_description_is_new_whatever_the_clock_was_set_to(fleet, made, set_to):
    fleet(discovered("a"), made.described("a", at=50.0))
    asked = Desired(described={"a": 50.0})
    assert decide(fleet.now, asked) == [Describe("a")]
    fleet(made.described("a", at=set_to))
    assert decide(fleet.now, asked) == []


@pytest.mark.parametrize(("later", "state"), [(3.0, "failed"), (6.0, "ready"), (-3_600.0, "ready")])
def test_a_device_that_failed_is_held_until_its_time_or_until_the_clock_is_set_back(
    fleet, made, later, state
):
    fleet(discovered("a"), made.described("a", at=50.0))
    (device,) = fleet.now.devices
    fleet(DeviceFailed(at=100.0, who="t", device=device, why="gone", hold_s=5.0))
    fleet(made.described("a", at=100.0 + later))
    assert fleet.now.devices[device].state == state


def test_an_address_that_never_led_anywhere_is_asked_once(fleet):
    fleet(discovered("nowhere"), unreachable("nowhere", at=10.0))
    assert decide(fleet.now, Desired(described={"nowhere": 10.0})) == []
    fleet(discovered("nowhere"))
    assert decide(fleet.now, Desired(described={"nowhere": 10.0})) == [Describe("nowhere")]


def test_devices_of_one_host_are_measured_one_at_a_time(fleet, made):
    fleet(
        made.described("a", host="h1", slowdown=1.5),
        made.described("b", host="h1", slowdown=2.0),
        made.described("c", host="h2", slowdown=3.0),
    )
    desired = Desired(variants=("v1", "v2"))
    first = decide(fleet.now, desired)
    assert first == [Measure("a", "v1", "h1"), Measure("c", "v1", "h2")]
    assert decide(fleet.now, desired, first) == []
    assert decide(fleet.now, desired, first[:1]) == [Measure("c", "v1", "h2")]


def test_one_device_of_a_class_is_measured_for_all(fleet, made):
    fleet(*(made.described(f"d{i}", host=f"h{i}") for i in range(3)))
    variants = [made.variant("v3"), made.variant("v4")]
    desired = Desired(variants=tuple(v.digest for v in variants))
    first = decide(fleet.now, desired)
    assert [(m.device, m.variant_digest) for m in first if isinstance(m, Measure)] == [
        ("d0", variants[0].digest),
        ("d1", variants[1].digest),
    ]
    device = fleet.now.devices["d0"]
    for variant in variants:
        fleet(ProfileMeasured(at=1.0, who="d0", device="d0", profile=made.profile(device, variant)))
    assert decide(fleet.now, desired) == []
    fleet(
        ProfileDropped(
            at=2.0, who="me", device_class=device.device_class, variant_digest=variants[0].digest
        )
    )
    assert decide(fleet.now, desired) == [Measure("d0", variants[0].digest, "h0")]


def test_a_failed_measurement_goes_to_another_device_of_the_class(fleet, made):
    fleet(made.described("d0", host="h0"), made.described("d1", host="h1"))
    failed = ProfileFailed(
        at=1.0, who="d0", device="d0", model="m", variant="v", variant_digest="v1", why="silent"
    )
    fleet(failed)
    desired = Desired(variants=("v1",))
    assert decide(fleet.now, desired) == [Measure("d1", "v1", "h1")]
    assert decide(fleet.now, Desired(variants=("v1",), devices=frozenset({"d0"}))) == []
    fleet(made.described("d0", host="h0"))
    assert decide(fleet.now, desired) == [Measure("d0", "v1", "h0")]


def test_the_newest_note_of_a_device_is_known_so_that_each_is_told_once(fleet, made):
    fleet(made.described("a"))
    noted = {"who": "a", "device": "a", "note": "peer-lost", "text": "b"}
    fleet(DeviceNoted(at=4.0, boot="first", number=7, **noted))
    fleet(made.described("a"))
    device = fleet.now.devices["a"]
    assert (device.noted_boot, device.noted_number) == ("first", 7)
    # Its clock was set back while its agent started again.
    fleet(DeviceNoted(at=2.0, boot="second", number=1, **noted))
    device = fleet.now.devices["a"]
    assert (device.noted_boot, device.noted_number) == ("second", 1)


def test_events_about_what_is_unknown_change_nothing():
    empty = Fleet()
    for event in (
        unreachable("x"),
        DeviceLost(at=1.0, who="t", device="x", why="silent"),
        DeviceLeft(at=1.0, who="t", device="x"),
        DeviceNoted(at=1.0, who="x", device="x", note="n", text="t"),
    ):
        assert apply(event, empty) == empty


def test_replay_gives_the_same_state(fleet, made):
    fleet(discovered("a"), made.described("a"), unreachable("a"), made.described("b"))
    assert replay(fleet.happened) == fleet.now


def failed(device, at=2_000.0, hold_s=5.0):
    return DeviceFailed(at=at, who="t", device=device, why="no heartbeat", hold_s=hold_s)


def test_a_failed_device_that_describes_itself_is_not_ready_before_its_hold_is_over(fleet, made):
    fleet(made.described("a"), failed("a"))
    assert fleet.now.devices["a"].state is DeviceState.FAILED
    fleet(made.described("a", at=2_003.0, port=7002))
    device = fleet.now.devices["a"]
    assert (device.state, device.description.data_address) == (
        DeviceState.FAILED,
        "127.0.0.1:7002",
    )
    fleet(DeviceHeld(at=2_003.0, who="t", device="a", why="it answers again", hold_s=5.0))
    assert fleet.now.devices["a"].state is DeviceState.SUSPECT
    fleet(made.described("a", at=2_007.0))
    assert fleet.now.devices["a"].state is DeviceState.SUSPECT
    fleet(DeviceReturned(at=2_008.0, who="t", device="a", why="it has stayed"))
    assert fleet.now.devices["a"].state is DeviceState.READY


def test_without_a_listener_a_failed_device_is_ready_at_the_first_contact_after_its_hold(
    fleet, made
):
    fleet(made.described("a"), failed("a", at=2_000.0, hold_s=5.0), made.described("a", at=2_006.0))
    assert fleet.now.devices["a"].state is DeviceState.READY


def test_heartbeats_do_not_overrule_an_operator(fleet, made):
    fleet(made.described("a"), DeviceLeft(at=1.5, who="ada", device="a"))
    fleet(failed("a"), DeviceReturned(at=2_008.0, who="t", device="a", why="it has stayed"))
    assert fleet.now.devices["a"].state is DeviceState.LEFT
    fleet(failed("nobody"))
    assert "nobody" not in fleet.now.devices


def test_the_newest_replan_of_a_workflow_is_known_with_its_reason_and_how_it_ended(fleet):
    begun = ReplanStarted(
        at=1.0, who="coordinator", workflow="read", reason="device-failed", why="hub-1 has failed"
    )
    fleet(begun)
    assert fleet.now.replans["read"].outcome is None
    fleet(
        ReplanEnded(
            at=2.0,
            who="coordinator",
            workflow="read",
            reason="device-failed",
            why="hub-1 has failed",
            outcome=ReplanOutcome.REPLACED,
            text="all asks are met",
            after="sha256:" + "1" * 64,
            generation=2,
        )
    )
    assert fleet.now.replans["read"].outcome is ReplanOutcome.REPLACED
    assert fleet.now.replans["read"].generation == 2
