"""The artifact store: files named by their SHA-256, complete or not there.

```
complete/<hex>    whole artifacts, verified when they were finished
partial/<hex>     what has arrived of others; a push goes on from here, also after a restart
unpacked/<hex>/   the content of a bundle, made once
```

All methods block on the disk: call them off the event loop.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.durable import sync_folder
from agent.rollout import bundles
from tiermesh import ids, limits
from tiermesh.errors import DigestMismatch, LimitExceeded, StorageFull, TiermeshError

_READ_BYTES: Final = 2**20


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

    def writer(self, digest: str, size: int, offset: int) -> Writer:
        """Receive an artifact of `size` bytes from `offset` on, which is at most what is held.

        Raises:
            LimitExceeded: it is larger than `limits.ARTIFACT_BYTES`.
            StorageFull: the rest of it would leave less than the reserve.
            TiermeshError: bytes before `offset` are missing, or the artifact is already whole.
        """
        if size > limits.ARTIFACT_BYTES:
            raise LimitExceeded(
                f"the artifact {digest} has {size} bytes",
                why=f"the limit is {limits.ARTIFACT_BYTES}",
                limit="ARTIFACT_BYTES",
            )
        held = self.held(digest)
        if self.has(digest) or not 0 <= offset <= min(held, size):
            raise TiermeshError(
                f"cannot write the artifact {digest} from byte {offset} on",
                why=f"{held} of its {size} bytes are held",
                fix="Ask what is held, and go on from there",
                held=held,
            )
        if size - offset > (free := self.free_bytes()):
            raise _full(digest, f"{size - offset} bytes are needed and {free} may be used")
        partial, complete = self._partial_path(digest), self._complete_path(digest)
        try:
            return Writer(partial, complete, digest, size, offset)
        except OSError as error:
            raise _disk_error(digest, error) from error

    def remove(self, digest: str) -> None:
        """Forget an artifact, whole or partial, and what was unpacked of it."""
        self._complete_path(digest).unlink(missing_ok=True)
        self._partial_path(digest).unlink(missing_ok=True)
        shutil.rmtree(self._unpacked / _hex(digest), ignore_errors=True)

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
            raise _disk_error(digest, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _complete_path(self, digest: str) -> Path:
        return self._complete / _hex(digest)

    def _partial_path(self, digest: str) -> Path:
        return self._partial / _hex(digest)


class Writer:
    """One artifact on its way in. What has arrived stays, whole or not, when the context ends."""

    def __init__(self, partial: Path, complete: Path, digest: str, size: int, offset: int) -> None:
        self._partial = partial
        self._complete = complete
        self._digest = digest
        self._size = size
        self._written = offset
        self._file = partial.open("r+b" if partial.exists() else "w+b")
        self._file.truncate(offset)
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while data := self._file.read(_READ_BYTES):
            self._hash.update(data)
        # A cancelled push closes while a thread may still be writing.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes are held now.

        Raises:
            LimitExceeded: more bytes than were announced.
            StorageFull: the disk is full; what was written before stays.
        """
        if self._written + len(data) > self._size:
            raise LimitExceeded(
                f"more bytes than the {self._size} announced came for {self._digest}"
            )
        with self._lock:
            try:
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                self._cut_back()
                raise _disk_error(self._digest, error) from error
            self._hash.update(data)
            self._written += len(data)
            return self._written

    def finish(self) -> bool:
        """Make the artifact whole if all of its bytes are there, and say whether they are.

        Raises:
            DigestMismatch: the bytes are not those that the digest names; they are removed.
            StorageFull: the disk is full.
        """
        if self._written < self._size:
            return False
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._digest:
            self.close()
            self._partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"what arrived is not the artifact {self._digest}",
                why=f"its digest is {found}",
                fix="Push it again; if this repeats, the sender's file has changed",
            )
        try:
            os.fsync(self._file.fileno())
            self.close()
            self._partial.replace(self._complete)
            sync_folder(self._complete.parent)
        except OSError as error:
            raise _disk_error(self._digest, error) from error
        return True

    def close(self) -> None:
        """Let go of the file; what has arrived stays."""
        with self._lock:
            self._file.close()

    def _cut_back(self) -> None:
        """Drop what a failed write may have left, so that the file holds what the hash has seen."""
        try:
            self._file.truncate(self._written)
        except OSError:
            self._partial.unlink(missing_ok=True)


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


def _full(digest: str, why: str) -> StorageFull:
    return StorageFull(
        f"no room for the artifact {digest}",
        why=why,
        fix="Free disk space on the device, or serve fewer variants there",
        digest=digest,
    )


def _disk_error(digest: str, error: OSError) -> TiermeshError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(digest, error.strerror or "the disk is full")
    return TiermeshError(
        f"the disk refuses the artifact {digest}", why=error.strerror or str(error), digest=digest
    )


def _free_on_disk(folder: Path) -> int:
    return shutil.disk_usage(folder).free
