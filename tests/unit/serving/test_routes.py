"""Lanes, hops, and what follows from a workflow's shape."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from agent.serving.routing.graph import Graph
from agent.serving.routing.joins import Gathering, JoinBuffer
from agent.serving.routing.router import Router
from tests.simulation.serving.test_mesh import CHAIN, FORK, ROUTES, assign
from tiermesh import ids
from tiermesh.documents.assignment import StageSpec
from tiermesh.errors import InvalidDocument
from tiermesh.frames import Frame, Kind

REQUESTS = [ids.request_id("w", "run", i) for i in range(2_000)]


def a_router(lanes: list[tuple[float, str, str]], here: str = "a") -> Router:
    return Router(assign(CHAIN, lanes, "abc", count=1)[here])


def test_lanes_take_their_share_of_the_requests_and_a_request_always_the_same() -> None:
    router = a_router([(0.7, "abca", "----"), (0.3, "acba", "----")])
    lanes = [router.lane_of(r, "photos@a", "photos", 1, ()) for r in REQUESTS]
    assert Counter(lanes)[0] / len(REQUESTS) == pytest.approx(0.7, abs=0.03)
    assert lanes == [router.lane_of(r, "photos@a", "photos", 1, ()) for r in REQUESTS]


def test_a_source_uses_only_lanes_that_begin_with_it() -> None:
    router = a_router([(0.5, "abca", "----"), (0.5, "bcab", "----")])
    assert {router.lane_of(r, "photos@a", "photos", 1, ()) for r in REQUESTS} == {0}
    assert router.share("photos@a", "photos") == (0.0, 0.5)
    assert router.share("photos@b", "photos") == (0.5, 1.0)
    assert router.run_of("photos", "a") != router.run_of("photos", "b")


def test_further_attempts_go_round_lanes_with_the_same_sink_and_avoid_lost_devices() -> None:
    lanes = [(0.25, path, "----") for path in ("abca", "acba", "aaaa", "abbc")]
    router = a_router(lanes)
    for request in REQUESTS[:200]:
        first = router.lane_of(request, "photos@a", "photos", 1, ())
        tried = [router.lane_of(request, "photos@a", "photos", n, ()) for n in range(1, 7)]
        assert set(tried) == ({3} if first == 3 else {0, 1, 2})
        if first != 3:
            assert router.lane_of(request, "photos@a", "photos", 2, {"b", "c"}) == 2
            assert router.lane_of(request, "photos@a", "photos", 1, {"b", "c"}) == 2
        assert router.lane_of(request, "photos@a", "photos", 2, {"a", "b", "c"}) in range(4)


def test_a_source_has_a_way_while_one_of_its_lanes_avoids_what_is_lost() -> None:
    router = a_router([(0.5, "abca", "-c--"), (0.3, "acca", "----"), (0.2, "bbbb", "----")])
    assert router.has_way("photos@a", "photos", {"b"}), "by a backup"
    assert not router.has_way("photos@a", "photos", {"c"}), "another source's lane does not count"
    assert router.has_way("photos@b", "photos", {"c"})


def test_a_hop_falls_back_to_the_backup_and_never_to_another_sink() -> None:
    router = a_router([(1.0, "abca", "-c-b")])
    lost: set[str] = set()
    hop = router.hop(0, "detect", lost.__contains__)
    assert hop is not None
    assert hop.device == "b"
    lost.add("b")
    hop = router.hop(0, "detect", lost.__contains__)
    assert hop is not None
    assert (hop.device, hop.replica) == ("c", "detect@c")
    lost.update("ac")
    assert router.hop(0, "detect", lost.__contains__) is None
    assert router.hop(0, "out", lambda device: device == "a") is None


def test_an_assignment_that_does_not_hold_together_is_refused() -> None:
    whole = assign(CHAIN, [(1.0, "abca", "----")], "abc", count=1)["a"]
    lane = whole.lanes[0]
    for wrong in (
        {"replica_devices": {}},
        {"lanes": [type(lane)(share=1.0, path={**lane.path, "other": "x@a"})]},
        {"lanes": [type(lane)(share=1.0, path={"photos": "photos@a"})]},
    ):
        fields = {name: getattr(whole, name) for name in whole.__struct_fields__}
        with pytest.raises(InvalidDocument, match="does not hold together"):
            Router(type(whole)(**{**fields, **wrong}))


def graph(stages: dict[str, tuple[str, list[str]]]) -> Graph:
    return Graph(
        {
            name: StageSpec(
                name=name,
                kind=kind,
                inputs=inputs,
                outputs=[n for n, (_, i) in stages.items() if name in i],
            )
            for name, (kind, inputs) in stages.items()
        }
    )


def test_ends_are_told_where_branches_meet() -> None:
    fork = graph(FORK)
    assert fork.meetings_below("photos") == (("left", "both"), ("right", "both"), ("right", "raw"))
    assert fork.meetings_below("right") == (("right", "both"), ("right", "raw"))
    assert fork.meetings_below("both") == (("keep", "out"),)
    assert fork.sinks_below("left") == ("out",)
    assert fork.sinks_below("photos") == ("out", "raw")
    assert graph(ROUTES).gathered("any", "easy") == {"easy", "hard"}


def test_sources_share_ids_only_where_their_requests_meet() -> None:
    vqa = graph(
        {
            "image": ("source", []),
            "voice": ("source", []),
            "other": ("source", []),
            "both": ("join", ["image", "voice"]),
            "all": ("union", ["both", "other"]),
            "out": ("sink", ["all"]),
        }
    )
    assert vqa.run_suffix("image") == vqa.run_suffix("voice") == ""
    assert vqa.run_suffix("other") == "/other"
    assert vqa.gathered("all", "both") == {"both"}
    assert vqa.gathered("all", "other") == {"other"}


def part(origin: str, source: str, request: str = "0" * 32, deadline: float = 9.0) -> Frame:
    return Frame(Kind.DATA, 1, 0, request, 1, origin, "both", (source,), 1.0, deadline)


def test_a_join_waits_for_all_inputs_and_speaks_for_all_sources() -> None:
    join = JoinBuffer(["left", "right"])
    assert join.add(part("left", "a")) is None
    assert join.add(part("left", "a")) is None
    met = join.add(replace(part("right", "b", deadline=7.0), attempt=3))
    assert met is not None
    merged, parts = met
    assert parts.keys() == {"left", "right"}
    assert (merged.sources, merged.attempt, merged.deadline) == (("a", "b"), 3, 7.0)
    assert len(join) == 0


def test_the_end_of_one_input_ends_the_others_too() -> None:
    join = JoinBuffer(["left", "right"])
    join.add(part("left", "a"))
    ended = join.end(replace(part("right", "b"), kind=Kind.FILTERED))
    assert ended.sources == ("a", "b")
    late = join.add(part("left", "c"))
    assert late is not None
    assert late[0].kind is Kind.FILTERED
    assert late[0].sources == ("c",)
    join.expire(10.0)
    assert len(join) == 0


def test_a_join_is_bounded_in_requests_and_bytes() -> None:
    size = part("left", "a").size
    for join in (
        JoinBuffer(["left", "right"], kept=5),
        JoinBuffer(["left", "right"], kept_bytes=5 * size),
    ):
        for index in range(20):
            join.add(part("left", "a", f"{index:032x}"))
        assert len(join) == 5
        assert join.dropped == 15


def test_a_union_ends_a_request_when_all_its_inputs_have() -> None:
    gathering = Gathering()
    expected = frozenset({"easy", "hard"})
    easy = replace(part("easy", "a"), kind=Kind.FILTERED)
    assert gathering.end(easy, expected) is None
    assert gathering.end(easy, expected) is None
    ended = gathering.end(replace(easy, origin="hard"), expected)
    assert ended is not None
    error = replace(easy, kind=Kind.ERROR)
    assert gathering.end(error, expected) is error
