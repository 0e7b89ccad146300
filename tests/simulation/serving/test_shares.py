"""Shares between loaded lanes in a mesh of real flows: sources move requests, and nothing is lost or repeated."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.simulation.serving.mesh import SimMesh
from tests.simulation.serving.test_mesh import CHAIN, assign, finished, repeated, serve
from tiermesh.documents.assignment import RINGS, Assignment, Ring
from tiermesh.documents.plan import Spare

COUNT = 1_600
RATE_RPS = 20.0
SLO_S = 1.0


def steered(
    lanes: list[tuple[float, str, str]],
    most: list[float],
    *,
    rings: tuple[Ring, ...] = RINGS,
    spares: tuple[str, ...] = (),
) -> dict[str, Assignment]:
    """Assignments with an SLO whose sources may move shares; `spares` are lanes by the devices of their stages."""
    loaded = [*lanes, *((1.0, path, "-" * len(path)) for path in spares)]
    made = assign(CHAIN, loaded, "abcd", count=COUNT, rate=RATE_RPS, deadline=60.0)
    return {
        device: replace(
            one,
            lanes=one.lanes[: len(lanes)],
            spares=[Spare(path=lane.path) for lane in one.lanes[len(lanes) :]],
            shares_most=most,
            latency_s={"p95": SLO_S},
            rings=rings,
        )
        for device, one in made.items()
    }


def late(mesh: SimMesh, assignments: dict[str, Assignment]) -> tuple[float, list[dict[int, float]]]:
    """A device is slow from the 10th to the 40th second: the part over the SLO, and the shares at 15, 40 and 79 s."""
    serve(mesh, assignments)
    mesh.after(10.0, lambda: mesh.slow.update(c=0.15))
    mesh.after(40.0, mesh.slow.clear)
    seen: list[dict[int, float]] = []
    for second in (15.0, 40.0, 79.0):
        mesh.run(lambda s=second: mesh.time >= s, 60.0)
        flow = mesh.devices["a"].flow
        assert flow is not None
        source = flow.sources.by_key["photos"]
        seen.append(source.shares)
    mesh.run(lambda: finished(mesh), 100.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []
    return sum(s > SLO_S for s in mesh.latencies("a", "photos")) / COUNT, seen


TWO = [(0.5, "abca", "----"), (0.5, "abda", "----")]


@pytest.mark.parametrize("seed", range(2))
def test_a_lane_whose_device_is_slow_loses_its_share_within_seconds_and_gets_it_back(
    seed: int,
) -> None:
    mesh = SimMesh(seed, "abcd", {})
    part, (after_5_s, after_30_s, in_the_end) = late(mesh, steered(TWO, [1.0, 1.0]))
    assert after_5_s[0] < 0.35
    assert after_30_s[0] < 0.35
    assert in_the_end == {0: pytest.approx(0.5), 1: pytest.approx(0.5)}
    assert part < 0.05
    assert repeated(mesh) == (0, 0)


def test_without_the_ring_shares_stay_and_many_are_late() -> None:
    mesh = SimMesh(0, "abcd", {})
    part, seen = late(mesh, steered(TWO, [1.0, 1.0], rings=("order",)))
    assert seen == [{}, {}, {}]
    assert part > 0.15


def test_a_spare_lane_takes_what_the_only_lane_cannot_carry() -> None:
    mesh = SimMesh(1, "abcd", {})
    part, (after_5_s, after_30_s, in_the_end) = late(
        mesh, steered([(1.0, "abca", "----")], [1.0, 1.0], spares=("abda",))
    )
    assert after_5_s[1] > 0.5
    assert after_30_s[1] > 0.5
    assert in_the_end == {0: pytest.approx(1.0), 1: pytest.approx(0.0)}
    assert part < 0.07


@pytest.mark.parametrize("seed", range(3))
def test_moving_shares_in_the_middle_of_chaos_loses_nothing(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, steered(TWO, [1.0, 1.0, 1.0], spares=("adba",)))
    mesh.slow["c"] = 0.1
    mesh.chaos(10.0, 16, "abcd")
    mesh.run(lambda: mesh.time > 10.0, 30.0)
    mesh.slow.clear()
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []
