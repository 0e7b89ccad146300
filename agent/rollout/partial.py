"""One artifact on its way to the disk: verified chunk by chunk, and whole under its name or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.durable import sync_folder
from tiermesh.chunks import Hashing
from tiermesh.errors import DigestMismatch, LimitExceeded, StorageFull, TiermeshError

_READ_BYTES: Final = 2**20


class Writer:
    """What has arrived stays, whole or not, when the context ends; the next writer goes on from `held`."""

    def __init__(
        self, partial: Path, complete: Path, digest: str, size: int, chunk_digests: bytes
    ) -> None:
        self._partial = partial
        self._complete = complete
        self._digest = digest
        self._size = size
        self._hash = Hashing(size, chunk_digests)
        self._chunked = bool(chunk_digests)
        # Unbuffered: what a full disk did not take must not be flushed once more when the file is closed.
        self._file = partial.open("r+b" if partial.exists() else "w+b", buffering=0)
        # A cancelled push closes while a thread may still be writing.
        self._lock = threading.Lock()
        try:
            self._read_what_is_there()
        except BaseException:
            self._file.close()
            raise

    def _read_what_is_there(self) -> None:
        left = self._size
        while left and (data := self._file.read(min(_READ_BYTES, left))):
            left -= len(data)
            if not self._hash.update(data):
                break
        self._file.truncate(self._hash.size)
        self._file.seek(self._hash.size)

    @property
    def held(self) -> int:
        """How many bytes are there."""
        return self._hash.size

    @property
    def verified(self) -> int:
        """How many of them are known to be right; without digests of chunks none are before the end."""
        return self._hash.verified if self._chunked else 0

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
            DigestMismatch: a chunk is not as expected; it is dropped, and what is before it stays.
            StorageFull: the disk is full; what was written before stays.
        """
        with self._lock:
            if self.held + len(data) > self._size:
                raise LimitExceeded(
                    f"received more bytes than the {self._size} announced for {self._digest}"
                )
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) or 0 :]
            except OSError as error:
                self._cut_back()
                raise disk_error(self._digest, error) from error
            if not self._hash.update(data):
                self._cut_back()
                raise DigestMismatch(
                    f"the received bytes do not match the artifact {self._digest}",
                    why=f"its chunk at byte {self.held} has another digest",
                    fix="Get it from another peer",
                    digest=self._digest,
                )
            return self.held

    def finish(self) -> bool:
        """Make the artifact whole if all of its bytes are there, and say whether they are.

        Raises:
            DigestMismatch: the bytes are not those that the digest names; they are removed.
            StorageFull: the disk is full.
        """
        if self.held < self._size:
            return False
        if self._hash.digest != self._digest:
            self.close()
            self._partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"the received bytes do not match the artifact {self._digest}",
                why=f"its digest is {self._hash.digest}",
                fix="Push it again; if this repeats, the sender's file has changed",
                digest=self._digest,
            )
        try:
            os.fsync(self._file.fileno())
            self.close()
            self._partial.replace(self._complete)
            sync_folder(self._complete.parent)
        except OSError as error:
            raise disk_error(self._digest, error) from error
        return True

    def close(self) -> None:
        """Let go of the file; what has arrived stays."""
        with self._lock:
            self._file.close()

    def _cut_back(self) -> None:
        """Drop what a failed write may have left, so that the file holds what the hash has seen."""
        try:
            self._file.truncate(self.held)
            self._file.seek(self.held)
        except OSError:
            self._partial.unlink(missing_ok=True)


def full(digest: str, why: str, **fields: object) -> StorageFull:
    """No room for an artifact, with what the operator can do."""
    return StorageFull(
        f"no room for the artifact {digest}",
        why=why,
        fix="Free disk space on the device, or serve fewer variants there",
        digest=digest,
        **fields,
    )


def disk_error(digest: str, error: OSError) -> TiermeshError:
    """What the disk said about an artifact, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return full(digest, error.strerror or "the disk is full")
    return TiermeshError(
        f"the disk refuses the artifact {digest}", why=error.strerror or str(error), digest=digest
    )
