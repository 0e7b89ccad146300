"""Where both processes keep things, and who runs them: as far as the environment tells."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Final

from tiermesh.errors import TiermeshError

HOME_VARIABLE: Final = "TIERMESH_HOME"
_DEFAULT: Final = "~/.local/state/tiermesh"


def expanded(path: str) -> Path:
    """A path with its ``~``.

    Raises:
        TiermeshError: nobody can tell whose home that is: HOME is not set, and the user id has no name here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise TiermeshError(
            f"cannot tell which folder {path} is",
            why=f"HOME is not set, and user id {os.getuid()} has no home folder here",
            fix=f"Name a folder with --state DIR, or set {HOME_VARIABLE}",
        ) from None


def home() -> Path:
    """``TIERMESH_HOME``, else ``~/.local/state/tiermesh``.

    Raises:
        TiermeshError: see `expanded`.
    """
    return expanded(os.environ.get(HOME_VARIABLE) or _DEFAULT)


def home_text() -> str:
    """The same for people, also where it cannot be told: help must be printed anywhere."""
    try:
        return str(home())
    except TiermeshError:
        return f"${HOME_VARIABLE}"


def user_name() -> str:
    """Who runs this process; the user id where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
