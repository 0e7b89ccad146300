"""The agent's pure state: generations only grow, a bad assignment is refused, what runs is never disturbed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import node as nodes
from agent.node import Node
from tiermesh.documents.assignment import Assignment, Peer, ReplicaSpec, StageSpec
from tiermesh.documents.plan import Lane
from tiermesh.errors import InvalidDocument, StaleGeneration, TiermeshError


def an_assignment(generation: int = 1, device: str = "dev", **changes: object) -> Assignment:
    fields: dict[str, object] = {
        "workflow": "w",
        "generation": generation,
        "plan": "sha256:p",
        "run": "r",
        "device": device,
        "stages": {
            "in": StageSpec(name="in", kind="source", outputs=["out"]),
            "out": StageSpec(name="out", kind="sink", inputs=["in"]),
        },
        "replicas": [ReplicaSpec(id="in@dev", stage="in"), ReplicaSpec(id="out@dev", stage="out")],
        "lanes": [Lane(share=1, path={"in": "in@dev", "out": "out@dev"})],
        "replica_devices": {"in@dev": device, "out@dev": device},
        "peers": {device: Peer(device=device, name="d", address="127.0.0.1:1")},
    }
    return Assignment(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def everything(_digest: str) -> bool:
    return True


def test_a_prepared_generation_is_committed_and_then_runs() -> None:
    node = nodes.prepared(Node("dev"), an_assignment(3))
    assert node.generations == {}
    node = nodes.commit(node, "w", 3)
    assert node.generations == {"w": 3}
    assert not node.prepared
    assert nodes.commit(node, "w", 3) is node, "committing again changes nothing"


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_an_older_or_equal_generation_is_refused(generation: int) -> None:
    node = nodes.commit(nodes.prepared(Node("dev"), an_assignment(3)), "w", 3)
    with pytest.raises(StaleGeneration, match="has had generation 3"):
        nodes.check_prepare(node, an_assignment(generation), everything)


def test_a_stopped_workflow_does_not_come_back_with_an_old_generation() -> None:
    node = nodes.commit(nodes.prepared(Node("dev"), an_assignment(3)), "w", 3)
    node = nodes.stop(node, "w", 3)
    assert node.generations == {}
    with pytest.raises(StaleGeneration):
        nodes.check_prepare(node, an_assignment(3), everything)
    nodes.check_prepare(node, an_assignment(4), everything)


def test_what_is_not_prepared_cannot_be_committed() -> None:
    with pytest.raises(TiermeshError, match="generation 2 of w is not prepared here"):
        nodes.commit(Node("dev"), "w", 2)


def test_an_assignment_for_another_device_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="for another device"):
        nodes.check_prepare(Node("mine"), an_assignment(device="other"), everything)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"lanes": [Lane(share=1, path={"in": "in@dev", "out": "gone"})]}, "$.lanes[0].path.out"),
        ({"lanes": [Lane(share=1, path={"in": "in@dev"})]}, "$.lanes[0].path"),
        ({"replica_devices": {"in@dev": "dev", "out@dev": "x"}}, "$.replicas.out@dev"),
        ({"replicas": [ReplicaSpec(id="a@dev", stage="a")]}, "$.replicas.a@dev"),
        ({"peers": {}}, "$.replica_devices.in@dev"),
    ],
)
def test_an_assignment_that_contradicts_itself_is_refused(
    changes: dict[str, object], path: str
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        nodes.check_prepare(Node("dev"), an_assignment(**changes), everything)
    assert caught.value.fields["path"] == path


STEPS = st.lists(
    st.tuples(st.sampled_from(["prepare", "commit", "abort", "stop"]), st.integers(1, 6)),
    max_size=30,
)


@given(STEPS)
def test_whatever_is_asked_generations_only_grow_and_refusals_change_nothing(
    steps: list[tuple[str, int]],
) -> None:
    node, highest = Node("dev"), 0
    for step, generation in steps:
        before = node
        try:
            if step == "prepare":
                nodes.check_prepare(node, an_assignment(generation), everything)
                node = nodes.prepared(node, an_assignment(generation))
            else:
                node = getattr(nodes, step)(node, "w", generation)
        except TiermeshError:
            assert node is before
        running = node.generations.get("w", highest)
        assert running >= highest
        highest = max(running, node.generation("w"))
