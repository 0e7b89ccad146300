"""Sinks and sources of work that move to other devices in the middle of faults: nothing ends at two sinks."""

from __future__ import annotations

import pytest

from tests.simulation.serving.mesh import SimMesh
from tests.simulation.serving.test_aggregates import COUNTED, check_counts
from tests.simulation.serving.test_mesh import CHAIN, FORK, assign, finished, serve
from tiermesh.documents.assignment import Assignment
from tiermesh.frames import Kind


def roll(mesh: SimMesh, assignments: dict[str, Assignment]) -> None:
    """A rollout as devices see it: prepared everywhere, then committed at moments of their own."""
    for name, device in mesh.devices.items():
        device.stage(assignments[name])
        mesh.after(mesh.draw(0.0, 0.8), device.switch)


def settled(mesh: SimMesh) -> bool:
    """Whether every device has committed, and has the states of its aggregates: then a rollout is over."""
    flows = [device.flow for device in mesh.devices.values()]
    return all(d.staged is None for d in mesh.devices.values()) and all(
        flow is not None and flow.handovers.are_settled for flow in flows
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_sink_that_moves_ends_no_request_twice(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, assign(CHAIN, [(0.6, "abcd", "-c--"), (0.4, "acbd", "-b--")], "abcd", count=220))
    mesh.chaos(7.0, 14, "abcd")
    for generation, path in enumerate(("abca", "abcd", "abcb"), 2):
        mesh.run(lambda n=60 * (generation - 1): len(mesh.endings.get("out", {})) > n, 200.0)
        moved = assign(CHAIN, [(1.0, path, "----")], "abcd", count=220, generation=generation)
        serve(mesh, moved)
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(4))
def test_everything_moves_under_faults(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {"keep": lambda n: "drop" if n % 5 == 0 else "pass"})
    serve(mesh, assign(FORK, [(1.0, "abcdbad", "-------")], "abcd", count=180))
    mesh.chaos(6.0, 12, "abcd")
    for generation, path in enumerate(("acbadcb", "adcbacd"), 2):
        mesh.run(lambda n=50 * (generation - 1): len(mesh.endings.get("out", {})) > n, 200.0)
        moved = assign(FORK, [(1.0, path, "-------")], "abcd", count=180, generation=generation)
        serve(mesh, moved)
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out", "raw"])
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(5))
def test_devices_that_switch_at_different_moments_lose_and_repeat_nothing(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, assign(CHAIN, [(0.5, "abcd", "-c--"), (0.5, "acbd", "----")], "abcd", count=220))
    mesh.chaos(7.0, 12, "abcd")
    for generation, path in enumerate(("acbb", "abdc", "adbd"), 2):
        mesh.run(lambda n=55 * (generation - 1): len(mesh.endings.get("out", {})) > n, 200.0)
        mesh.run(lambda: all(d.staged is None for d in mesh.devices.values()), 20.0)
        moved = assign(CHAIN, [(1.0, path, "----")], "abcd", count=220, generation=generation)
        roll(mesh, moved)
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(5))
def test_an_aggregate_counts_on_while_the_rest_is_rolled_out(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {"keep": lambda n: "drop" if n % 7 == 3 else "pass"})
    serve(mesh, assign(COUNTED, [(1.0, "abbcba", "-c----")], "abcd", count=200))
    mesh.chaos(6.0, 10, "abcd")
    for generation, path in enumerate(("adbcda", "abdcab", "adacad"), 2):
        mesh.run(lambda n=40 * (generation - 1): len(mesh.payloads) > n, 200.0)
        mesh.run(lambda: all(d.staged is None for d in mesh.devices.values()), 20.0)
        moved = assign(COUNTED, [(1.0, path, "------")], "abcd", count=200, generation=generation)
        roll(mesh, moved)
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    check_counts(mesh)


