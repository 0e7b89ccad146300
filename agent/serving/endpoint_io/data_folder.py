"""The data folder of a device: the only files that sources may read and sinks may write."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from tiermesh import arrival_times, limits
from tiermesh.documents.workflow import is_path_inside
from tiermesh.errors import LimitExceeded, TiermeshError


class DataFolder:
    """Paths are relative to the folder and stay inside it, links included."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def path(self, name: str) -> Path:
        """Where a file of that name is, or would be.

        Raises:
            TiermeshError: it lies, or links, outside the folder, or links in a loop, or is no path.
        """
        # Resolving follows every link, so what is compared is where the file really is.
        real = self._resolved(name)
        if not is_path_inside(name) or not real.is_relative_to(self._root):
            raise TiermeshError(
                f"{name} is outside the data folder of this device",
                why="sources and sinks may only use files in there",
                fix="Put the files there, or start the agent with another --data",
            )
        return real

    def _resolved(self, name: str) -> Path:
        try:
            real = (self._root / name).resolve()
            # Where the last link is one of a loop, some Python versions resolve it without a word.
            if real.is_symlink():
                raise TiermeshError(f"{name} cannot be followed", why=_LOOP)
        except RuntimeError:
            raise TiermeshError(f"{name} cannot be followed", why=_LOOP) from None
        except (OSError, ValueError) as error:
            why = _LOOP if getattr(error, "errno", None) == errno.ELOOP else _reason(error)
            raise TiermeshError(f"{name[:_SHOWN]} is not a path", why=why) from None
        return real

    def files(self, names: str | Iterable[str]) -> list[str]:
        """The files that a source offers: those named, and those in the folders named, by name.

        Raises:
            TiermeshError: a name is outside, or nothing of that name is there.
        """
        found: list[str] = []
        for name in [names] if isinstance(names, str) else names:
            path = self.path(name)
            if path.is_dir():
                found += sorted(
                    str(Path(name) / entry.name)
                    for entry in path.iterdir()
                    if entry.is_file() and not entry.name.startswith(".")
                )
            elif path.is_file():
                found.append(name)
            else:
                raise TiermeshError(
                    f"there is no {name} in the data folder of this device",
                    why=f"the folder is {self._root}",
                )
        return found

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            LimitExceeded: it does not fit into a frame. TiermeshError: it cannot be read.
        """
        try:
            with self.open(name) as file:
                data = file.read(limits.FRAME_BYTES + 1)
        except OSError as error:
            raise TiermeshError(f"cannot read {name}", why=error.strerror or str(error)) from None
        if len(data) > limits.FRAME_BYTES - _PAYLOAD_ROOM:
            raise LimitExceeded(
                f"{name} does not fit into a frame", why=f"the limit is {limits.FRAME_BYTES} bytes"
            )
        return data

    def times(self, name: str) -> list[float]:
        """A trace of arrivals: in order, in seconds from its first one on.

        Raises:
            InvalidDocument, LimitExceeded: see `tiermesh.arrival_times.read`. TiermeshError: it cannot be read.
        """
        return arrival_times.read(self.read(name), name)

    def open(self, name: str) -> BinaryIO:
        """A file, to be read.

        Raises:
            TiermeshError: it lies, or links, outside the folder. OSError: it cannot be opened.
        """
        # NOFOLLOW: what was resolved a moment ago must not have become a link since.
        return os.fdopen(os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


_PAYLOAD_ROOM: Final = 64 * 2**10
_SHOWN: Final = 80
_LOOP: Final = "its links lead round in a loop"
