"""The coordinator's artifacts on disk, each under the SHA-256 of its content.

``<home>/artifacts/sha256/<hex>``. A file appears there whole or not at all; ``<home>/builds/<key>.json`` remembers
which artifact a recipe made of which inputs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tiermesh import limits
from tiermesh.documents.reading import Document, decode_json, encode_json
from tiermesh.documents.variant import Artifact
from tiermesh.errors import DigestMismatch, InvalidDocument, StorageFull

_CHUNK_BYTES = 1 << 20


class Build(Document, frozen=True, kw_only=True):
    """What a recipe made. `note` says how it was accepted where its bytes are not the recorded ones."""

    artifact: Artifact
    note: str = ""


class Cache:
    """Artifacts by digest, under `home`; made on first use."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.artifacts = home / "artifacts" / "sha256"
        self._builds = home / "builds"

    def path_of(self, digest: str) -> Path:
        """Where the artifact lies, or would lie."""
        return self.artifacts / digest.removeprefix("sha256:")

    def has(self, artifact: Artifact) -> bool:
        """Whether it is here, in its full size."""
        path = self.path_of(artifact.digest)
        return path.is_file() and path.stat().st_size == artifact.size_bytes

    def add(
        self, content: IO[bytes], expected: Artifact | None = None, what: str = "a file"
    ) -> Artifact:
        """Keep `content`; with `expected`, only if that is what it is.

        Raises:
            DigestMismatch: other bytes than expected; nothing is kept.
            StorageFull: the disk has no room; nothing is kept.
        """
        with self.scratch() as folder:
            temporary = folder / "content"
            most = limits.ARTIFACT_BYTES if expected is None else expected.size_bytes
            artifact = _copied(content, temporary, most)
            if expected is not None and artifact != expected:
                raise _mismatch(what, artifact, expected)
            self.artifacts.mkdir(parents=True, exist_ok=True)
            temporary.replace(self.path_of(artifact.digest))
        return artifact

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder on the cache's disk that is gone afterwards."""
        self.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.home, prefix="scratch-") as folder:
            yield Path(folder)

    def build(self, key: str) -> Build | None:
        """What was built under `key`, if its artifact is still here."""
        try:
            build = decode_json(self._build_path(key).read_bytes(), Build, "a build record")
        except (FileNotFoundError, InvalidDocument):
            return None
        return build if self.has(build.artifact) else None

    def remember_build(self, key: str, build: Build) -> None:
        """Keep what `key` was built to."""
        self._builds.mkdir(parents=True, exist_ok=True)
        with self.scratch() as folder:
            (folder / "record").write_bytes(encode_json(build))
            (folder / "record").replace(self._build_path(key))

    def _build_path(self, key: str) -> Path:
        return self._builds / f"{key.removeprefix('sha256:')}.json"


def _mismatch(what: str, found: Artifact, expected: Artifact) -> DigestMismatch:
    return DigestMismatch(
        f"{what} is not the file that the ladder names",
        why=(
            f"it is {found.digest} of {found.size_bytes} bytes,"
            f" and {expected.digest} of {expected.size_bytes} bytes was expected"
        ),
        fix="Nothing was saved. If the ladder is right, do not trust the package",
        found=found.digest,
        expected=expected.digest,
    )


def _copied(content: IO[bytes], to: Path, most: int) -> Artifact:
    """Write `content` to disk for good."""
    hasher, size = hashlib.sha256(), 0
    try:
        with to.open("wb") as file:
            while chunk := content.read(_CHUNK_BYTES):
                hasher.update(chunk)
                size += file.write(chunk)
                if size > most:
                    # A package may expand to more than the disk holds; that it is another file is known now.
                    break
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            "the cache has no room", why=str(error), fix=f"Free some disk at {to.parent.parent}"
        ) from None
    return Artifact(digest=f"sha256:{hasher.hexdigest()}", size_bytes=size)
