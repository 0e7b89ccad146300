"""Activation: what runs is on disk first, survives a restart, and a failure leaves it untouched."""

import asyncio
import errno
import json
from pathlib import Path

import pytest

from agent.rollout.activate import Activation, AssignmentFolder, Report
from tests.unit.agent.test_node import an_assignment
from tiermesh.documents.assignment import Assignment, Peer, ReplicaSpec
from tiermesh.documents.variant import Artifact, Bundle
from tiermesh.errors import InvalidDocument, StaleGeneration, StorageFull, TiermeshError


class RecordingServing:
    """A worker's supervisor that only remembers what it was told; `fails` makes preparing fail."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fails = ""

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        if self.fails:
            raise TiermeshError(self.fails)
        report("load", "in@dev", 0.1)
        self.told.append(f"prepare {assignment.generation}")
        await asyncio.sleep(0)

    async def commit(self, workflow: str, generation: int) -> None:
        self.told.append(f"commit {generation}")

    async def abort(self, workflow: str, generation: int) -> None:
        self.told.append(f"abort {generation}")

    async def stop(self, workflow: str) -> None:
        self.told.append("stop")

    async def stand_by(self, assignment: Assignment) -> None:
        self.told.append(f"stand by {len(assignment.replicas)}")


def activation(folder: Path, serving: RecordingServing) -> Activation:
    return Activation("dev", AssignmentFolder(folder), serving, lambda _: True)


async def test_a_restarted_agent_resumes_what_it_had_committed(tmp_path: Path) -> None:
    first = activation(tmp_path, RecordingServing())
    await first.prepare(an_assignment(4), lambda *_: None)
    await first.commit("w", 4)
    serving = RecordingServing()
    again = activation(tmp_path, serving)
    assert await again.resume() == []
    assert serving.told == ["prepare 4", "commit 4"]
    assert again.node.generations == {"w": 4}


async def test_a_failed_prepare_leaves_what_runs(tmp_path: Path) -> None:
    serving = RecordingServing()
    running = activation(tmp_path, serving)
    await running.prepare(an_assignment(1), lambda *_: None)
    await running.commit("w", 1)
    serving.fails = "no memory for in@dev"
    with pytest.raises(TiermeshError, match="no memory"):
        await running.prepare(an_assignment(2), lambda *_: None)
    assert running.node.generations == {"w": 1}
    assert serving.told[-1] == "abort 2", "no half of it stays in the worker"


async def test_a_newer_prepare_replaces_the_waiting_one(tmp_path: Path) -> None:
    serving = RecordingServing()
    waiting = activation(tmp_path, serving)
    await waiting.prepare(an_assignment(1), lambda *_: None)
    await waiting.prepare(an_assignment(2), lambda *_: None)
    assert serving.told == ["prepare 1", "abort 1", "prepare 2"]


async def test_without_room_on_disk_nothing_is_switched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = RecordingServing()
    full = activation(tmp_path, serving)
    await full.prepare(an_assignment(1), lambda *_: None)

    def no_room(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agent.durable.os.fsync", no_room)
    with pytest.raises(StorageFull, match="No space left"):
        await full.commit("w", 1)
    assert full.node.generations == {}
    assert "commit 1" not in serving.told
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_file_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    first = activation(tmp_path, RecordingServing())
    await first.prepare(an_assignment(1), lambda *_: None)
    await first.commit("w", 1)
    (tmp_path / "broken.json").write_text("{")
    again = activation(tmp_path, RecordingServing())
    await again.resume()
    assert again.node.generations == {"w": 1}


async def test_a_stopped_workflow_is_not_resumed(tmp_path: Path) -> None:
    first = activation(tmp_path, RecordingServing())
    await first.prepare(an_assignment(1), lambda *_: None)
    await first.commit("w", 1)
    await first.stop("w", 1)
    again = activation(tmp_path, RecordingServing())
    await again.resume()
    assert again.node.generations == {}


async def test_a_newer_generation_waits_until_the_old_one_is_resumed(tmp_path: Path) -> None:
    first = activation(tmp_path, RecordingServing())
    await first.prepare(an_assignment(1), lambda *_: None)
    await first.commit("w", 1)
    serving = RecordingServing()
    again = activation(tmp_path, serving)
    failures, _ = await asyncio.gather(
        again.resume(), again.prepare(an_assignment(2), lambda *_: None)
    )
    assert failures == []
    assert serving.told == ["prepare 1", "commit 1", "prepare 2"]


async def test_a_standby_waits_for_no_step_and_changes_nothing_that_runs(tmp_path: Path) -> None:
    serving = RecordingServing()
    running = activation(tmp_path, serving)
    prepared, _ = await asyncio.gather(
        running.prepare(an_assignment(2), lambda *_: None), running.stand_by(an_assignment(1))
    )
    assert prepared is None
    assert serving.told == ["prepare 2", "stand by 2"]
    assert running.node.generations == {}
    assert list(tmp_path.iterdir()) == [], "after a restart, nothing stands by"


async def test_a_standby_for_another_device_or_without_its_artifacts_is_refused(
    tmp_path: Path,
) -> None:
    serving = RecordingServing()
    bare = Activation("dev", AssignmentFolder(tmp_path), serving, lambda _: False)
    with pytest.raises(TiermeshError, match="another device"):
        await bare.stand_by(an_assignment(1, device="other"))
    bundle = Bundle(artifact=Artifact(digest="sha256:" + "0" * 64, size_bytes=1), entry="code:Code")
    replicas = [ReplicaSpec(id="in@dev", stage="in", bundle=bundle)]
    with pytest.raises(TiermeshError, match="not on the device"):
        await bare.stand_by(an_assignment(1, replicas=replicas))
    assert serving.told == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0:7001", "0.0.0.0 is every address of whoever connects to it"),
        ("[::]:7001", ":: is every address of whoever connects to it"),
        ("192.0.2.1:7001", "only loopback addresses are used"),
        ("nowhere", "not an address"),
    ],
)
async def test_a_peer_whose_address_leads_nowhere_is_refused_before_anything_is_loaded(
    tmp_path: Path, address: str, why: str
) -> None:
    serving = RecordingServing()
    here = activation(tmp_path, serving)
    mine = Peer(device="dev", name="d", address="127.0.0.1:1")
    peers = {"dev": mine, "cam": Peer(device="cam", name="cam", address=address)}
    with pytest.raises(InvalidDocument, match=f"cam cannot be reached from here.*{why}"):
        await here.prepare(an_assignment(1, peers=peers), lambda *_: None)
    assert serving.told == []


async def test_what_is_set_aside_is_not_served_after_a_restart_and_says_why(tmp_path: Path) -> None:
    running = activation(tmp_path, RecordingServing())
    await running.prepare(an_assignment(4), lambda *_: None)
    await running.commit("w", 4)
    await running.set_aside("w", 3, "an older one")
    assert running.node.generations == {"w": 4}
    await running.set_aside("w", 4, "the worker ended")
    assert running.node.generations == {}
    kept = json.loads((tmp_path / "w.json.aside").read_text())
    assert (kept["why"], kept["assignment"]["generation"]) == ("the worker ended", 4)
    serving = RecordingServing()
    again = activation(tmp_path, serving)
    assert await again.resume() == []
    assert serving.told == []
    with pytest.raises(StaleGeneration):
        await running.prepare(an_assignment(4), lambda *_: None)
    await running.prepare(an_assignment(5), lambda *_: None)
    await running.commit("w", 5)
    await running.stop("w", 5)
    assert list(tmp_path.iterdir()) == []


async def test_one_that_cannot_be_read_or_prepared_is_told_and_the_others_are_served(
    tmp_path: Path,
) -> None:
    first = activation(tmp_path, RecordingServing())
    for name in ("a", "b", "c"):
        await first.prepare(an_assignment(1, workflow=name), lambda *_: None)
        await first.commit(name, 1)
    (tmp_path / "a.json").write_text("{")
    serving = RecordingServing()
    original = serving.prepare

    async def prepare(assignment: Assignment, report: Report) -> None:
        if assignment.workflow == "b":
            raise KeyError("what nobody foresaw")
        await original(assignment, report)

    serving.prepare = prepare
    again = activation(tmp_path, serving)
    unreadable, failed = await again.resume()
    assert "a.json" in unreadable
    assert failed == "b, generation 1: KeyError('what nobody foresaw')"
    assert again.node.generations == {"c": 1}
