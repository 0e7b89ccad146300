"""SHA-256 of a file, whole and chunk by chunk: what comes from anyone can be checked while it arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from tiermesh import limits

DIGEST_BYTES: Final = 32


class Hashing:
    """The digests of a file of `total` bytes, as they come.

    Chunks have `limits.ARTIFACT_CHUNK_BYTES`, but for the last. `expected` are their digests, one after the
    other, where they are known; `size` counts the bytes so far, `verified` those of whole chunks.
    """

    def __init__(self, total: int, expected: bytes = b"") -> None:
        self.size = 0
        self.verified = 0
        self._total = total
        self._expected = expected
        self._whole = hashlib.sha256()
        self._whole_verified = self._whole.copy()
        self._chunk = hashlib.sha256()
        self._found = bytearray()

    @property
    def digest(self) -> str:
        """The content address of all bytes so far."""
        return f"sha256:{self._whole.hexdigest()}"

    @property
    def chunk_digests(self) -> bytes:
        """The digests of the whole chunks so far, 32 bytes each."""
        return bytes(self._found)

    def update(self, data: bytes | memoryview) -> bool:
        """Take the next bytes, at most up to `total`.

        False where they end a chunk that is not as expected: all from `verified` on is forgotten then.
        """
        for part in cut(data, self.size):
            self._whole.update(part)
            self._chunk.update(part)
            self.size += len(part)
            if self._at_end_of_chunk and not self._finish_chunk():
                return False
        return True

    @property
    def _at_end_of_chunk(self) -> bool:
        return self.size % limits.ARTIFACT_CHUNK_BYTES == 0 or self.size == self._total

    def _finish_chunk(self) -> bool:
        found, self._chunk = self._chunk.digest(), hashlib.sha256()
        at = len(self._found)
        if self._expected and self._expected[at : at + DIGEST_BYTES] != found:
            self._whole = self._whole_verified.copy()
            self.size = self.verified
            return False
        self._found += found
        self._whole_verified = self._whole.copy()
        self.verified = self.size
        return True


def cut(data: bytes | memoryview, offset: int) -> Iterator[memoryview]:
    """`data`, which begins at byte `offset`, in parts that end where chunks do."""
    rest = memoryview(data)
    while rest:
        room = limits.ARTIFACT_CHUNK_BYTES - offset % limits.ARTIFACT_CHUNK_BYTES
        part, rest = rest[:room], rest[room:]
        offset += len(part)
        yield part


def count(size: int) -> int:
    """How many chunks `size` bytes have."""
    return -(-size // limits.ARTIFACT_CHUNK_BYTES)
