"""A disk that is really full: a small tmpfs, where this machine lets us mount one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.rollout.activate import AssignmentFolder
from agent.rollout.garbage import Collector
from agent.rollout.store import Store
from tests.doubler import put
from tiermesh import ids, limits
from tiermesh.chunks import Hashing
from tiermesh.errors import StorageFull

DISK_BYTES = 2 * 2**20
DATA = bytes(range(256)) * 6_000
DIGEST = ids.digest_bytes(DATA)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tiermesh-test", str(folder)]
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    monkeypatch.setattr(limits, "STORE_RESERVE_BYTES", 0)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def digests() -> bytes:
    hashing = Hashing(len(DATA))
    hashing.update(DATA)
    return hashing.chunk_digests


def fill(disk: Path, leave: int) -> Path:
    """Somebody else's file, which leaves so many bytes free."""
    hog = disk / "hog"
    hog.write_bytes(bytes(max(shutil.disk_usage(disk).free - leave, 0)))
    return hog


def test_a_disk_that_fills_in_the_middle_keeps_what_arrived_and_goes_on_when_there_is_room(
    disk: Path,
) -> None:
    store = Store(disk / "artifacts")
    with store.writer(DIGEST, len(DATA), digests()) as writer:
        writer.write(DATA[:700_000])
        hog = fill(disk, 50_000)
        with pytest.raises(StorageFull, match="No space left"):
            writer.write(DATA[700_000:])
        assert writer.held == 700_000
    assert store.held(DIGEST) == 700_000
    with pytest.raises(StorageFull, match="bytes are needed and"):
        store.writer(DIGEST, len(DATA), digests())
    hog.unlink()
    with store.writer(DIGEST, len(DATA), digests()) as writer:
        assert writer.held == 700_000
        writer.write(DATA[700_000:])
        assert writer.finish()
    assert store.path(DIGEST).read_bytes() == DATA


def test_room_is_made_on_a_full_disk(disk: Path) -> None:
    store = Store(disk / "artifacts")
    folder = AssignmentFolder(disk / "assignments")
    collector = Collector(store, folder.kept, clock=lambda: 0.0)
    spare = put(store, DATA)
    fill(disk, 0)
    assert store.free_bytes() == 0
    assert collector.make_room(1_000) == spare.size_bytes
    assert store.free_bytes() >= spare.size_bytes


def test_a_full_disk_cannot_say_what_is_coming_and_nothing_is_damaged(disk: Path) -> None:
    store = Store(disk / "artifacts")
    collector = Collector(store, list, clock=lambda: 0.0)
    collector.pin("a rollout", 1, [DIGEST])
    fill(disk, 0)
    with pytest.raises(StorageFull, match="no room"):
        collector.pin("a rollout", 2, [ids.digest_bytes(bytes([n])) for n in range(100)])
    again = Collector(store, list, clock=lambda: 0.0)
    assert again.needed_for() == {DIGEST: "coming for a rollout"}
