"""A variant's files under their own names while a runtime loads them.

The store names files by digest, and a model in several files names the others itself (ONNX: external data).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tiermesh.errors import Unsupported

_LFS: Final = b"version https://git-lfs.github.com/spec"


@contextmanager
def named(files: Mapping[str, Path]) -> Generator[dict[str, Path]]:
    """The files side by side in a folder, each under its own name; a single file stays where it is.

    They are the same files (hard links), since runtimes refuse data that links lead to from elsewhere; copies where
    the disk has no such links. What is mapped or open stays usable when the folder goes.

    Raises:
        Unsupported: a name leads out of the folder, or a file is a pointer of Git LFS.
    """
    for name, path in files.items():
        _check(name, path)
    if len(files) <= 1:
        yield dict(files)
        return
    with _folder(next(iter(files.values()))) as folder:
        yield {name: _linked(path, folder / name) for name, path in files.items()}


def _check(name: str, path: Path) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise Unsupported(f"the variant has a file of the name {name!r}", why="it leads elsewhere")
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise Unsupported(
                f"{name} is not a model",
                why="it is a pointer of Git LFS: the file itself was never fetched",
                fix="Run `git lfs pull` where the file comes from, and offer it again",
            )


@contextmanager
def _folder(beside: Path) -> Generator[Path]:
    """A folder on the disk of a file, where that can be had, since hard links stay on one disk."""
    try:
        made = tempfile.mkdtemp(prefix=".loading-", dir=beside.parent.parent)
    except OSError:
        made = tempfile.mkdtemp(prefix="tiermesh-loading-")
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _linked(path: Path, at: Path) -> Path:
    try:
        os.link(path, at)
    except OSError:
        shutil.copyfile(path, at)
    return at
