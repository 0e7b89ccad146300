"""The disk that artifacts go to."""

from __future__ import annotations

import shutil
from pathlib import Path


def total_bytes(folder: Path) -> int:
    """The size of the file system that holds `folder`, which need not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).total
