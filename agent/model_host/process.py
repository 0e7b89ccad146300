"""What a process that runs stage code does to and reads of itself: its end, its memory, how much a decoder may make."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

from agent.host_facts import host_facts
from tiermesh import limits

_PR_SET_PDEATHSIG: Final = 1
_OOM_SCORE: Final = 500
"""Of -1000 to 1000: whom the kernel kills first where memory runs out. The agent must not be it."""
_SHARE_OF_MEMORY: Final = 0.8


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Only Linux can. Elsewhere a measurement goes on to its end, which its time limit bounds, and nobody reads it.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def confine(memory_bytes: int) -> None:
    """Let this process, and each that it starts, take at most 80 % of a device's memory; 0: no limit.

    What asks for more gets a MemoryError, which ends a request in an error, rather than the device without memory.
    Model files that are mapped do not count.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    try:
        import resource
    except ImportError:  # Windows
        return
    if memory_bytes > 0:
        limit = int(_SHARE_OF_MEMORY * memory_bytes)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (least, hard))


def bound_decoders() -> None:
    """Let OpenCV refuse pictures of more than `limits.PICTURE_PIXELS`: a file of 100 kB may claim 900 megapixels.

    It reads that when it is loaded, so this comes before any stage code. What the operator set stays.
    """
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(limits.PICTURE_PIXELS))


def forget_peak() -> int:
    """Begin a new peak of resident memory, where the kernel can; the resident bytes now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def resident_bytes() -> int:
    """The memory that is resident now; 0 where it cannot be told."""
    return _status_bytes("VmRSS:") or host_facts().resident_bytes()


def peak_bytes() -> int:
    """The most memory that was resident: since `forget_peak` on Linux, since the start elsewhere."""
    return _status_bytes("VmHWM:") or _peak_of_all() or resident_bytes()


def _peak_of_all() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
