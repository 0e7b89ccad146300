"""Where the coordinator keeps things, unless it is told otherwise."""

from __future__ import annotations

from pathlib import Path

from tiermesh import folders
from tiermesh.errors import TiermeshError


def home() -> Path:
    """``TIERMESH_HOME``, else ``~/.local/state/tiermesh``; artifacts lie here."""
    return folders.home()


def home_beside(state: Path | None) -> Path:
    """`home`; where nobody can tell it, the state folder that was given."""
    try:
        return home()
    except TiermeshError:
        if state is None:
            raise
        return state


def state_dir() -> Path:
    """The folder of the coordinator's journal."""
    return home() / "coordinator"
