"""The cache holds whole, verified artifacts or nothing."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from coordinator.variants.cache import Build, Cache
from tiermesh import ids
from tiermesh.documents.variant import Artifact
from tiermesh.errors import DigestMismatch, StorageFull

CONTENT = b"weights" * 1000
DIGEST = ids.digest_bytes(CONTENT)
ARTIFACT = Artifact(digest=DIGEST, size_bytes=len(CONTENT))


def kept(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_content_lies_under_its_digest(home: Path) -> None:
    cache = Cache(home)
    artifact = cache.add(io.BytesIO(CONTENT), ARTIFACT)
    assert artifact == ARTIFACT
    assert cache.has(artifact)
    assert kept(home) == [home / "artifacts" / "sha256" / DIGEST.removeprefix("sha256:")]


def test_other_bytes_are_refused_and_not_kept(home: Path) -> None:
    with pytest.raises(DigestMismatch) as caught:
        Cache(home).add(io.BytesIO(CONTENT + b"!"), ARTIFACT, "model.onnx of p-1.whl")
    assert "model.onnx of p-1.whl" in caught.value.what
    assert caught.value.fields["expected"] == DIGEST
    assert kept(home) == []


def test_a_full_disk_is_said_and_nothing_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="no room"):
        Cache(home).add(io.BytesIO(CONTENT))
    assert kept(home) == []


def test_a_cut_off_artifact_is_not_there(home: Path) -> None:
    cache = Cache(home)
    artifact = cache.add(io.BytesIO(CONTENT))
    cache.path_of(artifact.digest).write_bytes(CONTENT[:-1])
    assert not cache.has(artifact)


def test_builds_are_remembered_while_their_artifact_is_there(home: Path) -> None:
    cache = Cache(home)
    build = Build(artifact=cache.add(io.BytesIO(CONTENT)), note="accepted")
    cache.remember_build("sha256:" + "1" * 64, build)
    assert Cache(home).build("sha256:" + "1" * 64) == build
    assert cache.build("sha256:" + "2" * 64) is None
    cache.path_of(build.artifact.digest).unlink()
    assert cache.build("sha256:" + "1" * 64) is None


def test_no_more_is_read_than_the_file_should_have(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            assert self.given < 2**24, "it is read on and on"
            return bytes(size)

    expected = Artifact(digest=f"sha256:{'0' * 64}", size_bytes=10)
    with pytest.raises(DigestMismatch):
        Cache(tmp_path).add(Endless(), expected)  # pyright: ignore[reportArgumentType]
