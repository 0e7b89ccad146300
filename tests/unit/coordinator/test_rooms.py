"""What sources may do with their shares: rooms by the plan's figures, and lanes through backups."""

import pytest
from msgspec.structs import replace

from coordinator.rollout.least import least_seconds
from coordinator.rollout.rooms import shares_most, spares
from tiermesh.documents.plan import Lane, Room
from tiermesh.documents.problem import BatchTime

REPLICAS = (
    ("photos", None, "cam"),
    ("detect", "v3", "cam"),
    ("detect", "v3", "hub"),
    ("read", "v1", "hub"),
    ("text", None, "hub"),
)
WHOLE = {"photos": "photos@cam", "read": "read@hub/v1", "text": "text@hub"}
USABLE = {"cam": 0.8, "hub": 0.8}


@pytest.fixture
def plan(made):
    lanes = [
        Lane(
            share=0.25,
            path={**WHOLE, "detect": "detect@cam/v3"},
            backup={"detect": "detect@hub/v3"},
            accuracy=0.9,
        ),
        Lane(share=0.75, path={**WHOLE, "detect": "detect@hub/v3"}, accuracy=0.9),
    ]
    made_plan = made.plan(replicas=REPLICAS, lanes=lanes)
    busy = {"detect@cam/v3": 0.5, "detect@hub/v3": 0.5, "read@hub/v1": 0.2}
    replicas = [
        replace(r, utilization=busy.get(r.id, 0.0), items_per_second=1.0)
        for r in made_plan.replicas
    ]
    return replace(made_plan, replicas=replicas)


def test_a_lane_has_room_for_what_its_fullest_device_has_time_for(plan):
    first, second = shares_most(plan, [], USABLE)
    # Each has time left; all requests are read on hub anyway.
    assert first == pytest.approx(0.25 + 0.3 / 2.0)
    assert second == pytest.approx(0.75 + 0.1 / (0.5 / 0.75))


def test_without_time_left_shares_stay(plan):
    assert shares_most(plan, [], {"cam": 0.5, "hub": 0.4}) == pytest.approx([0.25, 0.75])


def test_backups_make_spare_lanes_that_are_none_of_the_plan(plan):
    assert spares(plan, {"photos", "text"}) == [], "it is the second lane"
    only = replace(plan, lanes=[replace(plan.lanes[0], share=1.0)])
    (spare,) = spares(only, {"photos", "text"})
    assert spare.path["detect"] == "detect@hub/v3"
    assert spare.backup == {"detect": "detect@cam/v3"}
    assert spare.accuracy == 0.9
    assert spares(only, {"photos", "detect"}) == []


def test_a_spare_lane_has_room_where_it_is_known_what_it_takes(plan):
    only = replace(plan, lanes=[replace(plan.lanes[0], share=1.0)])
    idle = [
        replace(r, utilization=0.0, items_per_second=0.0) if r.id == "detect@hub/v3" else r
        for r in only.replicas
    ]
    only = replace(only, replicas=idle)
    spare = spares(only, {"photos", "text"})
    assert shares_most(only, spare, USABLE)[1] == 0.0
    room = Room(batch_size_max=4, batches=[BatchTime(batch_size=2, mean=2.0)])
    measured = [replace(r, room=room) if r.id == "detect@hub/v3" else r for r in idle]
    most = shares_most(replace(only, replicas=measured), spare, USABLE)[1]
    # 0.6 left, and it takes 1 s an item for 1 item a second.
    assert most == pytest.approx(0.6)


def test_another_variant_without_a_lane_is_of_unknown_accuracy(plan):
    only = replace(plan, lanes=[replace(plan.lanes[0], share=1.0)])
    other = [replace(r, variant="v4") if r.id == "detect@hub/v3" else r for r in only.replicas]
    (spare,) = spares(replace(only, replicas=other), {"photos", "text"})
    assert spare.accuracy is None


def test_a_stage_takes_at_least_half_of_its_quickest_batch_where_each_request_needs_one_item(plan):
    room = Room(batch_size_max=4, batches=[BatchTime(batch_size=1, mean=0.2)])
    replicas = [replace(r, room=room if r.variant else None) for r in plan.replicas]
    rate = plan.predicted.throughput_rps
    replicas = [
        replace(r, items_per_second=rate if r.stage == "read" else 3 * rate) for r in replicas
    ]
    assert least_seconds(replace(plan, replicas=replicas)) == {"read": 0.1}
