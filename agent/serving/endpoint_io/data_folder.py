"""The data folder of a device: the only files that sources may read and sinks may write."""

from __future__ import annotations

import errno
import os
import re
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
            raise TiermeshError(
                f"{name[:_SHOWN]} is not a path that can be followed", why=why
            ) from None
        return real

    def files(self, names: str | Iterable[str]) -> list[str]:
        r"""The files that a source offers: those named, and those in the folders named, by name.

        Bytes of a name that are not UTF-8 are written as ``\xe9``: no frame and no document could hold them.

        Raises:
            TiermeshError: a name is outside, nothing of that name is there, or a folder cannot be read.
        """
        found: list[str] = []
        for name in [names] if isinstance(names, str) else names:
            path = self.path(name)
            if path.is_dir():
                found += self._files_in(name, path)
            elif path.is_file():
                found.append(name)
            else:
                raise TiermeshError(
                    f"there is no {name} in the data folder of this device",
                    why=f"the folder is {self._root}",
                )
        return found

    def _files_in(self, name: str, folder: Path) -> list[str]:
        try:
            return sorted(
                str(Path(name) / os.fsencode(entry.name).decode("utf-8", "backslashreplace"))
                for entry in folder.iterdir()
                if entry.is_file() and not entry.name.startswith(".")
            )
        except OSError as error:
            raise TiermeshError(f"cannot read the folder {name}", why=_reason(error)) from None

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            LimitExceeded: it does not fit into a frame. TiermeshError: it cannot be read.
        """
        try:
            with self.open(name) as file:
                data = file.read(limits.FRAME_BYTES + 1)
        except OSError as error:
            raise self._unread(name, error) from None
        if len(data) > limits.FRAME_BYTES - _PAYLOAD_ROOM:
            raise LimitExceeded(
                f"{name} does not fit into a frame", why=f"the limit is {limits.FRAME_BYTES} bytes"
            )
        return data

    def _unread(self, name: str, error: OSError) -> TiermeshError:
        """What to say of a file that cannot be opened: that its name is not UTF-8, if that is why."""
        written = _ESCAPED.sub(lambda byte: bytes([int(byte[1], 16)]), name.encode())
        if written != name.encode() and os.path.lexists(os.fsencode(self._root) + b"/" + written):
            return TiermeshError(
                f"cannot read {name}", why="its name is not UTF-8", fix="Rename the file"
            )
        return TiermeshError(f"cannot read {name}", why=_reason(error))

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
_ESCAPED: Final = re.compile(rb"\\x([89a-f][0-9a-f])")
"""A byte that is not UTF-8, as `DataFolder.files` writes it."""
_LOOP: Final = "its links lead round in a loop"
