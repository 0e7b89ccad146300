"""Wall clocks that can be set while processes run, one for each device: `wallclock.c`, compiled and preloaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_CODE: Final = Path(__file__).with_name("wallclock.c")


def unavailable() -> str:
    """Why no clock can be set here; empty where clocks can be."""
    if sys.platform != "linux":
        return "clocks can be set for processes on Linux only"
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def library(folder: Path) -> Path:
    """Compile the library into a folder."""
    made = folder / "wallclock.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, str(made), str(_CODE), "-ldl"], check=True)
    return made


class WallClock:
    """The wall clock of all processes that are started in its environment; their monotonic clock is the machine's."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALLCLOCK_FILE": str(file)}

    def set(self, seconds: float) -> None:
        """Set it so many seconds off, at once."""
        # In place: the processes have the file mapped.
        with self._file.open("r+b", buffering=0) as file:
            file.write(round(seconds * 1e9).to_bytes(8, sys.byteorder, signed=True))
