"""Collecting: what is needed stays, whatever happens; the rest goes, the longest unused first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import StateDamaged
from agent.rollout.activate import AssignmentFolder
from agent.rollout.garbage import Collector, collectable, enough, rollout_of
from agent.rollout.store import Store, StoredArtifact
from tests.doubler import put, zipped
from tiermesh import ids, limits
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.documents.plan import Lane
from tiermesh.documents.variant import Artifact, Bundle

NOW = 1_000_000.0

held_artifacts = st.lists(
    st.builds(
        StoredArtifact,
        digest=st.integers(0, 30).map(lambda n: ids.digest_bytes(bytes([n]))),
        size_bytes=st.integers(0, 1_000),
        complete=st.booleans(),
        used_at=st.integers(0, 50).map(float),
    ),
    max_size=20,
    unique_by=lambda held: held.digest,
)


@given(held=held_artifacts, needed=st.sets(st.integers(0, 30)), wanted=st.integers(-10, 5_000))
def test_what_goes_is_unneeded_the_longest_unused_and_no_more_than_is_wanted(
    held: list[StoredArtifact], needed: set[int], wanted: int
) -> None:
    needed_for = {ids.digest_bytes(bytes([n])): "w 1 runs" for n in needed}
    candidates = collectable(held, needed_for)
    going = enough(candidates, wanted)
    assert not {h.digest for h in going} & needed_for.keys()
    assert going == candidates[: len(going)]
    assert [h.used_at for h in going] == sorted(h.used_at for h in going)
    without_last = sum(h.size_bytes for h in going[:-1])
    assert not going or without_last < wanted, "one less would not do"
    assert going == candidates or sum(h.size_bytes for h in going) >= wanted


def assignment(generation: int, artifact: Artifact, workflow: str = "w") -> Assignment:
    replica = ReplicaSpec(id="up@me", stage="up", bundle=Bundle(artifact=artifact, entry="code:Up"))
    return Assignment(
        workflow=workflow,
        generation=generation,
        plan="sha256:" + "0" * 64,
        run="run",
        device="me",
        stages={"up": StageSpec(name="up", kind="map")},
        replicas=[replica],
        lanes=[Lane(share=1.0, path={"up": "up@me"})],
        replica_devices={"up@me": "me"},
        peers={},
    )


class Device:
    """A store with its assignments, and artifacts of known age."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.restart()

    def restart(self) -> None:
        self.store = Store(self.root / "artifacts")
        self.folder = AssignmentFolder(self.root / "assignments")
        self.collector = Collector(self.store, self.folder.kept, clock=lambda: NOW)

    def put(self, name: str, age_s: float = 2 * limits.ARTIFACT_RETENTION_S) -> Artifact:
        artifact = put(self.store, zipped({name: name * 100}))
        path = self.store.path(artifact.digest)
        os.utime(path, (NOW - age_s, NOW - age_s))
        return artifact

    def has(self, *artifacts: Artifact) -> bool:
        return all(self.store.has(artifact.digest) for artifact in artifacts)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_what_runs_and_what_ran_before_stays_and_what_ran_before_that_goes(device: Device) -> None:
    first, second, third = (device.put(name) for name in "abc")
    for generation, artifact in enumerate((first, second, third), 1):
        device.folder.keep(assignment(generation, artifact))
    device.restart()
    told = device.collector.look()
    assert told.needed_for == {third.digest: "w 3 runs", second.digest: "w 2 ran before"}
    assert device.collector.reclaimable_bytes() == first.size_bytes
    assert device.collector.collect().freed_bytes == first.size_bytes
    assert device.has(second, third)
    device.folder.forget("w")
    assert device.collector.collect_unused() == second.size_bytes + third.size_bytes


def test_what_is_coming_stays_until_it_runs_or_something_newer_comes(device: Device) -> None:
    coming, newer = device.put("coming"), device.put("newer")
    name = rollout_of("w")
    device.collector.pin(name, 4, [coming.digest])
    device.restart()
    assert device.collector.look().needed_for[coming.digest] == "coming for rollout of w"
    device.collector.pin(name, 4, [newer.digest])
    assert device.collector.reclaimable_bytes() == 0, "one rollout names its artifacts in parts"
    device.collector.pin(name, 5, [newer.digest])
    assert device.collector.reclaimable_bytes() == coming.size_bytes
    device.folder.keep(assignment(5, newer))
    assert device.collector.look().needed_for == {newer.digest: "w 5 runs"}
    device.folder.forget("w")
    device.restart()
    assert device.collector.look().needed_for == {}, "what ran is not coming any more"


def test_what_was_used_lately_stays_when_a_workflow_stops_but_not_when_room_is_wanted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, older = device.put("old", 100.0), device.put("older", 200.0)
    assert device.collector.collect_unused() == 0
    monkeypatch.setattr(device.store, "free_bytes", lambda: 5)
    assert device.collector.make_room(5) == 0
    assert device.collector.make_room(10**6) == 0, "nothing goes where it would not do"
    assert device.collector.make_room(6) == older.size_bytes
    assert device.has(old)


def test_what_is_in_use_stays(device: Device) -> None:
    used = device.put("used")
    with device.collector.in_use([used.digest]), device.collector.in_use([used.digest]):
        assert device.collector.look().needed_for == {used.digest: "in use"}
    assert device.collector.collect().freed_bytes == used.size_bytes


def test_parts_that_nothing_needs_go_too(device: Device) -> None:
    data = b"part" * 100
    with device.store.writer(ids.digest_bytes(data), 1_000) as writer:
        writer.write(data)
    assert device.collector.collect().freed_bytes == 400
    assert list((device.store.root / "partial").iterdir()) == []


def test_nothing_goes_while_an_assignment_cannot_be_read(device: Device) -> None:
    spare = device.put("spare")
    (device.root / "assignments" / "w.json").write_text("{")
    assert device.collector.reclaimable_bytes() == 0
    with pytest.raises(StateDamaged, match=r"cannot determine what w\.json needs"):
        device.collector.collect()
    assert device.has(spare)


def test_pins_that_cannot_be_read_are_forgotten_in_words(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    (device.store.root / "pins.json").write_text("{")
    device.restart()
    assert device.collector.look().needed_for == {}
    assert "discarding the record of incoming artifacts" in caplog.text


def test_a_kill_while_an_artifact_is_removed_leaves_nothing_that_looks_whole(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = device.put("code")
    device.store.unpack(bundle.digest)
    unpacked = device.store.root / "unpacked"

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            device.store.remove(bundle.digest)
    assert not device.has(bundle)
    assert not (unpacked / bundle.digest.removeprefix("sha256:")).exists()
    device.restart()
    device.store.sweep()
    assert list(unpacked.iterdir()) == []
    again = device.put("code")
    assert (device.store.unpack(again.digest) / "code").read_text() == "code" * 100