@pytest.mark.parametrize("seed", range(6))
def test_an_aggregate_that_moves_takes_its_state_with_it(seed: int) -> None:
    """From device to device through faults, and back: every request is counted once, in order, as if unmoved."""
    mesh = SimMesh(seed, "abcd", {"keep": lambda n: "drop" if n % 7 == 3 else "pass"})
    serve(mesh, assign(COUNTED, [(1.0, "abbcba", "-c----")], "abcd", count=260))
    mesh.chaos(8.0, 12, "abcd")
    former = "c"
    for generation, path in enumerate(("adbdba", "abdadd", "adacab", "abbdba"), 2):
        mesh.run(lambda n=45 * (generation - 1): len(mesh.payloads) > n, 200.0)
        mesh.run(lambda: settled(mesh), 60.0)
        moved = assign(
            COUNTED, [(1.0, path, "------")], "abcd",
            count=260, generation=generation, formers={"count": former},
        )  # fmt: skip
        former = path[3]
        roll(mesh, moved)
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert [text for kind, text in mesh.notices if kind == "aggregate-began-anew"] == []
    check_counts(mesh)


def duplicates(mesh: SimMesh) -> int:
    """Requests of which it is not settled yet where they count."""
    return sum(len(s) for device in mesh.devices.values() for s in device.disk.duplicates.values())


def check_lines(mesh: SimMesh, sink: str) -> None:
    """What is in the files of all devices together: every request once."""
    lines = [line for device in mesh.devices.values() for line in device.disk.lines.get(sink, [])]
    assert sorted(request for request, _ in lines) == sorted(mesh.accepted["photos"])
    assert all(kind is Kind.DATA for _, kind in lines)


@pytest.mark.parametrize("seed", range(6))
def test_requests_of_a_sink_that_is_given_up_end_at_the_new_one_and_count_once(seed: int) -> None:
    """Its device comes back with results that nobody had heard of: those that were answered elsewhere are dropped."""
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, assign(CHAIN, [(1.0, "abcd", "----")], "abcd", count=200, deadline=20.0))
    mesh.run(lambda: len(mesh.endings.get("out", {})) > 60, 100.0)
    mesh.cut.add(frozenset("ad"))
    written = len(mesh.endings["out"])
    mesh.run(lambda: len(mesh.endings["out"]) > written + 5, 20.0)
    mesh.devices["d"].kill()
    mesh.may_repeat = True
    mesh.chaos(6.0, 8, "abc")
    moved = assign(
        CHAIN, [(1.0, "abcb", "----")], "abcd", count=200, deadline=20.0, generation=2, lost="d"
    )
    for name in "abc":
        device = mesh.devices[name]
        device.stage(moved[name])
        mesh.after(mesh.draw(0.0, 0.5), device.switch)
    began = mesh.time
    mesh.run(lambda: finished(mesh), 60.0)
    assert mesh.time < began + 18.0, "before the deadline of what was in flight"
    assert mesh.errors == []
    assert duplicates(mesh) > 0
    mesh.cut.clear()
    mesh.devices["d"].start()
    mesh.run(lambda: duplicates(mesh) == 0, 120.0)
    assert mesh.dropped > 0
    check_lines(mesh, "out")


@pytest.mark.parametrize("seed", range(4))
def test_a_sinks_device_that_nobody_gave_up_is_asked_for_a_while(seed: int) -> None:
    """It is lost in the middle of a planned move; what it does not answer ends elsewhere, in time."""
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, assign(CHAIN, [(1.0, "abcd", "----")], "abcd", count=150, deadline=24.0))
    mesh.run(lambda: len(mesh.endings.get("out", {})) > 60, 100.0)
    mesh.may_repeat = True
    mesh.devices["d"].kill()
    moved = assign(CHAIN, [(1.0, "abcb", "----")], "abcd", count=150, deadline=24.0, generation=2)
    for name in "abc":
        mesh.devices[name].stage(moved[name])
        mesh.devices[name].switch()
    mesh.run(lambda: finished(mesh), 60.0)
    assert mesh.errors == []
    mesh.devices["d"].start()
    mesh.run(lambda: duplicates(mesh) == 0, 120.0)
    check_lines(mesh, "out")
