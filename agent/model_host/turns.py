"""Emulated devices of one host take turns on its cores, so that none of them slows another.

Two real devices do not share caches and memory; two emulated ones on one machine do, and each takes up to 1.6 times
as long while another computes. So what an emulated device computes, it computes under a lock of the host, one of half
as many as the host has cores: what is left is for everything else. The kernel frees the lock of a process that ends.
A process that was stopped keeps it, so nobody waits for long.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

LONGEST_S: Final = 0.25
"""A turn is waited for so long at most; batches take less, as a rule."""
WITHOUT_S: Final = 5.0
"""Whoever did not get a turn in time goes without for so long: its holder may be stopped."""
_LOOK_S: Final = 0.0005


class Turns:
    """The locks of this host, for one user's agents. Without `fcntl`, or a folder for them, everyone goes at once."""

    def __init__(
        self,
        folder: Path | None = None,
        slots: int | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._folder = folder or _folder()
        self._slots = slots or max((os.cpu_count() or 1) // 2, 1)
        self._clock = clock
        self._wait = wait or threading.Event().wait
        self._files: list[int] | None = None
        self._opening = threading.Lock()
        self._without_until = -1.0

    @contextlib.contextmanager
    def turn(self) -> Generator[None]:
        """Hold one of the locks for the block; after `LONGEST_S`, run it without one."""
        held = self._take()
        try:
            yield
        finally:
            if held is not None:
                _unlock(held)

    def _take(self) -> int | None:
        asked = self._clock()
        files = self._opened()
        if not files or asked < self._without_until:
            return None
        while (held := next((f for f in files if _lock(f)), None)) is None:
            if self._clock() - asked > LONGEST_S:
                self._without_until = self._clock() + WITHOUT_S
                return None
            self._wait(_LOOK_S)
        return held

    def _opened(self) -> list[int]:
        with self._opening:
            if self._files is None:
                self._files = _open(self._folder, self._slots)
            return self._files


def _folder() -> Path:
    """Where this user's locks are; only he may write there."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"tiermesh-turns-{user}"


def _open(folder: Path, slots: int) -> list[int]:
    flags = os.O_RDWR | os.O_CREAT
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            return []
        return [os.open(folder / f"core-{slot}", flags, 0o600) for slot in range(slots)]
    except OSError:
        return []


def _lock(file: int) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _unlock(file: int) -> None:
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
