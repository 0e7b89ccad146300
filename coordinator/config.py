"""Where the coordinator keeps things, unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``TIERMESH_HOME``, else ``~/.local/state/tiermesh``; artifacts lie here."""
    return Path(os.environ.get("TIERMESH_HOME") or "~/.local/state/tiermesh").expanduser()


def state_dir() -> Path:
    """The folder of the coordinator's journal."""
    return home() / "coordinator"
