"""Aggregates through random faults: each request is folded in once, in the order of its source."""

from __future__ import annotations

import pytest

from tests.simulation.serving.mesh import KEYS, SimMesh
from tests.simulation.serving.test_mesh import assign, finished, serve

COUNTED = {
    "photos": ("source", []),
    "left": ("model", ["photos"]),
    "keep": ("filter", ["left"]),
    "count": ("aggregate", ["keep"]),
    "after": ("map", ["count"]),
    "out": ("sink", ["after"]),
}
LANES = [(0.6, "abbcba", "-c----"), (0.4, "acbcba", "-b----")]
COMPUTE = {
    "keep": lambda n: "drop" if n % 7 == 3 else "fail" if n % 11 == 5 else "pass",
}
COUNT = 220


def check_counts(mesh: SimMesh) -> None:
    """Every request that reached the aggregate was counted once, after the one before it of its key."""
    for key in range(KEYS):
        numbers = sorted(n for n in mesh.payloads if n % KEYS == key)
        assert [mesh.payloads[n]["count"] for n in numbers] == list(range(1, len(numbers) + 1))
        assert [mesh.payloads[n]["before"] for n in numbers] == [-1, *numbers[:-1]]


@pytest.mark.parametrize("seed", range(6))
def test_a_kept_state_is_as_if_nothing_had_happened(seed: int) -> None:
    mesh = SimMesh(seed, "abc", COMPUTE)
    serve(mesh, assign(COUNTED, LANES, "abc", count=COUNT))
    mesh.chaos(6.0, 12, "abc")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert len(mesh.payloads) == sum(COMPUTE["keep"](n) == "pass" for n in range(COUNT))
    check_counts(mesh)


@pytest.mark.parametrize("seed", range(4))
def test_a_kept_state_goes_over_to_the_next_generation(seed: int) -> None:
    mesh = SimMesh(seed, "abc", COMPUTE)
    serve(mesh, assign(COUNTED, LANES, "abc", count=COUNT))
    mesh.chaos(6.0, 10, "abc")
    mesh.run(lambda: len(mesh.payloads) > 60, 100.0)
    moved = [(1.0, "acbcca", "------")]
    serve(mesh, assign(COUNTED, moved, "abc", count=COUNT, generation=2))
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    check_counts(mesh)


@pytest.mark.parametrize("seed", range(3))
def test_a_state_in_memory_begins_anew_and_keeps_the_order(seed: int) -> None:
    mesh = SimMesh(seed, "abc", COMPUTE, keeps_state=False)
    serve(mesh, assign(COUNTED, LANES, "abc", count=COUNT))
    mesh.run(lambda: len(mesh.payloads) > 60, 100.0)
    mesh.kill(mesh.devices["c"], 0.5)
    mesh.chaos(4.0, 8, "abc")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert all(one["before"] < number for number, one in mesh.payloads.items())
    assert max(one["count"] for one in mesh.payloads.values()) < COUNT / KEYS, "it began anew"
