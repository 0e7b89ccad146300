"""Whom a device exchanges frames with follows from the lanes that lead through it."""

import pytest

from agent.serving.graph import neighbours
from tiermesh.documents.assignment import Assignment, Peer, StageSpec
from tiermesh.documents.plan import Lane

STAGES = {
    "in": StageSpec(name="in", kind="source", outputs=["work"]),
    "work": StageSpec(name="work", kind="map", inputs=["in"], outputs=["out"]),
    "out": StageSpec(name="out", kind="sink", inputs=["work"]),
}
LANES = [
    Lane(share=0.5, path={"in": "in@cam", "work": "work@hub", "out": "out@desk"}),
    Lane(share=0.5, path={"in": "in@cam", "work": "work@cam", "out": "out@cam"}),
]
DEVICES = ["cam", "hub", "desk", "idle"]


def assignment(device):
    replicas = {replica for lane in LANES for replica in lane.path.values()}
    return Assignment(
        workflow="w",
        generation=1,
        plan="sha256:" + "0" * 64,
        run="run",
        device=device,
        stages=STAGES,
        replicas=[],
        lanes=LANES,
        replica_devices={replica: replica.partition("@")[2] for replica in replicas},
        peers={d: Peer(device=d, name=d, address="127.0.0.1:1") for d in DEVICES},
    )


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cam", ["desk", "hub"]),  # the sink on the desk confirms to it
        ("hub", ["cam", "desk"]),
        ("desk", ["cam", "hub"]),
        ("idle", []),
    ],
)
def test_neighbours_are_next_to_it_on_a_lane_or_at_the_other_end(device, expected):
    assert neighbours(assignment(device)) == expected
