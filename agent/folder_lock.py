"""A lock on a state folder: one process at a time. The system releases it when its process ends, however that ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import IO, Final

log = logging.getLogger(__name__)

_BEYOND: Final = 2**20
"""Windows keeps others from reading what is locked, so a byte is locked that the file does not have."""


def try_lock(file: IO[str]) -> bool:
    """Lock an open file; False where another process holds it. Closing the file releases it.

    Without a lock that this Python knows, everyone gets it, and the log says so.
    """
    return _way()(file)


def _way() -> Callable[[IO[str]], bool]:
    for way in (_posix, _windows):
        try:
            return way()
        except ImportError:
            continue
    return _none


def _posix() -> Callable[[IO[str]], bool]:
    import fcntl

    def lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return lock


def _windows() -> Callable[[IO[str]], bool]:
    import msvcrt

    locking = getattr(msvcrt, "locking")  # noqa: B009 - type checkers look at one system at a time
    non_blocking = getattr(msvcrt, "LK_NBLCK")  # noqa: B009

    def lock(file: IO[str]) -> bool:
        file.seek(_BEYOND)
        try:
            locking(file.fileno(), non_blocking, 1)
        except OSError:
            return False
        return True

    return lock


def _none(file: IO[str]) -> bool:
    log.warning("this system has no file locks: start no second agent with %s", file.name)
    return True
