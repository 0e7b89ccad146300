"""Files that survive a loss of power: replaced whole or not at all, and their names with them."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` into a file, whole or not at all; OSError leaves what was there."""
    draft = path.with_suffix(".new")
    try:
        draft.touch(mode=mode)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: a file that was renamed is found again after a loss of power.

    Windows opens no folders, and its file system keeps names in a journal of its own.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
