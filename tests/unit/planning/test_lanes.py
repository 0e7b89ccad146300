"""Lanes carry what the flows say: rates, accuracy, cost, and every join's inputs at one replica."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.planning import solve
from coordinator.planning.building import build
from coordinator.planning.lanes import Piece, deal
from coordinator.planning.variant_combinations import closing_stages
from coordinator.planning.verify import violations
from tiermesh.documents import problem as doc

DIAMOND = [("src", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")]


def diamond(rate=30.0, price=20.0):
    """A fork and a join over three devices that each can do a part, with links that cost differently by pair."""
    names = ["d1", "d2", "d3"]
    stages = [doc.ProblemStage(name="src", kind="source", rate_rps=rate, external=True)]
    stages += [doc.ProblemStage(name=n, kind="model", variants=["x"]) for n in "bcd"]
    stages.append(doc.ProblemStage(name="e", kind="join", variants=["x"]))
    return doc.Problem(
        name="diamond",
        tiers=["edge"],
        devices=[doc.ProblemDevice(name=n, tier="edge", price_per_hour=1.0) for n in names],
        links=[
            doc.ProblemLink(source=a, target=b, price_per_gib=price * (1 + i))
            for i, (a, b) in enumerate(itertools.permutations(names, 2))
        ],
        stages=stages,
        edges=[doc.ProblemEdge(source=u, target=v, bytes_per_item=2e5) for u, v in DIAMOND],
        profiles=[
            doc.ProblemProfile(
                stage=s,
                variant="x",
                device=n,
                batches=[doc.BatchTime(batch_size=1, mean=0.02 + 0.003 * i)],
            )
            for i, n in enumerate(names)
            for s in "bcde"
        ],
    )


def test_a_cycle_without_directions_is_cut_at_one_stage():
    closing = closing_stages(build(diamond()))

    assert len(closing) == 1
    assert closing[0] in "bcde"


@pytest.mark.parametrize("rate", [10.0, 20.0, 30.0])
def test_lanes_of_a_diamond_carry_its_flows(rate):
    problem = diamond(rate)
    plan = solve(problem)

    assert violations(problem, plan) == []
    assert plan.cost.total_per_hour == pytest.approx(plan.solver.bound, rel=1e-5)
    for lane in plan.lanes:
        assert set(lane.path) == {"b", "c", "d", "e"}


def test_inputs_of_every_join_meet_at_one_replica():
    """A frame's lane names one replica of the join, whichever input it comes by."""
    plan = solve(diamond(30.0))

    assert sum(lane.share for lane in plan.lanes) == pytest.approx(1)
    assert len({lane.path["e"] for lane in plan.lanes}) >= 1
    assert len(plan.lanes) == len({tuple(sorted(lane.path.items())) for lane in plan.lanes})


def test_backups_are_on_other_devices_and_reachable():
    problem = msgspec.structs.replace(diamond(30.0), links=[])
    plan = solve(problem)
    device = {r.id: r.device for r in plan.replicas}

    backed = [(lane.path[s], b) for lane in plan.lanes for s, b in lane.backup.items()]
    assert backed
    assert all(device[here] != device[there] for here, there in backed)


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=8),
    st.lists(st.floats(0, 10), min_size=1, max_size=8).filter(lambda q: sum(q) > 0.01),
)
def test_dealing_keeps_both_marginals(shares, quotas):
    pieces = [Piece(share, None, {"i": i}) for i, share in enumerate(shares)]
    dealt = deal(pieces, quotas, lambda p: p.share)

    total, asked = sum(shares), sum(quotas)
    for i, share in enumerate(shares):
        assert sum(p.share for p, _ in dealt if p.sites["i"] == i) == pytest.approx(share)
    for j, quota in enumerate(quotas):
        got = sum(p.share for p, k in dealt if k == j)
        assert got == pytest.approx(quota / asked * total, abs=1e-6 * total)
    assert len(dealt) <= len(shares) + len(quotas)
