"""How long a thread was ready to run and had no processor: the run delay that Linux counts (proc_pid_schedstat(5))."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_FILE: Final = "thread-self/schedstat"
_BYTES: Final = 128
_NANOSECONDS: Final = 1e9


class _Account(threading.local):
    """The kernel's account of the calling thread, kept open since it is read around each batch; -1: there is none."""

    def __init__(self) -> None:
        self.file = -1
        with suppress(OSError):
            self.file = os.open(PROC / _FILE, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.file >= 0:
            with suppress(OSError):
                os.close(self.file)


_ACCOUNT: Final = _Account()


def run_delay_s(proc: Path = PROC) -> float | None:
    """Seconds that the calling thread has waited for a processor since it began; None where that is not counted.

    `proc` is where another process file system is recorded.
    """
    try:
        if proc is PROC:
            if _ACCOUNT.file < 0:
                return None
            text = os.pread(_ACCOUNT.file, _BYTES, 0)
        else:
            text = (proc / _FILE).read_bytes()
        _on_cpu, delay, _slices = text.split()
        return int(delay) / _NANOSECONDS
    except (OSError, ValueError):
        return None
