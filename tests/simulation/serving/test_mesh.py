"""Whole workflows through random faults: what was accepted ends exactly once. A seed replays a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.serving.mesh import SimMesh
from tiermesh import limits
from tiermesh.documents.assignment import (
    Assignment,
    Peer,
    ReplicaSpec,
    SinkSpec,
    SourceSpec,
    StageSpec,
)
from tiermesh.documents.plan import Lane
from tiermesh.documents.variant import Artifact, Bundle, Variant
from tiermesh.frames import Kind

DIGEST = "sha256:" + "0" * 64
BUNDLE = Bundle(artifact=Artifact(digest=DIGEST, size_bytes=1), entry="code:Class")
VARIANT = Variant(
    model="m", name="v", runtime="onnx", precision="fp32", model_file="m", files={}, bundle=BUNDLE
)

CHAIN = {
    "photos": ("source", []),
    "detect": ("model", ["photos"]),
    "read": ("map", ["detect"]),
    "out": ("sink", ["read"]),
}
FORK = {
    "photos": ("source", []),
    "left": ("model", ["photos"]),
    "right": ("map", ["photos"]),
    "both": ("join", ["left", "right"]),
    "keep": ("filter", ["both"]),
    "out": ("sink", ["keep"]),
    "raw": ("sink", ["right"]),
}
ROUTES = {
    "photos": ("source", []),
    "easy": ("filter", ["photos"]),
    "hard": ("filter", ["photos"]),
    "any": ("union", ["easy", "hard"]),
    "out": ("sink", ["any"]),
}

PAIR = {
    "image": ("source", []),
    "voice": ("source", []),
    "look": ("model", ["image"]),
    "both": ("join", ["look", "voice"]),
    "out": ("sink", ["both"]),
}


def assign(
    stages: dict[str, tuple[str, list[str]]],
    lanes: list[tuple[float, str, str]],
    devices: str,
    *,
    count: int,
    generation: int = 1,
    deadline: float = 120.0,
    rate: float = 100.0,
    admit: float | None = None,
    source: str = "files",
    formers: dict[str, str] | None = None,
    lost: str = "",
) -> dict[str, Assignment]:
    """Assignments by device; a lane is its share and the devices of its stages and of their backups, in order."""
    specs = {
        name: StageSpec(
            name=name,
            kind=kind,
            inputs=inputs,
            outputs=[n for n, (_, i) in stages.items() if name in i],
            source=SourceSpec(
                kind=source, path="in", rate_rps=rate, count=count, repeat=True, admit_rps=admit
            )
            if kind == "source"
            else None,
            sink=SinkSpec(kind="jsonl", path="out") if kind == "sink" else None,
        )
        for name, (kind, inputs) in stages.items()
    }
    made = [
        Lane(
            share=share,
            path={s: f"{s}@{d}" for s, d in zip(stages, path, strict=True)},
            backup={s: f"{s}@{d}" for s, d in zip(stages, backup, strict=True) if d != "-"},
        )
        for share, path, backup in lanes
    ]
    where = {r: s for lane in made for s, r in (*lane.path.items(), *lane.backup.items())}
    peers = {d: Peer(device=d, name=d, address=f"{d}:1") for d in devices}
    return {
        device: Assignment(
            workflow="w",
            generation=generation,
            plan=DIGEST,
            run="run",
            device=device,
            stages=specs,
            replicas=[
                ReplicaSpec(
                    id=replica,
                    stage=stage,
                    variant=VARIANT if specs[stage].kind == "model" else None,
                    bundle=BUNDLE
                    if specs[stage].kind in ("map", "filter", "join", "aggregate")
                    else None,
                    batch_size=4,
                    batch_timeout_ms=10.0,
                )
                for replica, stage in where.items()
                if replica.endswith("@" + device)
            ],
            lanes=made,
            replica_devices={replica: replica.split("@")[1] for replica in where},
            peers=peers,
            formers=formers or {},
            lost=list(lost),
            deadline_seconds=deadline,
        )
        for device in devices
    }


def serve(mesh: SimMesh, assignments: dict[str, Assignment]) -> None:
    for name, device in mesh.devices.items():
        device.assignments.append(assignments[name])
        if device.flow is not None:
            device.prepare(assignments[name])
    for name, device in mesh.devices.items():
        if device.flow is None:
            device.start()
        else:
            device.commit(assignments[name])
        device.pump()


def finished(mesh: SimMesh) -> bool:
    """Whether every source has accepted and seen confirmed all its requests."""
    sources = [
        source
        for device in mesh.devices.values()
        if device.flow is not None
        for source in device.flow.sources.by_key.values()
    ]
    return bool(sources) and all(s.is_finished for s in sources) and bool(mesh.accepted)


def test_without_faults_nothing_is_sent_twice() -> None:
    mesh = SimMesh(0, "abcd", {})
    serve(mesh, assign(FORK, [(1.0, "abcdbad", "-------")], "abcd", count=200, rate=20.0))
    mesh.run(lambda: finished(mesh), 60.0)
    mesh.check_ledger(["out", "raw"])
    flows = [device.flow for device in mesh.devices.values() if device.flow is not None]
    assert sum(s.ledger.counts.retried for f in flows for s in f.sources.by_key.values()) == 0
    assert sum(s.counts.duplicates for f in flows for s in f.sinks.values()) == 0
    assert sum(s.resent_frames for f in flows for s in f.links.senders.values()) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_chain_survives_kills_stops_cuts_and_silence(seed: int) -> None:
    mesh = SimMesh(seed, "abc", {})
    lanes = [(0.7, "abca", "-c--"), (0.3, "acba", "-b--")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=250))
    mesh.chaos(6.0, 12, "abc")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert len(mesh.endings["out"]) == 250
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(5))
def test_a_fork_and_join_survives_them_too(seed: int) -> None:
    compute = {
        "keep": lambda n: "drop" if n % 5 == 0 else "pass",
        "right": lambda n: "fail" if n % 7 == 0 else "pass",
    }
    mesh = SimMesh(seed, "abcd", compute)
    lanes = [(0.5, "abcdbad", "-cbc---"), (0.5, "acbcdad", "--c----")]
    serve(mesh, assign(FORK, lanes, "abcd", count=200))
    mesh.chaos(6.0, 12, "abcd")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out", "raw"])
    kinds = list(mesh.endings["out"].values())
    assert kinds.count(Kind.ERROR) == len(range(0, 200, 7))
    assert kinds.count(Kind.FILTERED) == sum(1 for n in range(200) if n % 5 == 0 and n % 7)
    assert list(mesh.endings["raw"].values()).count(Kind.ERROR) == len(range(0, 200, 7))


@pytest.mark.parametrize("seed", range(4))
def test_requests_of_two_sources_meet_in_spite_of_faults(seed: int) -> None:
    mesh = SimMesh(seed, "abcd", {})
    serve(mesh, assign(PAIR, [(0.6, "abcdd", "--d--"), (0.4, "abdcd", "-----")], "abcd", count=150))
    mesh.chaos(4.0, 8, "abcd")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.accepted["image"] == mesh.accepted["voice"]
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(2))
def test_a_request_is_filtered_only_where_every_route_filters_it(seed: int) -> None:
    compute = {
        "easy": lambda n: "pass" if n % 2 == 0 else "drop",
        "hard": lambda n: "pass" if n % 3 == 0 and n % 2 else "drop",
    }
    mesh = SimMesh(seed, "ab", compute)
    serve(mesh, assign(ROUTES, [(1.0, "aabba", "-----")], "ab", count=200))
    mesh.chaos(3.0, 6, "ab")
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    kinds = list(mesh.endings["out"].values())
    assert kinds.count(Kind.FILTERED) == sum(1 for n in range(200) if n % 2 and n % 3)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_offered_from_outside_ends_once_with_its_payload_if_it_was_accepted(
    seed: int,
) -> None:
    mesh = SimMesh(seed, "abc", {})
    lanes = [(0.7, "abca", "-c--"), (0.3, "acba", "-b--")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=1, source="offered"))
    mesh.chaos(6.0, 12, "abc")
    mesh.offer("a", "photos", range(400), 0.02)
    mesh.run(lambda: mesh.time > 8.5 and not mesh._in_flight(), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.endings["out"].keys() == mesh.offered.keys()
    assert len(mesh.offered) > 100, "the worker of the source was not down all the time"
    assert mesh.errors == []


@pytest.mark.parametrize("seed", range(3))
def test_a_new_generation_in_the_middle_of_chaos_loses_nothing(seed: int) -> None:
    mesh = SimMesh(seed, "abc", {})
    serve(mesh, assign(CHAIN, [(1.0, "abca", "----")], "abc", count=250))
    mesh.chaos(6.0, 8, "bc")
    mesh.run(lambda: len(mesh.endings.get("out", {})) > 100, 100.0)
    serve(mesh, assign(CHAIN, [(1.0, "acba", "----")], "abc", count=250, generation=2))
    mesh.run(lambda: finished(mesh), 400.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []


def in_care(mesh: SimMesh) -> int:
    """Frames that wait anywhere: at senders, in receivers' care, and in the sinks' queues."""
    flows = [device.flow for device in mesh.devices.values() if device.flow is not None]
    sending = sum(s.waiting + s.unacknowledged for f in flows for s in f.links.senders.values())
    waiting = sum(
        q.batcher.waiting for f in flows for g in f.generations.values() for q in g.queues.values()
    )
    return sending + waiting


def test_a_stalled_sink_slows_the_source_and_memory_stays_bounded() -> None:
    mesh = SimMesh(3, "abc", {})
    lanes = [(1.0, "abcb", "----")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=5_000, rate=1_000.0, deadline=400.0))
    mesh.stalled_until = 12.0
    accepted, most = [], 0

    def until(seconds: float) -> Callable[[], bool]:
        def reached() -> bool:
            nonlocal most
            most = max(most, in_care(mesh))
            return mesh.time >= seconds

        return reached

    for second in (3.0, 6.0, 11.0):
        mesh.run(until(second), 30.0)
        accepted.append(len(mesh.accepted["photos"]))
    window = limits.SOURCE_INFLIGHT_REQUESTS
    assert accepted[1] == accepted[2] <= window, "nothing is accepted while nothing ends"
    assert most <= 4 * window, "what waits is bounded by what is in flight"
    mesh.run(lambda: len(mesh.endings.get("out", {})) >= 2_000, 120.0)
    assert mesh.errors == []


def test_a_plan_that_falls_short_admits_what_it_carries_and_what_is_accepted_is_quick() -> None:
    mesh = SimMesh(5, "abc", {})
    lanes = [(1.0, "abca", "----")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=600, rate=40.0, deadline=8.0))
    mesh.run(lambda: mesh.time >= 2.0, 5.0)
    # Another plan, on a device that does 10 a second.
    mesh.slow["c"] = 0.1
    fewer = assign(CHAIN, lanes, "abc", count=600, rate=40.0, deadline=8.0, generation=2, admit=8.0)
    serve(mesh, fewer)
    begun = len(mesh.accepted["photos"])
    mesh.run(lambda: mesh.time >= 22.0, 30.0)
    flow = mesh.devices["a"].flow
    assert flow is not None
    source = flow.sources.by_key["photos"]
    now = mesh.devices["a"].now
    assert len(mesh.accepted["photos"]) - begun == pytest.approx(8.0 * 20.0, rel=0.1)
    made = len(mesh.accepted["photos"]) + source.waiting(now)
    assert made == pytest.approx(40.0 * 22.0 if source.waiting(now) < 300 else 600, rel=0.05)
    assert source.ledger.latency.histogram(now).percentile_s(0.99) < 1.5
    # The device is back: what waits is taken in as quickly as it goes.
    mesh.slow.clear()
    serve(mesh, assign(CHAIN, lanes, "abc", count=600, rate=40.0, deadline=8.0, generation=3))
    mesh.run(lambda: finished(mesh), 20.0)
    mesh.check_ledger(["out"])
    assert mesh.errors == []


def test_a_device_that_becomes_slow_without_another_plan_slows_the_source_before_deadlines_pass() -> (
    None
):
    mesh = SimMesh(6, "abc", {})
    lanes = [(1.0, "abca", "----")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=6_000, rate=100.0, deadline=24.0))
    mesh.run(lambda: len(mesh.endings.get("out", {})) >= 1_000, 30.0)
    mesh.slow["c"] = 1 / 40
    mesh.run(lambda: finished(mesh), 300.0)
    assert mesh.errors == []


def repeated(mesh: SimMesh) -> tuple[int, int]:
    """Requests injected again, and repetitions that reached a sink."""
    flows = [device.flow for device in mesh.devices.values() if device.flow is not None]
    retried = sum(s.ledger.counts.retried for f in flows for s in f.sources.by_key.values())
    return retried, sum(s.counts.duplicates for f in flows for s in f.sinks.values())


@pytest.mark.parametrize("seed", range(3))
def test_an_overload_without_faults_is_not_made_worse_by_repetitions(seed: int) -> None:
    """Requests take many times as long as before, up to their deadline's half: none of them is lost."""
    mesh = SimMesh(seed, "abc", {})
    lanes = [(1.0, "abca", "----")]
    serve(mesh, assign(CHAIN, lanes, "abc", count=2_000, rate=100.0, deadline=24.0))
    mesh.run(lambda: len(mesh.endings.get("out", {})) >= 400, 30.0)
    mesh.slow["c"] = 1 / 25
    mesh.run(lambda: finished(mesh), 300.0)
    retried, duplicates = repeated(mesh)
    assert retried <= 0.01 * 2_000
    assert duplicates <= 0.01 * 2_000
    assert mesh.errors == []


def test_without_a_reachable_replica_requests_end_in_errors_at_their_deadline() -> None:
    mesh = SimMesh(1, "abc", {})
    serve(mesh, assign(CHAIN, [(1.0, "abca", "----")], "abc", count=50, deadline=4.0))
    mesh.devices["b"].kill()
    mesh.run(lambda: finished(mesh), 60.0)
    mesh.check_ledger(["out"])
    assert set(mesh.endings["out"].values()) == {Kind.ERROR}


def test_while_the_only_replica_of_a_stage_is_lost_those_above_it_do_not_work_in_vain() -> None:
    mesh = SimMesh(1, "abc", {})
    serve(mesh, assign(CHAIN, [(1.0, "abca", "----")], "abc", count=500, rate=50.0))
    mesh.run(lambda: mesh.time >= 2.0, 5.0)
    mesh.kill(mesh.devices["c"], 6.0)
    mesh.run(lambda: finished(mesh), 60.0)
    assert set(mesh.endings["out"].values()) == {Kind.DATA}
    above = mesh.devices["b"].flow
    assert above is not None
    detected = above.generations[1].queues["detect@b"].requests
    assert detected < 1.5 * 500
    assert mesh.time < 16.0
