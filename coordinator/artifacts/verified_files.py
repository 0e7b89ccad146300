"""The artifacts that lie here, hashed before they are sent: what has changed on this disk goes nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.artifacts.transfer import PathOf, Sendable
from tiermesh import limits
from tiermesh.chunks import Hashing
from tiermesh.documents.variant import Artifact
from tiermesh.errors import DigestMismatch


class Files:
    """The artifacts here, hashed once while their files stay as they are. Blocks on the disk."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], Sendable] = {}

    def sendable(self, artifact: Artifact, path_of: PathOf) -> Sendable:
        """The artifact's file, whose content was checked.

        Raises:
            DigestMismatch: it is missing, or has other bytes than its digest says.
        """
        path = path_of(artifact.digest)
        try:
            status = path.stat()
        except OSError:
            raise _changed(artifact, f"{path} is missing") from None
        key = artifact.digest, status.st_size, status.st_mtime_ns
        if key not in self._known:
            self._known[key] = _hashed(artifact, path, status)
        return self._known[key]


def _hashed(artifact: Artifact, path: Path, status: os.stat_result) -> Sendable:
    if status.st_size != artifact.size_bytes:
        raise _changed(artifact, f"{path} has {status.st_size} bytes, not {artifact.size_bytes}")
    hashing = Hashing(artifact.size_bytes)
    with path.open("rb") as file:
        while data := file.read(limits.ARTIFACT_CHUNK_BYTES):
            hashing.update(data)
    if hashing.digest != artifact.digest:
        raise _changed(artifact, f"{path} has other bytes: {hashing.digest}")
    return Sendable(artifact.digest, artifact.size_bytes, path, hashing.chunk_digests)


def _changed(artifact: Artifact, why: str) -> DigestMismatch:
    return DigestMismatch(
        f"the artifact {artifact.digest} is not as it was",
        why=why,
        fix="Fetch it again: coordinator variants fetch",
        digest=artifact.digest,
    )
