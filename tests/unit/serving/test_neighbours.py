"""Whom a device exchanges frames with follows from its lanes; streams there are up before requests take them."""

import asyncio
from types import SimpleNamespace

import pytest

from agent.serving import host as hosts
from agent.serving.host import Host
from agent.serving.routing.graph import neighbours
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


class Stream:
    """A stream that is up when the test says so."""

    def __init__(self):
        self.connected = asyncio.Event()
        self.closed = False

    async def close(self):
        self.closed = True


@pytest.fixture
def host():
    """A host with an idle stream to the hub, such as one that had left and is back."""
    made = Host.__new__(Host)
    made._device = "cam"
    made._outgoing = {("w", "hub"): Stream()}

    def stream(flow, device):
        made._outgoing.setdefault((flow.workflow, device), Stream())

    made._stream = stream
    return made


def flow_at(current):
    prepared = SimpleNamespace(assignment=assignment("cam"))
    return SimpleNamespace(workflow="w", current=current, generations={2: prepared})


async def test_a_switch_waits_until_streams_are_up_and_an_idle_one_is_made_anew(host):
    idle = host._outgoing["w", "hub"]
    reaching = asyncio.ensure_future(host._reach(flow_at(1), 2))
    while len(host._outgoing) < 2 or host._outgoing["w", "hub"] is idle:
        await asyncio.sleep(0)
    assert idle.closed
    host._outgoing["w", "hub"].connected.set()
    assert not reaching.done()
    host._outgoing["w", "desk"].connected.set()
    await asyncio.wait_for(reaching, 10)


async def test_a_device_out_of_reach_delays_a_switch_for_a_while_only(host, monkeypatch):
    monkeypatch.setattr(hosts, "_REACH_S", 0.01)
    await asyncio.wait_for(host._reach(flow_at(1), 2), 10)


async def test_the_first_generation_waits_for_nobody(host):
    await asyncio.wait_for(host._reach(flow_at(0), 2), 10)
    assert list(host._outgoing) == [("w", "hub")]
