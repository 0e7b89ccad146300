"""The artifact store: files named by their SHA-256, complete or not there.

```
complete/<hex>    whole artifacts, verified when they were finished
partial/<hex>     what has arrived of others; a push goes on from here, also after a restart
unpacked/<hex>/   the content of a bundle, made once
```

All methods block on the disk: call them off the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.rollout import bundles
from agent.rollout.partial import Writer, disk_error, full
from tiermesh import chunks, ids, limits
from tiermesh.errors import LimitExceeded, TiermeshError


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact, or what has arrived of it. `used_at` is when it came or was asked for last (Unix seconds)."""

    digest: str
    size_bytes: int
    complete: bool
    used_at: float


class Store:
    """Artifacts of one device. One process writes; any number may read."""

    def __init__(self, root: Path, *, free_bytes: Callable[[Path], int] | None = None) -> None:
        self.root = root
        self._complete = root / "complete"
        self._partial = root / "partial"
        self._unpacked = root / "unpacked"
        self._free_bytes = free_bytes or _free_on_disk
        for folder in (self._complete, self._partial, self._unpacked):
            folder.mkdir(parents=True, exist_ok=True)

    def has(self, digest: str) -> bool:
        """Whether the artifact is there, whole."""
        return self._complete_path(digest).is_file()

    def path(self, digest: str) -> Path:
        """The artifact's file; TiermeshError where it is not there."""
        path = self._complete_path(digest)
        if not path.is_file():
            raise TiermeshError(
                f"the artifact {digest} is not on this device", fix="Push it first", digest=digest
            )
        return path

    def held(self, digest: str) -> int:
        """How many bytes are there, whole or not; a push goes on at this offset."""
        for path in (self._complete_path(digest), self._partial_path(digest)):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                continue
        return 0

    def digests(self) -> set[str]:
        """The artifacts that are there, whole."""
        names = (path.name for path in self._complete.iterdir())
        return {digest for name in names if ids.is_digest(digest := f"sha256:{name}")}

    def free_bytes(self) -> int:
        """How much more may be stored; the reserve is not counted."""
        return max(self._free_bytes(self._partial) - limits.STORE_RESERVE_BYTES, 0)

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """At most `size` bytes of an artifact, whole or not, from `offset` on; none where they are not held."""
        for path in (self._complete_path(digest), self._partial_path(digest)):
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:
                continue
        return b""

    def inventory(self) -> list[StoredArtifact]:
        """All that is held, whole or in part, by digest."""
        found = [
            StoredArtifact(digest, status.st_size, folder is self._complete, status.st_mtime)
            for folder in (self._complete, self._partial)
            for path in folder.iterdir()
            if ids.is_digest(digest := f"sha256:{path.name}")
            and (status := _status(path)) is not None
        ]
        return sorted(found, key=lambda held: held.digest)

    def touch(self, digests: Iterable[str]) -> None:
        """Note that these were asked for, as far as they are there."""
        for digest in digests:
            for path in (self._complete_path(digest), self._partial_path(digest)):
                with contextlib.suppress(OSError):
                    os.utime(path)

    def writer(self, digest: str, size: int, chunk_digests: bytes = b"") -> Writer:
        """Receive an artifact of `size` bytes, from where an earlier writer ended.

        `chunk_digests` are those of its chunks (`tiermesh.chunks`); what is held and does not fit them goes.

        Raises:
            LimitExceeded: it is larger than `limits.ARTIFACT_BYTES`, or has another number of chunks.
            StorageFull: the rest of it would leave less than the reserve.
            TiermeshError: it is whole already.
        """
        _check_announced(digest, size, chunk_digests)
        if self.has(digest):
            raise TiermeshError(f"the artifact {digest} already exists", digest=digest)
        needed, free = size - self.held(digest), self.free_bytes()
        if needed > free:
            raise full(
                digest,
                f"{needed} bytes are needed and {free} may be used",
                needed_bytes=needed,
                free_bytes=free,
            )
        partial, complete = self._partial_path(digest), self._complete_path(digest)
        try:
            return Writer(partial, complete, digest, size, chunk_digests)
        except OSError as error:
            raise disk_error(digest, error) from error

    def remove(self, digest: str) -> None:
        """Forget an artifact, whole or partial, and what was unpacked of it.

        A crash in between leaves what `sweep` removes, and nothing that could be taken for whole.
        """
        self._complete_path(digest).unlink(missing_ok=True)
        self._partial_path(digest).unlink(missing_ok=True)
        unpacked = self._unpacked / _hex(digest)
        if unpacked.is_dir():
            gone = self._unpacked / f".gone.{_hex(digest)}"
            if gone.exists():
                shutil.rmtree(gone, ignore_errors=True)
            unpacked.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a process that was killed left: drafts, and folders of bundles that are gone.

        Only while nobody unpacks.
        """
        for folder in self._unpacked.iterdir():
            if not (self._complete / folder.name).is_file():
                shutil.rmtree(folder, ignore_errors=True)

    def unpack(self, digest: str) -> Path:
        """The folder with a bundle's content, unpacked at the first call.

        Raises:
            TiermeshError: the bundle is not there, is no zip, or holds links or paths out of it.
            LimitExceeded: it unpacks to more than `limits.BUNDLE_UNPACKED_BYTES`.
            StorageFull: there is no room for it.
        """
        folder = self._unpacked / _hex(digest)
        if folder.is_dir():
            return folder
        bundle = self.path(digest)
        draft = self._unpacked / f".{_hex(digest)}.{os.getpid()}"
        try:
            bundles.unzip(bundle, draft, self.free_bytes())
            return _publish(draft, folder)
        except OSError as error:
            raise disk_error(digest, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _complete_path(self, digest: str) -> Path:
        return self._complete / _hex(digest)

    def _partial_path(self, digest: str) -> Path:
        return self._partial / _hex(digest)


def _publish(draft: Path, folder: Path) -> Path:
    draft.mkdir(exist_ok=True)
    try:
        draft.rename(folder)
    except OSError as error:
        # Another process was first; what it made is the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    return folder


def _hex(digest: str) -> str:
    if not ids.is_digest(digest):
        raise TiermeshError(
            f"{digest[:80]!r} is not a digest", fix="Write sha256: and 64 hex digits"
        )
    return digest.removeprefix("sha256:")


def _check_announced(digest: str, size: int, chunk_digests: bytes) -> None:
    if size > limits.ARTIFACT_BYTES:
        raise LimitExceeded(
            f"the artifact {digest} has {size} bytes",
            why=f"the limit is {limits.ARTIFACT_BYTES}",
            limit="ARTIFACT_BYTES",
        )
    if chunk_digests and len(chunk_digests) != chunks.DIGEST_BYTES * chunks.count(size):
        raise LimitExceeded(
            f"the artifact {digest} comes with digests of {len(chunk_digests)} bytes",
            why=f"{size} bytes have {chunks.count(size)} chunks",
        )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _free_on_disk(folder: Path) -> int:
    return shutil.disk_usage(folder).free
