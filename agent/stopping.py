"""How a process is told to stop: by a signal, or by the end of its standard input."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_BYTES: Final = 4096


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` at SIGINT or SIGTERM, from the running event loop."""
    loop = asyncio.get_running_loop()
    for name in SIGNALS:
        try:
            loop.add_signal_handler(name, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(name, _from_any_thread(loop, stop))


def _from_any_thread(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event
) -> Callable[[int, FrameType | None], object]:
    return lambda _number, _frame: loop.call_soon_threadsafe(stop.set)


def stop_with_stdin(stop: asyncio.Event) -> None:
    """Set `stop` when standard input closes, from the running event loop."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    try:
        loop.add_reader(stdin, lambda: os.read(stdin, _BYTES) or stop.set())
    except (
        NotImplementedError,
        PermissionError,
    ):  # Windows, or a file: only a thread can wait for these

        def wait() -> None:
            while os.read(stdin, _BYTES):
                pass
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, name="standard input", daemon=True).start()
